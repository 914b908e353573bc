"""Batch norm over the global batch: its statistics do not depend on how many processes share it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steps.engine.distributed import sum_over_processes, world_size


class BatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with the mean and variance of all processes' rows (arXiv:1502.03167).

    torch's SyncBatchNorm does the same on GPUs alone. Each process has as many rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C), normalised by the statistics of (W * N, C) in training."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        values = input.float()
        mean = sum_over_processes(values.mean(dim=0)) / world_size()
        centred = values - mean
        variance = sum_over_processes(centred.square().mean(dim=0)) / world_size()
        self._remember(mean.detach(), variance.detach(), len(input) * world_size())
        normed = centred * (variance + self.eps).rsqrt()
        if self.affine:
            normed = torch.addcmul(self.bias, normed, self.weight)
        return normed.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, rows: int) -> None:
        """Move the running statistics, of the unbiased variance as torch does."""
        if self.running_mean is None or self.running_var is None:
            return
        share = 0.0 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * rows / max(rows - 1, 1), share)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
