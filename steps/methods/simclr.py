"""SimCLR: a simple framework for contrastive learning of visual representations
(arXiv:2002.05709).

Two views of each image attract each other, and repel all other views of the batch. With
z = h / |h| the normalised projections of the 2N views of N images, p(i) the other view of the
image of view i, and tau the temperature:

    l_i  = -log( exp(z_i z_p(i) / tau) / sum_{j != i} exp(z_i z_j / tau) )     (eq. 1)
    loss = (1 / N) sum_i l_i

The candidates j are all views of the global batch, and the gradient goes through every one. As in
the reference, and unlike in algorithm 1, the sum over all 2N views is divided by N, so the loss is
twice their mean.

Published: ResNet-50, batch 4096, lr 0.3 * batch / 256 (LARS), 1000 epochs of ImageNet-1K: linear
probe 69.3 % (table 6). ViT-B, 300 epochs, as trained by MoCo v3 (arXiv:2104.02057, table 4):
73.9 %. Held to google-research/simclr by the golden case ``simclr``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.distributed import gather, rank
from steps.core.schedules import Progress
from steps.methods.method import Batch, BatchCoupledMethod, Draws, Encoded, Losses, MethodContext
from steps.models.backbones import BackboneModel
from steps.models.features import global_feature
from steps.models.heads import mlp
from steps.params.methods.simclr import SimCLRParams

_NORM_EPS = 1e-6
"""The smallest length that embeddings are divided by: the root of the reference's 1e-12."""


class SimCLR(BatchCoupledMethod):
    """Contrastive learning from two views that are made alike."""

    def __init__(
        self, params: SimCLRParams, backbone: BackboneModel, context: MethodContext
    ) -> None:
        super().__init__()
        self.params = params
        self.backbone = backbone
        width, shape = backbone.num_features, params.projector
        self.projector = mlp(
            width, shape.hidden_dim or width, shape.out_dim, shape.layers, last_norm="scale"
        )
        for layer in self.projector:
            if isinstance(layer, nn.Linear):
                # The reference's initial values.
                nn.init.normal_(layer.weight, std=0.01)

    def encode(self, batch: Batch, draws: Draws, progress: Progress) -> Encoded:
        """The features (B, D) of each of the two views."""
        first, second = global_feature(self.backbone, torch.cat(batch.views)).chunk(2)
        return {"first": first, "second": second}

    def losses(self, encoded: Encoded, draws: Draws, progress: Progress) -> Losses:
        # One pass for both views: batch norm sees all of them together, as in the reference.
        hidden = self.projector(torch.cat([encoded["first"], encoded["second"]]))
        first, second = compared(hidden, normalise=self.params.normalise).chunk(2)
        loss, logits_ab = nt_xent(first, second, self.params.temperature)
        hits = logits_ab.argmax(dim=1) == own_columns(logits_ab)
        return {"loss": loss, "contrast_accuracy": hits.float().mean()}

    def chance(self, batch: int) -> dict[str, float]:
        """2 log(2N - 1): each view has 2N - 1 candidates, and the loss is twice their mean."""
        return {"loss": 2 * math.log(2 * batch - 1)}

    def embeddings(self, batch: Batch) -> Tensor:
        """The features of the first view."""
        return global_feature(self.backbone, batch.views[0])

    def export_backbone(self) -> BackboneModel:
        """The backbone; the projector is thrown away (section 4.2)."""
        return self.backbone


def compared(hidden: Tensor, *, normalise: bool) -> Tensor:
    """Embeddings that the loss compares: (..., D) float32, on the unit sphere if ``normalise``."""
    hidden = hidden.float()
    return F.normalize(hidden, dim=-1, eps=_NORM_EPS) if normalise else hidden


def own_columns(logits: Tensor) -> Tensor:
    """Column of each of this process's images (N,) in logits (N, W * N) of all processes."""
    rows = len(logits)
    return torch.arange(rows, device=logits.device) + rank() * rows


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The normalised temperature-scaled cross entropy.

    Args:
        first: embeddings (N, D) of the first view of this process's images.
        second: of their second view.
        temperature: tau.

    Returns:
        The loss over this process's views as anchors, and the logits (N, W * N) of their first
        views against the second views of all W processes.
    """
    all_first, all_second = gather(first), gather(second)
    # In bfloat16 a cosine near 1 is rounded to 0.004, and a logit to ten times that.
    with torch.autocast(first.device.type, enabled=False):
        logits_aa, logits_ab = (first @ every.T / temperature for every in (all_first, all_second))
        logits_bb, logits_ba = (second @ every.T / temperature for every in (all_second, all_first))
    own = own_columns(logits_ab)
    itself = F.one_hot(own, logits_ab.shape[1]).bool()
    # A view is no candidate of its own.
    logits_aa = logits_aa.masked_fill(itself, float("-inf"))
    logits_bb = logits_bb.masked_fill(itself, float("-inf"))
    loss_a = F.cross_entropy(torch.cat([logits_ab, logits_aa], dim=1), own)
    loss_b = F.cross_entropy(torch.cat([logits_ba, logits_bb], dim=1), own)
    return loss_a + loss_b, logits_ab
