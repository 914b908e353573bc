"""Drop path by rows: a branch is computed only for a random subset of rows.

x <- x + (b / size) * branch(x) on exactly size = max(int(b (1 - rate)), 1) of a group's b rows
(DINOv2, arXiv:2304.07193, section 5). As with usual drop path a branch counts as much on average;
unlike there, the dropped rows cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from steps.models.backbones import Transformer
from steps.models.hooked import run_hooked


def rates(depth: int, rate: float, *, uniform: bool) -> list[float]:
    """Each block's rate: the same, or rising linearly from 0."""
    if uniform:
        return [rate] * depth
    return [float(share) for share in np.linspace(0, rate, depth)]


def kept_rows(rows: int, rate: float) -> int:
    """Number of a group's rows that keep a branch: at least one.

    The integer part of the floating-point product, as in the reference.
    """
    return max(int(rows * (1 - rate)), 1)


def sample(block_rates: Sequence[float], rows: int, generator: torch.Generator) -> Tensor:
    """Factors of each row's branches: 0, or rows / kept rows.

    Args:
        block_rates: of each block; its attention and its MLP draw separately.
        rows: of the group (one kind of crop), over all processes.

    Returns:
        (rows, 2 * depth) float32.
    """
    # Attention and MLP draw separately, as in the reference.
    gates = torch.ones(rows, 2 * len(block_rates))
    for branch in range(gates.shape[1]):
        if rate := block_rates[branch // 2]:
            order = torch.randperm(rows, generator=generator)
            size = kept_rows(rows, rate)
            gates[order[:size], branch] = rows / size
            gates[order[size:], branch] = 0
    return gates


def encode(
    vit: Transformer, tokens_BND: Tensor, gates: Tensor, *, stop: int | None = None
) -> Tensor:
    """All blocks of the transformer, without its final norm, each branch only on its rows.

    Args:
        tokens_BND: (B, N, D).
        gates: (B, 2 * depth), see ``sample``.
        stop: the block to stop before.

    Returns:
        (B, N, D).
    """
    tokens_BND = vit.norm_pre(tokens_BND)
    for index, block in enumerate(vit.blocks[:stop]):
        tokens_BND = through_block(block, tokens_BND, gates[:, 2 * index : 2 * index + 2])
    return tokens_BND


def through_block(block: Any, tokens_BND: Tensor, gates_B2: Tensor) -> Tensor:
    """One block, its attention and its MLP each on the rows whose gate is open."""
    return run_hooked(block, _through, tokens_BND, gates_B2)


def _through(block: Any, tokens_BND: Tensor, gates_B2: Tensor) -> Tensor:
    attention, mlp = (block.norm1, block.attn, block.ls1), (block.norm2, block.mlp, block.ls2)
    tokens_BND = _add(tokens_BND, attention, gates_B2[:, 0])
    return _add(tokens_BND, mlp, gates_B2[:, 1])


def _add(tokens: Tensor, branch: Sequence[nn.Module], gate_B: Tensor) -> Tensor:
    # No row at all still runs the branch: its weights get a gradient in every process.
    rows = gate_B.nonzero().squeeze(1)
    output = tokens.index_select(0, rows)
    for module in branch:
        output = module(output)
    output = output * gate_B[rows].view(-1, 1, 1)
    return tokens.index_add(0, rows, output.to(tokens.dtype))
