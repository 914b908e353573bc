"""Gradient caching: the whole batch's gradient at the memory of one chunk (arXiv:2101.06983).

A loss that couples all samples is a function of their encodings: L(e_1, …, e_n) with
e_i = encode(x_i). Its gradient with respect to the network's weights is a sum over samples,

    dL/dw = sum_i dL/de_i de_i/dw,

so the cheap part, L and dL/de of all samples, comes first, without the graph of any encoding, and
the expensive part, de_i/dw, follows one chunk at a time. Each chunk is encoded twice. Draws are
inputs, so both passes see the same masks and drop paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steps.core.schedules import Progress
from steps.data.loader import refusing_batch_norm
from steps.engine.sharding import reduce_the_rest
from steps.methods.method import Batch, BatchCoupledMethod, Draws, Losses
from steps.models.hooked import run_hooked

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Chunk = tuple[Batch, Draws]
"""Part of a process's batch, with the draws of its samples."""


def cached_backward(
    fabric: Fabric,
    method: BatchCoupledMethod,
    chunks: Sequence[Chunk],
    progress: Progress,
    *,
    where: str,
) -> Losses:
    """Give ``method``'s parameters the gradient of the loss of all chunks together.

    It equals that of one forward and one backward pass over the whole batch, averaged over
    processes as DDP does.

    Args:
        fabric: for its precision.
        method: on the device, not wrapped by DDP, without gradients.
        chunks: this process's batch, in order.
        progress: position of the step.
        where: the params file that errors name.

    Returns:
        The losses of this process's whole batch, without gradient.

    Raises:
        UserError: batch norm, in training, is part of the encoding.
    """
    sizes = [len(batch.labels) for batch, _ in chunks]
    refusing = refusing_batch_norm(method, max(sizes), sum(sizes), where)
    with torch.no_grad(), fabric.autocast(), refusing:
        parts = [
            run_hooked(method, type(method).encode, batch, draws, progress)
            for batch, draws in chunks
        ]
    encoded = {name: _leaf([part[name] for part in parts]) for name in parts[0]}
    all_draws = {name: torch.cat([draws[name] for _, draws in chunks]) for name in chunks[0][1]}
    with fabric.autocast():
        losses: Losses = run_hooked(method, type(method).losses, encoded, all_draws, progress)
    fabric.backward(losses["loss"])
    wanted = {name: leaf.grad for name, leaf in encoded.items() if leaf.grad is not None}
    first = 0
    for size, (batch, draws) in zip(sizes, chunks, strict=True):
        rows = slice(first, first + size)
        with fabric.autocast():
            again = run_hooked(method, type(method).encode, batch, draws, progress)
        # The loss has a gradient for momentum networks' encodings, but they pass none on.
        names = [name for name in wanted if again[name].requires_grad]
        torch.autograd.backward(
            [again[name] for name in names], [wanted[name][rows] for name in names]
        )
        first = rows.stop
    # DDP would reduce each gradient on its first backward pass; here each takes several.
    reduce_the_rest(method)
    return {name: value.detach() for name, value in losses.items()}


def _leaf(parts: list[Tensor]) -> Tensor:
    """The rows of all chunks, which collect a gradient if they are floats."""
    whole = torch.cat(parts)
    return whole.requires_grad_(whole.is_floating_point())
