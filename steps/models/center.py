"""The running mean of a teacher's logits, which keeps one prototype from winning everywhere."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steps.engine.distributed import mean_over_processes


class Center(nn.Module):
    """c <- m c + (1 - m) mean(logits) (DINO, arXiv:2104.14294, equation 4).

    ``add`` collects the logits of each micro-batch, ``move`` updates the centre once a step by
    the mean over the global batch, so that it does not depend on how the batch was cut.
    """

    value: Tensor
    """In the shape given, the last axis K, the others 1."""
    _sum: Tensor
    _rows: Tensor

    def __init__(self, *shape: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("_sum", torch.zeros(shape[-1]), persistent=False)
        self.register_buffer("_rows", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def add(self, logits: Tensor) -> None:
        """Collect logits (N, K)."""
        self._sum += logits.float().sum(dim=0)
        self._rows += len(logits)

    @torch.no_grad()
    def move(self) -> None:
        """Update by what was collected, here and in all other processes."""
        mean = mean_over_processes(self._sum / self._rows)
        self.value.mul_(self.momentum).add_(mean, alpha=1 - self.momentum)
        self._sum.zero_()
        self._rows.zero_()
