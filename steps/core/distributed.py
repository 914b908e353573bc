"""Communication between training processes. In a single process each function is the identity."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process among them."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def any_process(flag: bool, device: torch.device) -> bool:
    """True if a flag is set in any process. All processes must call this."""
    return bool(sum_over_processes(torch.tensor(float(flag), device=device)) > 0)


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes, (W * N, ...) in the order of ranks, with gradient.

    The gradient in each process is the sum over all processes, so that DDP's mean over processes is
    the gradient of the mean loss.

    Args:
        rows: (N, ...), with equal N in all processes.
    """
    return rows if world_size() == 1 else cast(Tensor, _Gather.apply(rows))


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes, with gradient, which is summed too."""
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
