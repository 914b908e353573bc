from __future__ import annotations

import numpy as np
import pytest

from steps.reporting.statistics.scores import Images, of_decisions, of_draws, scores
from steps.reporting.statistics.spread import spread

GENERATOR = np.random.default_rng(0)
CORRECT = GENERATOR.random((4, 3, 600)) < np.array([0.3, 0.5, 0.7, 0.9])[:, None, None]
EVERY = np.ones(4, bool)


def _resampled(correct: np.ndarray, times: int) -> np.ndarray:
    """Accuracy in % on resamples of the images ``(R, S, B)``."""
    n = correct.shape[-1]
    counts = np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), times)
    return 100 * correct @ counts.T / n


def test_the_formula_is_what_a_bootstrap_of_images_tends_to() -> None:
    exact, drawn = of_decisions(CORRECT), of_draws(_resampled(CORRECT, 4000), np.zeros(4), 600)
    assert np.diag(drawn.covariance) == pytest.approx(np.diag(exact.covariance), rel=0.08)
    assert drawn.interaction == pytest.approx(exact.interaction, rel=0.08)


def test_seeds_and_images_are_not_counted_twice() -> None:
    """Seeds that differ in nothing but which images they get right add nothing to the images."""
    same = GENERATOR.random((4, 8, 4000)) < 0.6
    table = scores(of_decisions(same), 100 * same.mean(-1), EVERY)
    # The variance of a mean of 32,000 independent decisions, and not twice that.
    alone = 1e4 * 0.6 * 0.4 / (8 * 4000)
    assert np.diag(table.covariance()) == pytest.approx(np.full(4, alone), rel=0.6)
    assert np.diag(table.images.covariance) == pytest.approx(np.full(4, alone), rel=0.1)


def test_one_seed_has_the_interval_of_its_images() -> None:
    table = scores(of_decisions(CORRECT[:, :1]), 100 * CORRECT[:, :1].mean(-1), EVERY)
    low, high = table.intervals()
    share = CORRECT[:, 0].mean(-1)
    plain = 100 * 1.96 * np.sqrt(share * (1 - share) / 600)
    assert (high - low) / 2 == pytest.approx(plain, rel=0.02)
    assert not table.unstable.any()


def test_nothing_wrong_leaves_room_below_and_none_above() -> None:
    right = np.ones((3, 2, 50), bool)
    low, high = scores(of_decisions(right), np.full((3, 2), 100.0), np.ones(3, bool)).intervals()
    assert (high == 100).all()
    assert (low < 98).all()
    assert (low > 80).all()


def test_balanced_accuracy_is_the_mean_of_recalls_and_bootstrapped_within_classes() -> None:
    labels = np.repeat(np.array([0, 1], np.int32), [500, 100])
    correct = GENERATOR.random((2, 1, 600)) < np.where(labels == 0, 0.9, 0.4)
    found = of_decisions(correct, labels)
    recalls = np.stack([correct[..., labels == each].mean(-1) for each in (0, 1)])
    assert found.score == pytest.approx(100 * recalls.mean(0)[:, 0])
    draws = np.mean([_resampled(correct[..., labels == each], 4000) for each in (0, 1)], axis=0)
    assert np.diag(found.covariance) == pytest.approx(draws.mean(1).var(-1), rel=0.1)


def test_a_row_whose_seeds_spread_beyond_the_rest_is_unstable_and_keeps_its_variance() -> None:
    own = np.array([1.0, 1.4, 0.7, 1.2, 0.9, 300.0])
    found = spread(own, np.zeros(6), 3, np.ones(6, bool))
    assert found.unstable.tolist() == [False] * 5 + [True]
    assert found.variance[-1] == 300
    assert found.df[-1] == 2
    assert (found.df[:-1] > 2).all()
    assert (found.variance[:-1] < 2).all(), "the unstable row is in the pool"


def test_variances_are_shrunk_upwards_only() -> None:
    own = np.array([0.01, 0.5, 1.0, 2.0, 3.0])
    found = spread(own, np.zeros(5), 2, np.ones(5, bool))
    assert not found.unstable.any()
    assert (found.variance >= own).all()
    assert found.variance[0] > 0.05


def test_untrained_rows_borrow_from_the_pool_and_do_not_change_it() -> None:
    own = np.array([1.0, 1.4, 0.7, 1.2, 1e-6])
    trained = np.array([True] * 4 + [False])
    found = spread(own, np.zeros(5), 3, trained)
    alone = spread(own[:4], np.zeros(4), 3, trained[:4])
    assert found.variance[:4] == pytest.approx(alone.variance)
    assert found.variance[4] > 0.2
    # With two trained rows there is no pool.
    assert spread(own[2:], np.zeros(3), 3, trained[2:]).variance == pytest.approx(own[2:])


def test_what_seeds_share_cancels_in_differences() -> None:
    """A label subset that a seed draws for all rows moves them together."""
    shift = np.array([-4.0, 0.0, 4.0])
    small = 0.1 * GENERATOR.normal(size=(6, 3))
    images = Images(np.full(6, 50.0), np.zeros((6, 6)), np.zeros(6), None, 1000)
    table = scores(images, 50 + shift + small, np.ones(6, bool))
    covariance = table.covariance()
    difference = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert difference < 0.6 * covariance[0, 0]
    apart = scores(images, 50 + GENERATOR.normal(size=(6, 3)), np.ones(6, bool))
    assert apart.common.max() < 0.5
