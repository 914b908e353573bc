"""Power laws: what is put in comes out, and what cannot be told is not."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from steps.reporting.scaling import study
from steps.reporting.scaling.study import frontier


def test_an_exact_law_is_found() -> None:
    compute = [1e12, 3e12, 1e13, 1e14]
    law = study.fit([80 * (c / 1e12) ** -0.25 for c in compute], compute)
    assert law is not None
    assert law.exponents == pytest.approx((0.25,))
    assert law.deviations == pytest.approx((0.0,), abs=1e-9)
    assert law.r2 == pytest.approx(1.0)
    assert law.at(1e12) == pytest.approx(80)
    assert law.runs == 4


def test_of_several_axes_each_has_its_own_exponent() -> None:
    grid = [(s, i, e) for s in (1e6, 4e6) for i in (1e3, 5e3) for e in (2.0, 8.0)]
    size, images, epochs = zip(*grid, strict=True)
    errors = [900 * s**-0.1 * i**-0.2 * e**-0.3 for s, i, e in grid]
    law = study.fit(errors, size, images, epochs)
    assert law is not None
    assert law.exponents == pytest.approx((0.1, 0.2, 0.3))
    assert law.at(1e6, 1e3, 2.0) == pytest.approx(errors[0])


def test_deviation_is_that_of_a_regression() -> None:
    """Against the textbook's formula for a line."""
    rng = np.random.default_rng(0)
    x = np.linspace(27.0, 33.0, 12)
    y = 4.0 - 0.2 * x + rng.normal(0, 0.05, 12)
    law = study.fit(np.exp(y).tolist(), np.exp(x).tolist())
    assert law is not None
    slope, intercept = np.polyfit(x, y, 1)
    left = y - slope * x - intercept
    expected = math.sqrt((left**2).sum() / 10 / ((x - x.mean()) ** 2).sum())
    assert law.exponents[0] == pytest.approx(-slope)
    assert law.deviations[0] == pytest.approx(expected)
    assert law.r2 == pytest.approx(1 - (left**2).sum() / ((y - y.mean()) ** 2).sum())


@pytest.mark.parametrize(
    ("errors", "axes"),
    [
        ([50.0, 40.0], [[1e12, 1e13]]),  # a line through two points fits any two
        ([50.0, 40.0, 30.0], [[1e12, 1e12, 1e12]]),  # nothing varies
        ([50.0, 40.0, 30.0, 20.0], [[1, 2, 3, 4], [2, 4, 6, 8], [1, 1, 2, 2]]),  # two are one
        ([50.0, 40.0, 30.0], [[1, 2, 1], [1, 1, 2], [3, 1, 1]]),  # four unknowns
    ],
)
def test_what_cannot_be_fitted_is_not(errors: list[float], axes: list[list[float]]) -> None:
    assert study.fit(errors, *axes) is None


def test_laws_cross_where_they_tell_the_same() -> None:
    steep, flat = (
        study.Law(scale, (exponent,), (0.01,), r2=1.0, runs=5)
        for scale, exponent in ((4000.0, 0.2), (250.0, 0.1))
    )
    met = study.crossing(steep, flat)
    assert met is not None
    assert met.flops == pytest.approx((4000 / 250) ** 10)
    assert steep.at(met.flops) == pytest.approx(flat.at(met.flops))
    assert met.sure
    unsure = study.crossing(study.Law(4000.0, (0.2,), (0.06,), 1.0, 5), flat)
    assert unsure is not None
    assert not unsure.sure
    assert study.crossing(flat, flat) is None
    assert study.crossing(steep, study.Law(250.0, (0.2 + 1e-9,), (0.01,), 1.0, 5)) is None


def test_intervals_hold_the_true_exponent_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    x = np.geomspace(1e12, 1e14, 5)
    held, apart = 0, 0
    for _ in range(2000):
        first, second = (
            study.fit((50 * (x / 1e12) ** -0.1 * rng.lognormal(0, 0.05, 5)).tolist(), x.tolist())
            for _ in range(2)
        )
        assert first is not None
        assert second is not None
        low, high = first.interval(0) or (math.nan, math.nan)
        held += low < 0.1 < high
        met = study.crossing(first, second)
        apart += met is not None and met.sure
    assert held / 2000 == pytest.approx(0.95, abs=0.015)
    assert apart / 2000 <= 0.06


def test_an_exponent_without_a_deviation_is_not_told_apart() -> None:
    exact = study.Law(4000.0, (0.2,), (math.nan,), 1.0, 2)
    met = study.crossing(exact, study.Law(250.0, (0.1,), (0.01,), 1.0, 5))
    assert met is not None
    assert not met.sure


def test_budgets_lie_where_all_methods_have_runs() -> None:
    runs = {
        "a": pl.DataFrame({"flops": [1.0, 10.0, 100.0]}),
        "b": pl.DataFrame({"flops": [4.0, 400.0]}),
    }
    assert study.budgets(runs, 3) == pytest.approx([4.0, 20.0, 100.0])
    assert study.budgets({**runs, "c": pl.DataFrame({"flops": [1e3, 1e4]})}) == []


def test_the_frontier_is_what_no_cheaper_run_beats() -> None:
    runs = pl.DataFrame({"flops": [1, 2, 3, 4, 5], "error": [50.0, 60.0, 40.0, 40.0, 39.0]})
    assert frontier(runs)["flops"].to_list() == [1, 3, 5]
