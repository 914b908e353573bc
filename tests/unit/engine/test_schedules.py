"""Schedules against the arrays that the references make of them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from steps.core.schedules import Progress, ramp_by_step


@pytest.mark.parametrize(("epochs", "per_epoch"), [(3, 4), (1, 1), (0, 5)])
def test_a_ramp_by_step_is_evenly_spaced_and_then_constant(epochs: int, per_epoch: int) -> None:
    steps = epochs * per_epoch
    expected = [*np.linspace(0.04, 0.07, steps), 0.07, 0.07]
    at = [Progress(step, per_epoch, 100) for step in range(steps + 2)]
    found = [ramp_by_step(progress, 0.04, 0.07, epochs) for progress in at]
    assert found == pytest.approx(expected)


def test_epochs_that_are_not_whole_end_within_one() -> None:
    at = [Progress(step, 4, 100) for step in range(12)]
    for epochs, steps in ((0.0, 0), (0.5, 2), (0.6, 3), (1.0, 4), (2.25, 9)):
        assert [progress.within(epochs) for progress in at] == [True] * steps + [False] * (
            12 - steps
        )
    # 10 * 1.1 is rounded up to 11 and a little.
    assert not Progress(11, 1.1, 100).within(10.0)


@pytest.mark.parametrize("per_epoch", [1, 7, 1251, 4.1, 4.2, 1.1, 0.7, 90 / 7])
def test_an_epoch_begins_with_its_first_step(per_epoch: float) -> None:
    exact = Fraction(per_epoch).limit_denominator(1000)
    for step in range(3000):
        assert Progress(step, per_epoch, 3000).epoch == step // exact
