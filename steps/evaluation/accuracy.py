"""Top-k accuracy."""

from __future__ import annotations

from torch import Tensor


def correct_in_top(scores: Tensor, labels: Tensor, k: int) -> int:
    """How many samples have their label among the k highest scores.

    Args:
        scores: (N, C).
        labels: (N,) int64.
        k: at most C are looked at.
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return int((best == labels.unsqueeze(1)).any(dim=1).sum())


def percent(correct: int, n: int) -> float:
    """A share as 0 to 100."""
    return 100.0 * correct / n
