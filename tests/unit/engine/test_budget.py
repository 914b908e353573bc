"""From a budget to a length: FLOPs as the loop counts them, and budgets that make no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steps.artifacts import publish
from steps.command import UserError
from steps.data.loader import TrainingViews, dataset_facts
from steps.engine.budget import Spent, facts_within, named_within, own_share, within_budget
from steps.engine.loop import plan_phases
from steps.methods import Method
from steps.params.budget import Budget
from steps.params.load import validate
from steps.params.recipe import Training
from tests.scenery import RECIPES, Scenery
from tests.unit.engine.one_step import BATCH, method_of, one_step


class Run:
    """The recipe of MAE on 48 images, in batches of 8: six steps an epoch."""

    def __init__(self, scenery: Scenery) -> None:
        self.method: Method = method_of("mae", scenery)
        data = scenery.root / "results/data/noise"
        self.training = validate(RECIPES["mae"]["training"], Training, "mae.yaml")
        self.views = TrainingViews(data, self.training.views, 32, seed=0)
        self.facts = dataset_facts(data)

    def within(self, budget: Budget, own: float | None = None) -> tuple[Training, list[float]]:
        """The training that a budget leaves."""
        own = budget.amount if own is None else own
        where = "mae.yaml"
        return within_budget(self.training, budget, own, self.method, self.views, self.facts, where)

    def steps(self, training: Training) -> int:
        """The steps of a training."""
        (phase,) = plan_phases(training, self.views, 6, rank=0, world=1, where="mae.yaml")
        return phase.steps


def test_flops_are_those_that_the_loop_counts(scenery: Scenery) -> None:
    run = Run(scenery)
    before = {name: tensor.clone() for name, tensor in run.method.state_dict().items()}
    training, (flops,) = run.within(Budget(tflops=0.01))
    # A step of a method whose draws hide the same number of patches of every image.
    assert flops == one_step("mae", method_of("mae", scenery), scenery, BATCH).flops / BATCH
    assert run.steps(training) == round(0.01e12 / flops / 8)
    assert training.length == pytest.approx(0.01e12 / flops / 96)
    # What was counted was a copy.
    after = run.method.state_dict()
    assert all(tensor.equal(after[name]) for name, tensor in before.items())


def test_a_budget_of_images(scenery: Scenery) -> None:
    run = Run(scenery)
    training, _ = run.within(Budget(images=1000))
    assert training.length == pytest.approx(1000 / 96)
    assert run.steps(training) == 125
    # With a tokenizer behind the run, two thirds are its own.
    training, _ = run.within(Budget(images=1200), own=800)
    assert run.steps(training) == 100


@pytest.mark.parametrize(
    ("budget", "own", "message"),
    [
        (Budget(images=7), 7, r"within 7 images it makes no step, .* a budget of 8 images or"),
        (
            Budget(images=60),
            40,
            r"within 60 images, of which 40 are its own, it trains for 0.833 epochs, less than its "
            r"warm-up of 1 \| allowed: a budget of 72 images or more",
        ),
        (
            Budget(images=100_000),
            100_000,
            r"trains for 1,042 times its 2 epochs \| allowed: a budget of 9.6e\+04 images or less",
        ),
        (
            Budget(images=100),
            100,
            r"a whole number of its steps of 8 images takes 96 where 100 are its own",
        ),
        (Budget(tflops=1e-6), 1e-6, r"within 0.000001 TFLOPs it makes no step"),
    ],
)
def test_budgets_that_make_no_run(
    budget: Budget, own: float, message: str, scenery: Scenery
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Run(scenery).within(budget, own)
    assert str(caught.value).startswith("mae.yaml: ")


def _artifact(out: Path, node: str, budget: Budget | None = None, **facts: Any) -> Path:
    params = {} if budget is None else {"budget": budget.resolved()}
    took = {"flops": 0.0, "images_seen": 0, "device_seconds": 0.0}
    with publish(out, node=node, params=params, inputs={}) as draft:
        draft.facts.update({**took, **facts})
    return out


def test_what_stands_behind_a_run_is_summed_up(tmp_path: Path) -> None:
    teacher = {"flops": 4e12, "images_seen": 40, "device_seconds": 4.0}
    own = {"flops": 8e12, "images_seen": 70, "device_seconds": 6.0}
    made = Budget(tflops=12)
    tokenizer = _artifact(
        *(tmp_path / "t", "tokenizer", made), **own, behind=teacher, tokenizer="vqkd-12tflops"
    )
    assert Spent.on([tokenizer]) == Spent(12e12, 110, 10.0)
    assert own_share(Budget(tflops=36), {"tokenizer": tokenizer}) == pytest.approx(24)
    assert named_within("vqkd", tokenizer, Budget(tflops=36)) == "vqkd-12tflops"
    # Without a budget of the run, it is not the tokenizer that params name.
    assert named_within("vqkd", tokenizer, None) == "vqkd"
    message = r"t: took 12 TFLOPs .* allowed: 16, the share of 48 TFLOPs .* --budget-tflops 16$"
    with pytest.raises(UserError, match=message):
        own_share(Budget(tflops=48), {"tokenizer": tokenizer})


def test_weights_from_elsewhere_take_nothing(tmp_path: Path) -> None:
    official = _artifact(tmp_path / "o", "tokenizer", official={"encoder": "0"}, tokenizer="dalle")
    budget = Budget(tflops=36)
    assert own_share(budget, {"tokenizer": official}) == 36
    assert own_share(budget, {}) == 36
    assert named_within("dalle", official, budget) == "dalle"
    training = validate(RECIPES["mae"]["training"], Training, "mae.yaml")
    facts = facts_within(training, [official])
    assert facts["elsewhere"] == ["dalle"]
    assert facts["behind"] == {"flops": 0.0, "images_seen": 0, "device_seconds": 0.0}
