"""Parts of masked autoencoders (MAE, DropPos): patches as pixels, initial weights, decoders."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import cast

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from steps.models.last_block import block_read
from steps.models.masks import gather_tokens
from steps.models.positions import sincos_table
from steps.params.methods import method

# --- Images as the pixels of their patches, and back


_EPSILON = 1e-6


def patch_pixels(images: Tensor, size: int) -> Tensor:
    """The pixels of each patch in the order (row, column, channel).

    Args:
        images: (B, C, H, W).
        size: side of a patch, in pixels.

    Returns:
        (B, N, size * size * C), patches in raster order.
    """
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // size, size, width // size, size)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, size * size * channels)


def images_of(pixels_BNP: Tensor, size: int) -> Tensor:
    """The square images (B, C, H, W) whose ``patch_pixels`` these are."""
    batch, patches, values = pixels_BNP.shape
    side, channels = round(patches**0.5), values // size**2
    pixels = pixels_BNP.reshape(batch, side, side, size, size, channels)
    return pixels.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, side * size, side * size)


def patch_statistics(pixels_BNP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation within each patch, (B, N, 1) both.

    The variance has divisor n - 1, and 1e-6 is added to it (MAE's reference code).
    """
    # Unbiased, unlike the variance of a norm: the reference calls var with its default.
    variance = pixels_BNP.var(dim=2, keepdim=True)
    return pixels_BNP.mean(dim=2, keepdim=True), (variance + _EPSILON).sqrt()


def pixel_targets(images: Tensor, size: int, *, normalised: bool) -> Tensor:
    """Targets of a pixel decoder (MAE, arXiv:2111.06377, section 3).

    Args:
        images: (B, C, H, W).
        size: side of a patch, in pixels.
        normalised: by mean and standard deviation of each patch.

    Returns:
        (B, N, size * size * C).
    """
    pixels = patch_pixels(images, size)
    if not normalised:
        return pixels
    mean, deviation = patch_statistics(pixels)
    return (pixels - mean) / deviation


# --- The initialisation that masked autoencoders share (MAE, arXiv:2111.06377, appendix A.1)


def initialise(module: nn.Module, vit: VisionTransformer, tokens: Iterable[nn.Parameter]) -> None:
    """Xavier uniform for every linear layer and the patch projection, normal for tokens.

    Args:
        module: whose linear layers are initialised; their biases become zero.
        vit: whose patch projection counts as a linear layer over the pixels of a patch, not as a
            convolution.
        tokens: learnt vectors, drawn with standard deviation 0.02.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for token in tokens:
        nn.init.normal_(token, std=0.02)
    # A view of the same memory: the bound counts a patch's pixels, not a kernel's.
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.flatten(1))


# --- The narrow transformers that predict something of every token an encoder gives


_norm = functools.partial(nn.LayerNorm, eps=1e-6)


class Decoder(nn.Module):
    """Projection to the decoder's width, blocks, norm, and a linear prediction of each token.

    Without positions of its own: it knows those that the encoder put into the tokens.
    """

    def __init__(self, params: method.Decoder, encoder_dim: int, out_dim: int) -> None:
        super().__init__()
        dim = params.embed_dim
        self.embed = nn.Linear(encoder_dim, dim)
        self.blocks = nn.ModuleList(
            Block(dim, params.num_heads, params.mlp_ratio, qkv_bias=True, norm_layer=_norm)
            for _ in range(params.depth)
        )
        self.norm = _norm(dim)
        self.pred = nn.Linear(dim, out_dim)

    def forward(self, latent_BND: Tensor) -> Tensor:
        """Predictions (B, N, out_dim) of encoded tokens (B, N, D)."""
        return self.decode(self.embed(latent_BND))

    def decode(self, tokens_BND: Tensor) -> Tensor:
        """Predictions of tokens that have the decoder's width already."""
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        return cast(Tensor, self.pred(self.norm(tokens_BND)))


class PixelDecoder(Decoder):
    """MAE's: over all patches, encoded tokens where there are any, else the mask token."""

    def __init__(
        self, params: method.Decoder, encoder_dim: int, grid: int, patch_values: int
    ) -> None:
        super().__init__(params, encoder_dim, patch_values)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, params.embed_dim))
        self.pos_embed = nn.Parameter(sincos_table(params.embed_dim, grid), requires_grad=False)

    def forward(  # type: ignore[override]
        self, latent_BKD: Tensor, restore_BN: Tensor, read_BN: Tensor | None = None
    ) -> Tensor:
        """Predict every patch's values.

        Args:
            latent_BKD: the class token and the kept patches as the encoder gave them.
            restore_BN: index of each patch in the order visible first, hidden last.
            read_BN: True for patches whose values are read; the others are predicted as 0. None:
                all are read.

        Returns:
            (B, N, patch * patch * 3), raster order.
        """
        tokens = self.embed(latent_BKD)
        batch, patches = restore_BN.shape
        # Visible tokens come first and in shuffled order; ``restore_BN`` puts all back.
        masks = self.mask_token.expand(batch, patches + 1 - tokens.shape[1], -1)
        patches_BND = gather_tokens(torch.cat([tokens[:, 1:], masks], dim=1), restore_BN)
        # The class token has a row in the table too, of zeros, as in the reference.
        tokens = torch.cat([tokens[:, :1], patches_BND], dim=1) + self.pos_embed
        if read_BN is None:
            return self.decode(tokens)[:, 1:]
        # Earlier blocks need every token, since later ones attend to it.
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        read = F.pad(read_BN, (1, 0))
        predicted = self.pred(self.norm(block_read(self.blocks[-1], tokens, read)))
        values: Tensor = predicted.new_zeros(*read_BN.shape, predicted.shape[1])
        values[read_BN] = predicted
        return values
