"""Scores of probes on several labels per image and on numbers, and the decisions behind them.

Apart from torch, so that reports compute the same scores on draws of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from steps.artifacts.decisions import Decisions, of_labels, of_numbers
from steps.command import UserError

Floats = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Weights = npt.NDArray[Any]
UNITS = {"R2": "", "MAE": "", "RMSE": ""}
"""Units of metrics that are no percentage."""


@dataclass(frozen=True)
class Labelled:
    """Decisions on N images that each have any number of C labels."""

    truth: Bools
    """(N, C)."""
    scores: npt.NDArray[np.float32]
    """(N, C), higher where a label is more likely; compared within a label only."""
    threshold: float
    """Score from which a label counts as given, for F1."""

    def __post_init__(self) -> None:
        _check_finite(self.scores)

    def metrics(self) -> dict[str, float]:
        """Means over labels in percent (macro): ``mAP``, ``AUROC`` and ``F1``.

        A label that no image has does not count, nor for AUROC one that all have.
        """
        return {
            "mAP": _macro(average_precision(self.truth, self.scores)),
            "AUROC": _macro(auroc(self.truth, self.scores)),
            "F1": _macro(self.f1()),
        }

    def f1(self) -> Floats:
        """F1 of each label (C,), NaN where no image has it."""
        given = self.scores >= self.threshold
        hits = (given & self.truth).sum(axis=0)
        both = given.sum(axis=0) + self.truth.sum(axis=0)
        return _where(self.truth.sum(axis=0) > 0, 2 * hits / np.maximum(both, 1))

    def decisions(self, ids: Sequence[str]) -> Decisions:
        """Contents of the record's file of decisions; ``ids`` of the N images."""
        return of_labels(ids, self.truth, self.scores)

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """Images with each label, and average precision in percent, by the label's name."""
        found = average_precision(self.truth, self.scores)
        counts = self.truth.sum(axis=0).tolist()
        return {
            "label_counts": dict(zip(names, counts, strict=True)),
            "average_precision": {
                name: 100 * float(value)
                for name, value, count in zip(names, found, counts, strict=True)
                if count
            },
        }


@dataclass(frozen=True)
class Estimated:
    """Numbers predicted for N images."""

    truth: Floats
    """(N,)."""
    predicted: Floats
    """(N,)."""

    def __post_init__(self) -> None:
        _check_finite(self.predicted)

    def metrics(self) -> dict[str, float]:
        """``R2``, and ``MAE`` and ``RMSE`` in the numbers' own unit."""
        error = self.predicted - self.truth
        return {
            "R2": float(r_squared(self.truth, self.predicted, np.ones((1, len(error))))[0]),
            "MAE": float(np.abs(error).mean()),
            "RMSE": float(np.sqrt(np.square(error).mean())),
        }

    def decisions(self, ids: Sequence[str]) -> Decisions:
        """Contents of the record's file of decisions; ``ids`` of the N images."""
        return of_numbers(ids, self.truth, self.predicted)

    def facts(self, names: Sequence[str]) -> dict[str, Any]:
        """Mean and standard deviation of the true numbers."""
        return {"number_mean": float(self.truth.mean()), "number_std": float(self.truth.std())}


def average_precision(truth: Bools, scores: Floats, weights: Weights | None = None) -> Floats:
    """Average precision of each label, as scikit-learn's ``average_precision_score``: the sum of
    precisions at each distinct score, weighted by the increase of recall.

    Args:
        truth: (N, C).
        scores: (N, C).
        weights: (B, N), how often each image counts in each of B draws; None: once, in one.

    Returns:
        (B, C), or (C,) without weights, in 0 to 1; NaN where no image has the label.
    """
    drawn = np.ones((1, len(truth))) if weights is None else weights
    columns = []
    for label in range(truth.shape[1]):
        order = np.argsort(-scores[:, label], kind="stable")
        ranked = scores[order, label]
        last = np.append(ranked[1:] != ranked[:-1], True)  # of equal scores, all or none are taken
        hits = np.cumsum(drawn[:, order] * truth[order, label], axis=1)[:, last]
        taken = np.cumsum(drawn[:, order], axis=1)[:, last]
        gained = np.diff(hits, axis=1, prepend=0)
        total = hits[:, -1]
        sums = (gained * hits / np.maximum(taken, 1)).sum(axis=1)
        columns.append(_where(total > 0, sums / np.maximum(total, 1)))
    found = np.stack(columns, axis=1)
    return found[0] if weights is None else found


def auroc(truth: Bools, scores: Floats) -> Floats:
    """Area under the ROC curve of each label (C,): the share of pairs of an image with the label
    and one without that are in order, equal scores counting half. NaN where there is no pair.

    Args:
        truth: (N, C).
        scores: (N, C).
    """
    found = []
    for label in range(truth.shape[1]):
        values, places = np.unique(scores[:, label], return_inverse=True)
        given = np.bincount(places, truth[:, label], len(values))
        others = np.bincount(places, ~truth[:, label], len(values))
        below = np.cumsum(others) - others
        pairs = given.sum() * others.sum()
        ordered = (given * (below + others / 2)).sum()
        found.append(ordered / pairs if pairs else np.nan)
    return np.array(found)


def mean_average_precision(truth: Bools, scores: Floats, weights: Weights) -> Floats:
    """``mAP`` in percent on draws (B,): the mean over the labels that an image of the draw has.

    Args:
        truth: (N, C).
        scores: (N, C).
        weights: (B, N), how often each image is drawn.
    """
    found = average_precision(truth, scores, weights)
    known = ~np.isnan(found)
    sums = np.where(known, found, 0).sum(axis=1)
    draws: Floats = 100 * sums / np.maximum(known.sum(axis=1), 1)
    return draws


def r_squared(truth: Floats, predicted: Floats, weights: Weights) -> Floats:
    """Share of the numbers' variance that is predicted, on draws (B,): 1 less the squared errors
    over the squared distances from the draw's mean; 0 on a draw of equal numbers.

    Args:
        truth: (N,).
        predicted: (N,).
        weights: (B, N), how often each image is drawn.
    """
    total = weights.sum(axis=1)
    centred = truth - truth.mean()  # sums of squares of large numbers lose the small differences
    mean = weights @ centred / total
    spread = weights @ np.square(centred) - total * np.square(mean)
    error = weights @ np.square(predicted - truth)
    return _where(spread > 0, 1 - error / np.where(spread > 0, spread, 1), 0.0)


def _macro(values: Floats) -> float:
    """Mean of the known values in percent; 0 where none is known."""
    known = values[~np.isnan(values)]
    return 100 * float(known.mean()) if len(known) else 0.0


def _where(holds: Bools, values: Floats, otherwise: float = np.nan) -> Floats:
    return np.where(holds, values, otherwise)


def _check_finite(values: Floats) -> None:
    """Raise where a prediction is not finite.

    Raises:
        UserError: naming the first image.
    """
    wrong = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if wrong.any():
        raise UserError(
            "predictions",
            f"not finite for {int(wrong.sum())} of {len(values)} images, first for number "
            f"{int(wrong.argmax())}",
            remedy="lower lr in the protocol",
        )
