"""The narrow transformers that predict something of every token an encoder gives."""

from __future__ import annotations

import functools
from typing import cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from steps.models.positions import sincos_table
from steps.models.random_masking import take
from steps.models.reading import block_read
from steps.params.methods import decoder

_norm = functools.partial(nn.LayerNorm, eps=1e-6)


class Decoder(nn.Module):
    """Projection to the decoder's width, blocks, norm, and a linear prediction of each token.

    Without positions of its own: it knows those that the encoder put into the tokens.
    """

    def __init__(self, params: decoder.Decoder, encoder_dim: int, out_dim: int) -> None:
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
    """MAE's: over all places, encoded tokens where there are any, else the mask token."""

    def __init__(
        self, params: decoder.Decoder, encoder_dim: int, grid: int, patch_values: int
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
            restore_BN: each patch's place in the order kept first, removed last.
            read_BN: True for patches whose values are read; the others are predicted as 0. None:
                all are read.

        Returns:
            (B, N, patch * patch * 3), raster order.
        """
        tokens = self.embed(latent_BKD)
        batch, patches = restore_BN.shape
        masks = self.mask_token.expand(batch, patches + 1 - tokens.shape[1], -1)
        places = take(torch.cat([tokens[:, 1:], masks], dim=1), restore_BN)
        tokens = torch.cat([tokens[:, :1], places], dim=1) + self.pos_embed
        if read_BN is None:
            return self.decode(tokens)[:, 1:]
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        read = F.pad(read_BN, (1, 0))
        predicted = self.pred(self.norm(block_read(self.blocks[-1], tokens, read)))
        values: Tensor = predicted.new_zeros(*read_BN.shape, predicted.shape[1])
        values[read_BN] = predicted
        return values
