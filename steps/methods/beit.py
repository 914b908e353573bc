"""BEiT: BERT pre-training of image transformers (arXiv:2106.08254).

A fixed tokenizer gives each patch one of V visual tokens. Blocks of patches give way to one
learnt vector, all positions go through the encoder, and it predicts the tokens of the hidden ones:

    loss = -sum_p m_p log softmax(W h_p + b)[token_p] / sum_p m_p         (equation 2)

over the patches of all samples together, with m_p = 1 for hidden patches and h the encoder's
output. Patches and tokens come from two images of one crop, each of its own size.

Published: ViT-B, 800 epochs of ImageNet-1K at batch 2048, lr 1.5e-3: fine-tune 83.2 %; ViT-L
85.2 % (table 1). Held to microsoft/unilm by the golden cases ``beit`` and ``beit_masking``.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from timm.models.beit import Beit
from torch import Tensor, nn

from steps.core.schedules import Progress
from steps.methods.losses import token_prediction
from steps.methods.method import (
    Batch,
    Draws,
    Losses,
    Method,
    MethodContext,
    besides_backbone,
    check_fit,
)
from steps.models import drop_path
from steps.models.beit import cut_normal, initialise, initialise_backbone
from steps.models.masks import block_generator, mean_hidden, sample_blocks
from steps.models.tokens import embed, encode
from steps.params.methods.beit import BEiTParams


class BEiT(Method):
    """Masked image modelling over visual tokens."""

    exact_masks = False
    """True if single patches fill up masks whose blocks hide too few."""

    def __init__(self, params: BEiTParams, backbone: Beit, context: MethodContext) -> None:
        super().__init__()
        assert context.tokenizer is not None
        check_fit(params, backbone.patch_embed.num_patches, len(backbone.blocks))
        self.params = params
        self.masks = block_generator(
            params.masks, backbone.patch_embed.grid_size, exact=self.exact_masks
        )
        self.tokenizer = context.tokenizer
        self.backbone = backbone
        self.mask_token = nn.Parameter(torch.zeros(1, 1, backbone.embed_dim))
        self.lm_head = nn.Linear(backbone.embed_dim, self.tokenizer.vocab_size)
        # Output layer and mask token are drawn as the blocks are, with one deviation for all.
        initialise_backbone(backbone, params.backbone.init_std)
        initialise(self.lm_head, params.backbone.init_std)
        cut_normal(self.mask_token, params.backbone.init_std)
        drop_path.install(backbone, params.drop_path)

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """Masks, the mean number of hidden patches, and drop path."""
        mask = sample_blocks(self.masks, batch, generator)
        draws = {"mask": mask, "hidden": mean_hidden(mask)}
        if self.params.drop_path:
            draws["keep"] = drop_path.sample(self.backbone, batch, generator)
        return draws

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        images, token_images = batch.views
        mask = draws["mask"]
        # Tokens of hidden patches only: the others have no loss.
        labels = self.tokenizer.tokens(token_images)[mask]
        # Without the class token, which stands for no patch.
        logits = self.lm_head(self.features(images, mask, draws.get("keep"))[:, 1:][mask])
        loss, accuracy = token_prediction(logits, labels, draws["hidden"])
        return {"loss": loss, "token_accuracy": accuracy}

    def features(self, images: Tensor, mask_BN: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normed class and patch tokens: (B, 1 + N, D)."""
        tokens = embed(self.backbone, images, mask_BN, self.mask_token)
        return cast(Tensor, self.backbone.norm(encode(self.backbone, tokens, keep)))

    def chance(self, batch: int) -> dict[str, float]:
        """log V, of V visual tokens."""
        return {"loss": math.log(self.tokenizer.vocab_size)}

    def export_backbone(self) -> Beit:
        """The encoder."""
        return self.backbone

    def heads(self) -> dict[str, Tensor]:
        """The mask token and the output layer, for pictures."""
        return besides_backbone(self)
