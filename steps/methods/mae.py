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

import functools

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from steps.engine.schedules import Progress
from steps.methods.method import Batch, Draws, Losses, Method
from steps.models.positions import sincos_table
from steps.models.tokens import encode, patch_tokens
from steps.params.methods.mae import MAEDecoder, MAEParams

_norm = functools.partial(nn.LayerNorm, eps=1e-6)


class Decoder(nn.Module):
    """A transformer over all places: encoded tokens where there are any, else the mask token."""

    def __init__(self, params: MAEDecoder, encoder_dim: int, grid: int, patch_values: int) -> None:
        super().__init__()
        dim = params.embed_dim
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos_table(dim, grid), requires_grad=False)
        self.blocks = nn.ModuleList(
            Block(dim, params.num_heads, qkv_bias=True, norm_layer=_norm)
            for _ in range(params.depth)
        )
        self.norm = _norm(dim)
        self.pred = nn.Linear(dim, patch_values)

    def forward(self, latent_BKD: Tensor, restore_BN: Tensor) -> Tensor:
        """Predict every patch's values.

        Args:
            latent_BKD: the class token and the kept patches as the encoder gave them.
            restore_BN: each patch's place in the order kept first, removed last.

        Returns:
            (B, N, patch * patch * 3), raster order.
        """
        tokens = self.embed(latent_BKD)
        batch, patches = restore_BN.shape
        masks = self.mask_token.expand(batch, patches + 1 - tokens.shape[1], -1)
        shuffled = torch.cat([tokens[:, 1:], masks], dim=1)
        places = torch.gather(shuffled, 1, restore_BN.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat([tokens[:, :1], places], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        prediction: Tensor = self.pred(self.norm(tokens))
        return prediction[:, 1:]


class MAE(Method):
    """The masked autoencoder."""

    def __init__(self, params: MAEParams, backbone: VisionTransformer) -> None:
        super().__init__()
        self.params = params
        self.backbone = backbone
        self.patch_size: int = backbone.patch_embed.patch_size[0]
        self.patches: int = backbone.patch_embed.num_patches
        grid: int = backbone.patch_embed.grid_size[0]
        self.decoder = Decoder(params.decoder, backbone.embed_dim, grid, 3 * self.patch_size**2)
        backbone.pos_embed.requires_grad_(False)
        backbone.pos_embed.data.copy_(sincos_table(backbone.embed_dim, grid))
        self.apply(_initialise)
        for token in (backbone.cls_token, self.decoder.mask_token):
            nn.init.normal_(token, std=0.02)
        # As a linear layer over the pixels of a patch, not as a convolution.
        nn.init.xavier_uniform_(backbone.patch_embed.proj.weight.flatten(1))

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """One uniform number a patch: the smallest are kept."""
        return {"noise": torch.rand(batch, self.patches, generator=generator)}

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        (images,) = batch.views
        latent, mask, restore = self.encode(images, draws["noise"])
        prediction = self.decoder(latent, restore)
        error = (prediction.float() - self.target(images)).square().mean(dim=2)
        return {"loss": (error * mask).sum() / mask.sum()}

    def exported(self) -> VisionTransformer:
        """The encoder; the decoder is thrown away."""
        return self.backbone

    def encode(self, images: Tensor, noise_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode the visible patches alone.

        Returns:
            latent (B, 1 + K, D), class token first, then the kept patches by rising noise;
            mask (B, N), 1 where removed; restore (B, N), the rank of each patch's noise.
        """
        vit = self.backbone
        # The integer part of the floating-point product, as in the reference: 100 patches at
        # ratio 0.9 keep 9.
        kept = int(self.patches * (1 - self.params.mask_ratio))
        order = noise_BN.argsort(dim=1)
        restore = order.argsort(dim=1)
        tokens = patch_tokens(vit, images) + vit.pos_embed[:, 1:]
        visible = order[:, :kept].unsqueeze(2).expand(-1, -1, tokens.shape[2])
        cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
        latent = encode(vit, torch.cat([cls, tokens.gather(1, visible)], dim=1))
        mask = (restore >= kept).to(torch.float32)
        return vit.norm(latent), mask, restore

    def target(self, images: Tensor) -> Tensor:
        """The pixels of each patch in the order (row, column, channel): (B, N, patch^2 * 3)."""
        batch, channels, height, width = images.shape
        size = self.patch_size
        patches = images.reshape(batch, channels, height // size, size, width // size, size)
        pixels = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)
        if not self.params.norm_pix_loss:
            return pixels
        mean = pixels.mean(dim=2, keepdim=True)
        variance = pixels.var(dim=2, keepdim=True)
        return (pixels - mean) / (variance + 1e-6).sqrt()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
