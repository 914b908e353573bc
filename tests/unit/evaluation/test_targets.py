"""Scores of several labels per image and of numbers, held to their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from steps.command import UserError
from steps.evaluation.targets import (
    Estimated,
    Labelled,
    auroc,
    average_precision,
    mean_average_precision,
    r_squared,
)

RNG = np.random.default_rng(0)
TRUTH = RNG.random((40, 3)) < [0.2, 0.5, 0.9]
SCORES = (TRUTH + RNG.normal(size=(40, 3))).round(1).astype(np.float32)  # rounded: with ties


def precision_by_hand(truth: np.ndarray, scores: np.ndarray) -> float:
    """scikit-learn's definition: sum over thresholds of (R_n - R_n-1) P_n."""
    total, recall = 0.0, 0.0
    for threshold in sorted({*scores.tolist()}, reverse=True):
        taken = scores >= threshold
        hits = (taken & truth).sum()
        total += (hits / truth.sum() - recall) * hits / taken.sum()
        recall = hits / truth.sum()
    return total


def test_average_precision_and_auroc_follow_their_definitions() -> None:
    found = average_precision(TRUTH, SCORES)
    areas = auroc(TRUTH, SCORES)
    for label in range(3):
        truth, scores = TRUTH[:, label], SCORES[:, label]
        assert found[label] == pytest.approx(precision_by_hand(truth, scores))
        pairs = [
            (1.0 if one > other else 0.5 if one == other else 0.0)
            for one in scores[truth]
            for other in scores[~truth]
        ]
        assert areas[label] == pytest.approx(np.mean(pairs))


def test_a_draw_is_as_if_its_images_were_copied() -> None:
    weights = RNG.integers(0, 3, (5, 40))
    drawn = mean_average_precision(TRUTH, SCORES, weights)
    copies = [np.repeat(np.arange(40), each) for each in weights]
    alike = [Labelled(TRUTH[rows], SCORES[rows], 0.0).metrics()["mAP"] for rows in copies]
    np.testing.assert_allclose(drawn, alike)
    numbers, guesses = RNG.normal(size=40), RNG.normal(size=40)
    drawn = r_squared(numbers, guesses, weights)
    alike = [Estimated(numbers[rows], guesses[rows]).metrics()["R2"] for rows in copies]
    np.testing.assert_allclose(drawn, alike)


def test_a_label_that_no_image_has_does_not_count() -> None:
    truth = np.array([[True, False], [False, False]])
    right = Labelled(truth, np.array([[1, 0], [-1, 0]], np.float32), threshold=0.5)
    assert right.metrics() == {"mAP": 100.0, "AUROC": 100.0, "F1": 100.0}
    assert right.facts(["a", "b"]) == {
        "label_counts": {"a": 1, "b": 0},
        "average_precision": {"a": 100.0},
    }


def test_numbers() -> None:
    truth = np.array([1e9 + 1, 1e9 + 2, 1e9 + 3])
    exact = Estimated(truth, truth).metrics()
    assert exact == {"R2": 1.0, "MAE": 0.0, "RMSE": 0.0}
    mean = Estimated(truth, np.full(3, 1e9 + 2)).metrics()
    assert mean["R2"] == pytest.approx(0.0)
    assert mean["MAE"] == pytest.approx(2 / 3)


def test_predictions_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="1 of 2 images, first for number 1"):
        Estimated(np.zeros(2), np.array([0.0, np.nan]))
