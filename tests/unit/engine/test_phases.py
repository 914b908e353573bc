"""A final phase: where it begins, and schedules that run once more in fewer steps."""

from __future__ import annotations

from typing import Any

import pytest

from steps.core.schedules import cosine, learning_rate, ramp_by_step
from steps.data.loader import TrainingViews
from steps.engine.loop import plan_phases
from steps.params.load import validate
from steps.params.recipe import Recipe, Training
from tests.scenery import RECIPES, Scenery


def _training(**changes: Any) -> Training:
    return validate({**RECIPES["dinov2"]["training"], **changes}, Training, "recipe.yaml")


def _phases(scenery: Scenery, training: Training) -> Any:
    views = TrainingViews(scenery.images(), training.views, 32, seed=0)
    return plan_phases(training, views, 6, rank=0, world=1, where="recipe.yaml")


def test_without_a_final_phase_there_is_one(scenery: Scenery) -> None:
    (main,) = _phases(scenery, _training(final_phase=None))
    assert (main.first, main.steps, main.stop) == (0, 9, 9)
    assert main.progress(4).steps_per_epoch == 6


def test_the_final_phase_comes_behind_and_has_its_own_views(scenery: Scenery) -> None:
    main, final = _phases(scenery, _training())
    assert (final.first, final.stop) == (9, 12)
    assert main.views.sides == (32, 32, 16, 16)
    assert final.views.sides == (40, 40, 24)
    assert final.peak_lr == main.peak_lr / 2
    assert final.plan.micro_batch == 8


def test_schedules_are_compressed(scenery: Scenery) -> None:
    final_phase = {**RECIPES["dinov2"]["training"]["final_phase"], "epochs": 3}
    training = _training(epochs=6, final_phase=final_phase)
    main, final = _phases(scenery, training)
    assert (main.steps, final.steps) == (36, 18)
    assert final.progress(final.first).step == 0
    for step in range(18):
        # Half as long: each of its steps stands where every second step of the main phase stands.
        ours, theirs = final.progress(36 + step), main.progress(2 * step)
        assert ours.epoch == theirs.epoch
        assert cosine(ours, 0.9, 1.0) == pytest.approx(cosine(theirs, 0.9, 1.0))
    # One of six epochs of warm-up: 3 of 18 steps.
    rates = [learning_rate(final.progress(36 + step), training.schedule, 1.0) for step in range(4)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 1.0])
    temps = [ramp_by_step(final.progress(36 + step), 0.04, 0.07, 1) for step in range(4)]
    assert temps == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_a_run_of_another_length_has_the_same_schedules(scenery: Scenery) -> None:
    final_phase = {**RECIPES["dinov2"]["training"]["final_phase"], "epochs": 1}
    common = {"epochs": 6, "final_phase": final_phase, "schedule": {"warmup_epochs": 1}}
    (main, final), (long, long_final) = (
        _phases(scenery, _training(length=length, **common)) for length in (1.0, 1.5)
    )
    assert (main.steps, final.steps, long.steps, long_final.steps) == (36, 6, 54, 9)
    schedule = _training(**common).schedule
    for step in range(0, 36, 2):
        ours, theirs = long.progress(3 * step // 2), main.progress(step)
        assert ours.epoch == theirs.epoch
        assert learning_rate(ours, schedule, 1.0) == pytest.approx(
            learning_rate(theirs, schedule, 1.0)
        )


def test_a_smaller_limit_for_larger_images(scenery: Scenery) -> None:
    final_phase = {**RECIPES["dinov2"]["training"]["final_phase"], "max_batch_per_device": 2}
    main, final = _phases(scenery, _training(final_phase=final_phase))
    assert (main.plan.micro_batch, final.plan.micro_batch) == (8, 2)


def test_a_method_without_a_final_phase_refuses_one() -> None:
    recipe = {**RECIPES["mae"]}
    recipe["training"] = {
        **recipe["training"],
        "final_phase": {"epochs": 1, "views": [{"area": [0.2, 1.0]}]},
    }
    with pytest.raises(Exception, match="method mae has no final phase"):
        validate(recipe, Recipe, "mae.yaml")
