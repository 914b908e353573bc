"""Top-k accuracy."""

from __future__ import annotations

import torch
from torch import Tensor

from steps.models.finite import check_rows


def in_top(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each sample's label is among its k highest scores: (N,) bool.

    Args:
        scores: (N, C).
        labels: (N,) int64.
        k: at most C are looked at.

    Raises:
        UserError: scores that are not finite.
    """
    check_rows(scores, "scores", largest=torch.finfo(scores.dtype).max)
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return (best == labels.unsqueeze(1)).any(dim=1)


def correct_in_top(scores: Tensor, labels: Tensor, k: int) -> int:
    """How many samples have their label among the k highest scores; arguments as ``in_top``."""
    return int(in_top(scores, labels, k).sum())


def percent(correct: int, n: int) -> float:
    """A share as 0 to 100."""
    return 100.0 * correct / n


def per_class_percent(correct: Tensor, labels: Tensor) -> float:
    """The mean over classes of each one's share of correct samples, 0 to 100 (macro accuracy).

    Args:
        correct: (N,) bool.
        labels: (N,) int64; a class that none has does not count.
    """
    samples = labels.bincount()
    hits = labels.bincount(weights=correct.double(), minlength=len(samples))
    present = samples > 0
    return 100.0 * float(torch.mean(hits[present] / samples[present]))
