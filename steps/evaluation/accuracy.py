"""Accuracies of a classifier, and the decisions that they follow from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steps.artifacts.decisions import TOP, Decisions, of_classes
from steps.core.finite import check_rows
from steps.evaluation.knn import largest

MOST_WITHOUT_TOP5 = 10
"""Classes up to which five guesses say little: no top-5 accuracy is recorded."""


@dataclass(frozen=True)
class Classified:
    """Decisions of a classifier on N images."""

    labels: Tensor
    """(N,) int64."""
    top: Tensor
    """(N, K) int64, the classes of the highest scores, best first: five, or as many as there are.
    Of equal scores the class of the smaller index comes first."""
    margin: Tensor
    """(N,) float32, the best score less the second best."""

    @classmethod
    def from_scores(cls, scores: Tensor, labels: Tensor) -> Classified:
        """Decisions by scores.

        Args:
            scores: (N, C).
            labels: (N,) int64.

        Raises:
            UserError: scores that are not finite.
        """
        check_rows(scores, "scores", largest=torch.finfo(scores.dtype).max)
        values, top = largest(scores, TOP)
        second = values[:, min(1, values.shape[1] - 1)]
        return cls(labels, top, (values[:, 0] - second).float())

    @classmethod
    def together(cls, parts: Sequence[Classified]) -> Classified:
        """Batches in their order as one."""
        columns = zip(*((part.labels, part.top, part.margin) for part in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))

    def correct(self, k: int = 1) -> Tensor:
        """True where the label is among the first k: (N,)."""
        return (self.top[:, :k] == self.labels.unsqueeze(1)).any(dim=1)

    def accuracy(self, k: int = 1) -> float:
        """Right within the first k, in percent."""
        return percent(int(self.correct(k).sum()), len(self.labels))

    def accuracies(self, classes: int) -> dict[str, float]:
        """``top1`` and, of more than ten classes, ``top5``, in percent."""
        tops = (1, TOP) if classes > MOST_WITHOUT_TOP5 else (1,)
        return {f"top{k}": self.accuracy(k) for k in tops}

    @property
    def balanced(self) -> float:
        """The mean over classes of each one's recall, in percent."""
        return per_class_percent(self.correct(), self.labels)

    def scores(self, classes: int) -> dict[str, tuple[float, int]]:
        """The records of a task: accuracies and ``balanced``, each with the number of images."""
        values = {**self.accuracies(classes), "balanced": self.balanced}
        return {metric: (value, len(self.labels)) for metric, value in values.items()}

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """``class_counts`` and ``recall`` (in percent, of classes that have images) by name."""
        counts = self.labels.bincount(minlength=len(names)).tolist()
        hits = self.labels[self.correct()].bincount(minlength=len(names)).tolist()
        return {
            "class_counts": dict(zip(names, counts, strict=True)),
            "recall": {
                name: percent(right, count)
                for name, right, count in zip(names, hits, counts, strict=True)
                if count
            },
        }

    def decisions(self, ids: Sequence[str]) -> Decisions:
        """Contents of the record's file of decisions; ``ids`` of the N images."""
        return of_classes(ids, self.labels.numpy(), self.top.numpy(), self.margin.numpy())


def in_top(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """True where a sample's label is among its k highest scores: (N,).

    Args:
        scores: (N, C).
        labels: (N,) int64.
        k: at most C are looked at.

    Raises:
        UserError: scores that are not finite.
    """
    check_rows(scores, "scores", largest=torch.finfo(scores.dtype).max)
    best = largest(scores, k)[1]
    return (best == labels.unsqueeze(1)).any(dim=1)


def correct_in_top(scores: Tensor, labels: Tensor, k: int) -> int:
    """Number of samples with their label among the k highest scores; arguments as ``in_top``."""
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
