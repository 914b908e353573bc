"""MoCo v3: an empirical study of training self-supervised vision transformers (arXiv:2104.02057).

Queries q of an encoder with a predictor, keys k of the encoder's moving average, of two views 1
and 2 of each image; rows are l2-normalised, negatives are the keys of all other images:

    L(q, k) = -2 tau log( exp(q k+ / tau) / sum_j exp(q k_j / tau) )       (eq. 1, algorithm 1)
    loss    = L(q1, k2) + L(q2, k1)

Of a vision transformer, the patch projection stays at its random initial values, which makes
training stable (section 4), and positions are the fixed sine-cosine table.

Published: 300 epochs of ImageNet-1K at batch 4096, AdamW, lr 1.5e-4 * batch / 256: ViT-S 73.2 %,
ViT-B 76.7 % linear probe (official repository), ViT-L 77.6 % (section 6.3). Held to
facebookresearch/moco-v3 by the golden cases ``mocov3`` and ``mocov3_lars``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from steps.core.schedules import Progress
from steps.methods.losses import momentum_contrast
from steps.methods.method import Batch, BatchCoupledMethod, Draws, Encoded, Losses, MethodContext
from steps.models.backbones import BackboneModel, Transformer, is_resnet
from steps.models.ema import MomentumPair
from steps.models.features import global_feature
from steps.models.positions import sincos_table
from steps.params.methods.mocov3 import MoCoV3Params


class MoCoV3(BatchCoupledMethod):
    """Momentum contrast with a predictor and a symmetric loss.

    Args:
        params: of the method.
        backbone: its initial values become the reference's, if it is a vision transformer.
    """

    def __init__(
        self, params: MoCoV3Params, backbone: BackboneModel, context: MethodContext
    ) -> None:
        super().__init__()
        self.params = params
        if not is_resnet(backbone):
            _prepare(backbone, params.frozen_patch_embed)
        self.pair = MomentumPair(backbone, params)

    def before_step(self, progress: Progress) -> None:
        """Move the momentum encoder, ahead of the keys of the same step: it averages the weights
        from before this step's update, as in algorithm 1.
        """
        self.pair.update(progress)

    def encode(self, batch: Batch, draws: Draws, progress: Progress) -> Encoded:
        """Features (B, D) of each view, by the encoder (q1, q2) and its average (k1, k2)."""
        # Each view is a pass of its own: a backbone with batch norm sees them apart.
        q1, q2 = (global_feature(self.pair.encoder.backbone, view) for view in batch.views)
        with torch.no_grad():
            momentum_backbone = self.pair.momentum_encoder.backbone
            k1, k2 = (global_feature(momentum_backbone, view) for view in batch.views)
        return {"q1": q1, "q2": q2, "k1": k1, "k2": k2}

    def losses(self, encoded: Encoded, draws: Draws, progress: Progress) -> Losses:
        q1, q2 = self.pair.queries(encoded["q1"]), self.pair.queries(encoded["q2"])
        k1, k2 = self.pair.keys(encoded["k1"]), self.pair.keys(encoded["k2"])
        tau = self.params.temperature
        # Each view asks for the other: the loss is symmetric (section 3).
        return {"loss": momentum_contrast(q1, k2, tau) + momentum_contrast(q2, k1, tau)}

    def after_step(self, progress: Progress) -> dict[str, float]:
        return {"momentum": self.pair.momentum(progress)}

    def chance(self, batch: int) -> dict[str, float]:
        """4 tau log N: two contrasts with N candidates each."""
        return {"loss": 4 * self.params.temperature * math.log(batch)}

    def embeddings(self, batch: Batch) -> Tensor:
        """Features (B, D) of the first view, by the encoder that learns."""
        return global_feature(self.pair.encoder.backbone, batch.views[0])

    def export_backbone(self) -> BackboneModel:
        """The backbone that learns, not its average (as the reference probes it)."""
        return self.pair.encoder.backbone


def _prepare(vit: Transformer, frozen_patch_embed: bool) -> None:
    """Fixed positions, and the reference's initial values: each of query, key and value is a
    layer of its own to Xavier's rule, and the patch projection is one over the pixels of a patch.
    """
    grid: int = vit.patch_embed.grid_size[0]
    table = sincos_table(vit.embed_dim, grid, vit.num_prefix_tokens, first="row")
    vit.pos_embed.data.copy_(table)
    vit.pos_embed.requires_grad_(False)
    for name, module in vit.blocks.named_modules():
        if isinstance(module, nn.Linear):
            # A fused qkv layer counts as three: Xavier's bound depends on the rows.
            for weight in module.weight.data.chunk(3 if name.endswith("qkv") else 1):
                nn.init.xavier_uniform_(weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection = vit.patch_embed.proj
    bound = math.sqrt(6 / (projection.weight[0].numel() + vit.embed_dim))
    nn.init.uniform_(projection.weight, -bound, bound)
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    nn.init.normal_(vit.cls_token, std=1e-6)
    # A random, fixed patch projection makes training stable (section 4.2).
    vit.patch_embed.requires_grad_(not frozen_patch_embed)
