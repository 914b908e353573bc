"""Sinkhorn-Knopp: teacher scores balanced over the batch in place of a centre."""

from __future__ import annotations

import torch
from torch import Tensor

from steps.engine.distributed import sum_over_processes


@torch.no_grad()
def sinkhorn_knopp(logits_NK: Tensor, temperature: float, iterations: int) -> Tensor:
    """Assign rows to prototypes so that each prototype gets an equal share of all rows.

    Q = exp(logits / temperature)^T, divided by its sum; then by turns its rows (prototypes) are
    scaled to sum to 1 / K and its columns (samples) to 1 / N (SwAV, arXiv:2006.09882, equation 5;
    DINOv2, arXiv:2304.07193, section 4). K x N is the size over all processes, each of which may
    have another number of rows, even none.

    Args:
        logits_NK: this process's, (N, K). No maximum is subtracted, as in DINOv2's reference.
        temperature: of the teacher.
        iterations: turns.

    Returns:
        (N, K) float32; rows sum to 1 where there was a turn.
    """
    shares_KN = (logits_NK.float() / temperature).exp().T
    prototypes = shares_KN.shape[0]
    samples = sum_over_processes(shares_KN.new_tensor(shares_KN.shape[1]))
    shares_KN = shares_KN / sum_over_processes(shares_KN.sum())
    for _ in range(iterations):
        shares_KN = shares_KN / sum_over_processes(shares_KN.sum(dim=1, keepdim=True)) / prototypes
        shares_KN = shares_KN / shares_KN.sum(dim=0, keepdim=True) / samples
    return (shares_KN * samples).T
