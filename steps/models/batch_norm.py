"""Batch norm over the global batch: its statistics do not depend on how many processes share it.

torch's SyncBatchNorm does the same, but only on GPUs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from steps.core.distributed import sum_over_processes, world_size


class _Global(_BatchNorm):
    """Batch norm with the mean and variance of all processes' rows (arXiv:1502.03167).

    Each process has as many rows.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalised, in training, by the statistics over all axes but the channels."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        # Statistics in float32, whatever the input's precision.
        values = input.float()
        mean = sum_over_processes(values.mean(dim=axes)) / world_size()
        centred = values - mean.view(shape)
        # Two passes, mean first: E[x^2] - E[x]^2 would cancel.
        variance = sum_over_processes(centred.square().mean(dim=axes)) / world_size()
        # torch's running variance is unbiased, over the rows of all processes here.
        rows = input.numel() // input.shape[1] * world_size()
        self._remember(mean.detach(), variance.detach(), rows)
        normed = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normed = torch.addcmul(self.bias.view(shape), normed, self.weight.view(shape))
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


class BatchNorm1d(_Global, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` of (N, C), by the statistics of (W * N, C)."""


class BatchNorm2d(_Global, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` of (N, C, H, W), by the statistics of (W * N, C, H, W)."""
