"""The text tower of CLIP (arXiv:2103.00020, section 2.4): a transformer over byte-pair tokens."""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import get_act_layer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from steps.params.text import TextTransformer


class TextTower(nn.Module):
    """Token ids to one feature per caption, read where the caption ends.

    Args:
        params: its sizes.
        vocabulary: number of tokens; the last one marks the end.
    """

    def __init__(self, params: TextTransformer, vocabulary: int) -> None:
        super().__init__()
        self.params = params
        width, depth = params.width, params.depth
        self.token_embed = nn.Embedding(vocabulary, width)
        self.pos_embed = nn.Parameter(torch.empty(params.context_length, width))
        activation = get_act_layer(params.activation)
        self.blocks = nn.ModuleList(
            Block(
                width,
                params.num_heads,
                qkv_bias=True,
                act_layer=activation,
                norm_layer=nn.LayerNorm,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self._initialise()

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Normed features at the end token: (B, L) int64, zeros after the end, to (B, D)."""
        tokens = self.token_embed(ids_BL) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, is_causal=self.params.causal)
        # The end token has the largest id of all.
        ends = ids_BL.argmax(dim=1)
        rows = torch.arange(len(ids_BL), device=ids_BL.device)
        return cast(Tensor, self.norm(tokens[rows, ends]))

    def _initialise(self) -> None:
        """As published: branches start smaller the deeper the tower is."""
        width, depth = self.params.width, self.params.depth
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)
        # The sum of 2 * depth branches keeps the residual stream's variance.
        branch_end = (2 * depth * width) ** -0.5
        stds = {
            "attn.qkv": width**-0.5,
            "attn.proj": branch_end,
            "mlp.fc1": (2 * width) ** -0.5,
            "mlp.fc2": branch_end,
        }
        for name, layer in self.blocks.named_modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=stds[name.partition(".")[2]])
                nn.init.zeros_(layer.bias)
