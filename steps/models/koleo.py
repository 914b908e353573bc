"""The KoLeo regulariser: features spread evenly over the sphere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from steps.engine.distributed import gather, rank

_EPS = 1e-8


def koleo(features_BD: Tensor) -> Tensor:
    """-mean_i log(|x_i - x_nn(i)| + eps) over l2-normalised features (arXiv:1806.03198, eq. 2).

    nn(i) is the nearest other feature of the global batch; its choice takes no gradient, but its
    vector does. DINOv2's reference looks within a process's own features; over all processes the
    loss does not depend on how many there are.

    Args:
        features_BD: this process's, (B, D), two or more over all processes.

    Returns:
        A scalar, the mean over this process's features.
    """
    own = F.normalize(features_BD.float(), dim=-1, eps=_EPS)
    everyone = gather(own)
    # In bfloat16 the nearest of close features is another one more often than not.
    with torch.no_grad(), torch.autocast(own.device.type, enabled=False):
        similarity = own @ everyone.T
        places = torch.arange(len(own), device=own.device)
        similarity[places, places + rank() * len(own)] = -1
        nearest = similarity.argmax(dim=1)
    # The small number is added to the difference, not to its length, as the reference does.
    distance = F.pairwise_distance(own, everyone.index_select(0, nearest), eps=_EPS)
    return -(distance + _EPS).log().mean()
