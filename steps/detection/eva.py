"""An EVA inside the detector: rotary positions of each grid that a block attends over.

A window has positions of its own, as if it were an image, and so has the whole map (EVA-02,
arXiv:2303.11331, reference code): both are grids of pretraining's kind.
"""

from __future__ import annotations

from typing import TypeAlias

from timm.layers import AttentionRope
from timm.models.eva import Eva, EvaAttention, EvaBlockPostNorm
from torch import Tensor, nn
from torch.nn import functional as F

from steps.command import UserError

RotaryAttention: TypeAlias = EvaAttention | AttentionRope


class RotaryPositions(nn.Module):
    """Rotary positions of the patches of any grid, for each block.

    Args:
        eva: whose blocks lose their prefix tokens, which the detector does not have.

    Raises:
        UserError: its norms come after attention and MLP.
    """

    def __init__(self, eva: Eva) -> None:
        super().__init__()
        self.rope = eva.rope
        self.by_block = bool(eva.rope_mixed)
        for block in eva.blocks:
            if isinstance(block, EvaBlockPostNorm):
                raise UserError(
                    "backbone of timm's class Eva",
                    "norms after attention and MLP",
                    allowed="norms before them",
                    remedy="leave the task detect out",
                )
            block.attn.num_prefix_tokens = 0

    def forward(self, grid: tuple[int, int]) -> Tensor | None:
        """Positions of (rows, columns) patches, which ``of_block`` reads; None: there are none."""
        return None if self.rope is None else self.rope.get_embed(shape=grid)

    def of_block(self, table: Tensor | None, index: int) -> Tensor | None:
        """The positions of one block."""
        return table[index] if table is not None and self.by_block else table


def queries(attn: RotaryAttention, x_BND: Tensor) -> Tensor:
    """Queries before they are rotated, not scaled: (B, N, D) to (B, heads, N, head_dim)."""
    width = attn.num_heads * attn.head_dim
    if attn.qkv is None:
        query = attn.q_proj(x_BND)
    else:
        bias = attn.q_bias if isinstance(attn, EvaAttention) else attn.qkv.bias
        query = F.linear(x_BND, attn.qkv.weight[:width], None if bias is None else bias[:width])
    normed: Tensor = attn.q_norm(query.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2))
    return normed
