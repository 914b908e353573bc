"""Parts of a training set, of its images or its labels: the same ones for every method.

Apart from shards, which are written without torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steps.core.seeds import generator


def labelled_rows(labels: Tensor, share: float, seed: int) -> Tensor:
    """Rows of a share of each class, at least one, as 1 % and 10 % of ImageNet are drawn.

    They only depend on the labels and the seed. A smaller share's are among a larger one's.

    Args:
        labels: (N,) int64, the classes.
        share: of each class's images, above 0 and at most 1.
        seed: of the draw.

    Returns:
        (K,) int64, ascending.
    """
    draw = generator(seed, "labelled rows")
    rows = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        count = max(round(share * len(members)), 1)
        rows.append(members[torch.randperm(len(members), generator=draw)[:count]])
    return torch.cat(rows).sort().values


def training_rows(images: int, share: float, seed: int) -> Tensor:
    """Rows of a share of a training set, at least one, drawn without a look at its labels.

    They only depend on the arguments. A smaller share's are among a larger one's.

    Args:
        images: N, of the whole set.
        share: of them, above 0 and at most 1.
        seed: of the draw.

    Returns:
        (K,) int64, ascending.
    """
    order = torch.randperm(images, generator=generator(seed, "training rows"))
    return order[: max(round(share * images), 1)].sort().values
