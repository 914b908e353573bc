"""Collective operations of methods; in a single process each is the identity."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among them."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def any_process(flag: bool, device: torch.device) -> bool:
    """True if a flag is set in any process. All processes must ask."""
    return bool(sum_over_processes(torch.tensor(float(flag), device=device)) > 0)


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, without gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes, (W * N, ...) in rank order, with gradient.

    The gradient of a process's rows is the sum over all processes, so that the mean that DDP takes
    over processes is the gradient of the mean of their losses.

    Args:
        rows: (N, ...), with the same N in each process.
    """
    return rows if world_size() == 1 else cast(Tensor, _Gather.apply(rows))


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, with gradient; the gradient is summed too."""
    return value if world_size() == 1 else cast(Tensor, _Sum.apply(value))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total
