from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from steps.reporting.statistics.agreement import agreement, tau_b

PUBLISHED = np.array([82.1, 83.6, 81.5, 84.0, 85.5, 83.2])


@pytest.mark.parametrize("count", [6, 7])
def test_tau_and_its_p_are_scipys_exact_ones(count: int) -> None:
    generator = np.random.default_rng(count)
    measured, published = generator.normal(size=(2, count))
    found = agreement(measured, np.zeros((count, count)), published)
    assert found is not None
    theirs = kendalltau(measured, published, method="exact")
    assert found.exact
    assert found.tau == pytest.approx(theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.low == found.high == pytest.approx(found.tau)


def test_ties_count_as_tau_b_says() -> None:
    one, other = np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0, 3.0])
    assert float(tau_b(one, other)) == pytest.approx(kendalltau(one, other).statistic)


def test_many_methods_are_drawn_and_said_to_be() -> None:
    order = np.arange(12.0)
    found = agreement(order, np.zeros((12, 12)), order)
    assert found is not None
    assert (found.tau, found.exact) == (1.0, False)
    assert found.p < 1e-3


def test_chance_of_the_measured_side_widens_the_interval() -> None:
    measured = PUBLISHED - 40
    known = agreement(measured, 1e-6 * np.eye(6), PUBLISHED)
    unsure = agreement(measured, 4.0 * np.eye(6), PUBLISHED)
    assert known is not None
    assert unsure is not None
    assert known.low == known.high == 1
    assert unsure.low < 0.6


def test_fewer_than_six_methods_say_nothing() -> None:
    assert agreement(PUBLISHED[:5], np.eye(5), PUBLISHED[:5]) is None
