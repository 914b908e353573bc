"""MAE: masked autoencoders are scalable vision learners (arXiv:2111.06377).

An encoder sees a random quarter of the patches, a narrow decoder predicts the pixels of the rest:

    loss = sum_p m_p * mean_j (y_pj - t_pj)^2 / sum_p m_p         (section 3)

with m_p = 1 for removed patches, y the decoder's prediction and t the pixels, normalised by mean
and standard deviation of their own patch where ``norm_pix_loss`` is on.

Published: ViT-B, 1600 epochs of ImageNet-1K at batch 4096, lr 1.5e-4 * batch / 256: fine-tune
83.6 %, linear probe 68.0 % (tables 1 and 3). Held to facebookresearch/mae by the golden case
``mae``.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from steps.core.schedules import Progress
from steps.methods.losses import pixel_error
from steps.methods.method import Batch, Draws, Losses, Method, MethodContext, besides_backbone
from steps.models.masked_autoencoder import PixelDecoder, initialise, pixel_targets
from steps.models.masks import Masking, gather_tokens, num_visible, random_masking
from steps.models.positions import sincos_table
from steps.models.tokens import encode, patch_tokens
from steps.params.methods.mae import MAEParams


class MAE(Method):
    """The masked autoencoder."""

    def __init__(
        self, params: MAEParams, backbone: VisionTransformer, context: MethodContext
    ) -> None:
        super().__init__()
        self.params = params
        self.backbone = backbone
        self.patch_size: int = backbone.patch_embed.patch_size[0]
        self.channels: int = backbone.patch_embed.proj.in_channels
        self.patches: int = backbone.patch_embed.num_patches
        self.visible = num_visible(self.patches, params.mask_ratio, least=1)
        grid: int = backbone.patch_embed.grid_size[0]
        self.decoder = PixelDecoder(
            params.decoder, backbone.embed_dim, grid, self.channels * self.patch_size**2
        )
        # Fixed sin-cos positions, as in the reference.
        backbone.pos_embed.requires_grad_(False)
        backbone.pos_embed.data.copy_(sincos_table(backbone.embed_dim, grid))
        initialise(self, backbone, [backbone.cls_token, self.decoder.mask_token])

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """One uniform number per patch; patches with the smallest stay visible."""
        return {"noise": torch.rand(batch, self.patches, generator=generator)}

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        (images,) = batch.views
        latent, masking = self.encode(images, draws["noise"])
        # Only hidden patches are predicted in the last block: the loss reads no others.
        prediction = self.decoder(latent, masking.restore, masking.removed)
        return {"loss": pixel_error(prediction, self.targets(images), masking.removed).mean()}

    def export_backbone(self) -> VisionTransformer:
        """The encoder."""
        return self.backbone

    def heads(self) -> dict[str, Tensor]:
        """The decoder, for pictures."""
        return besides_backbone(self)

    def encode(self, images: Tensor, noise_BN: Tensor) -> tuple[Tensor, Masking]:
        """Encode only the visible patches.

        Returns:
            (B, 1 + K, D), class token first, then the kept patches by rising noise; and which
            those are.
        """
        vit = self.backbone
        masking = random_masking(noise_BN, self.params.mask_ratio)
        # Positions come before masking: a visible patch keeps its own.
        visible = gather_tokens(patch_tokens(vit, images) + vit.pos_embed[:, 1:], masking.keep)
        cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
        return vit.norm(encode(vit, torch.cat([cls, visible], dim=1))), masking

    def targets(self, images: Tensor) -> Tensor:
        """Targets of the decoder: (B, N, patch^2 * C)."""
        return pixel_targets(images, self.patch_size, normalised=self.params.norm_pix_loss)
