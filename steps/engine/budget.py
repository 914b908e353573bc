"""From a budget to the length of a run, by FLOPs per image that are counted before training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.core.seeds import generator
from steps.data.loader import DatasetFacts, TrainingViews
from steps.data.views import normalise
from steps.engine.loop import Phase, plan_phases
from steps.engine.watch import flops_per_image
from steps.methods.method import Batch, Method
from steps.params.budget import TOLERANCE, Budget
from steps.params.recipe import Recipe, ScaledRecipe, Scaling, Teacher, Training

LONGEST = 1000.0
"""Largest factor on a recipe's epochs, the same as the limit of ``training.length``."""
_COUNTED, _AT_ONCE = 32, 8
"""Images whose random choices are counted, since masks and dropped layers differ between images,
and images per forward pass."""
_TERA = 1e12


@dataclass(frozen=True)
class Spent:
    """Compute, images and time of all pretraining that the inputs of a run took."""

    flops: float = 0.0
    images_seen: int = 0
    device_seconds: float = 0.0

    @classmethod
    def on(cls, artifacts: Iterable[Path]) -> Spent:
        """The sum over teachers and tokenizers, with their own inputs."""
        total = cls()
        for path in artifacts:
            facts = read_manifest(path).facts
            own = {name: facts[name] for name in asdict(total)}
            # A manifest holds the sum behind it, so that a chain of any length adds up.
            total = total.plus(own).plus(facts.get("behind", {}))
        return total

    def plus(self, other: Mapping[str, Any]) -> Spent:
        """The sum with facts of a manifest."""
        return Spent(**{name: value + other.get(name, 0) for name, value in asdict(self).items()})

    def of(self, budget: Budget) -> float:
        """The amount in the unit of a budget."""
        return self.flops / _TERA if budget.images is None else float(self.images_seen)


def facts_within(training: Training, behind: Iterable[Path]) -> dict[str, Any]:
    """Facts of a run within a budget, for its manifest.

    Args:
        training: at its length.
        behind: the teacher or the tokenizer, if there is one.
    """
    elsewhere: list[str] = []
    for path in (behind := list(behind)):
        facts = read_manifest(path).facts
        # What others trained cost nothing here; the page names it instead.
        elsewhere += [facts["tokenizer"]] if "official" in facts else facts.get("elsewhere", [])
    spent = asdict(Spent.on(behind))
    return {"length": training.length, "behind": spent, "elsewhere": elsewhere}


def named_within(stem: str, artifact: Path | None, budget: Budget | None) -> str:
    """The name that a teacher or tokenizer of a run must have.

    Args:
        stem: as params name it.
        artifact: the one that is given; a budget that it was trained within is part of its name.
        budget: the run's; without one its inputs have none.
    """
    if budget is None or artifact is None:
        return stem
    made = read_manifest(artifact).params.get("budget")
    return stem if made is None else ScaledRecipe(stem, budget=Budget.model_validate(made)).name


def named_teacher(
    teacher: Teacher | None, artifact: Path | None, budget: Budget | None
) -> dict[str, str] | None:
    """Recipe and backbone that a run's teacher must have; None if params name no teacher."""
    if teacher is None:
        return None
    recipe = named_within(teacher.recipe, artifact, budget)
    return {"recipe": recipe, "backbone": teacher.backbone}


def check_length(where: Path, training: Training | None, length: float | None) -> None:
    """Refuse a length other than the budget's.

    Args:
        where: the params file that errors name.
        training: its training params.
        length: the option.

    Raises:
        UserError: the option or the params give one.
    """
    if length is not None:
        raise UserError(
            "--length",
            f"{length:g}, beside a budget, which gives the length of the run",
            remedy="leave one of the two out",
        )
    if training is not None and training.length != 1:
        raise UserError(
            f"{where}: training.length",
            f"{training.length:g}, and a budget gives the length of the run",
            allowed="1, or no such key",
            remedy="remove the key, or give no budget",
        )


def scaled(
    where: Path, recipe: Recipe, budget: Budget | None, length: float | None, share: float | None
) -> tuple[Recipe, str]:
    """The recipe at the length and data share of the options, and the name of its row in tables.

    Args:
        where: the recipe's file.
        recipe: as the file has it.
        budget: gives the length of the run, if there is one.
        length, share: the options; None: as in the recipe.

    Raises:
        UserError: it trains nothing, or an option is out of its range.
    """
    if (length, share) == (None, None) and budget is None:
        return recipe, where.stem
    training = recipe.training
    if budget is not None:
        check_length(where, training, length)
    if length is None:
        length = 1.0 if training is None else training.length
    if share is None:
        share = recipe.data_share
    try:
        # Checked as the same two keys of a recipe are.
        Scaling(methods=[where.stem], lengths=[length], data_shares=[share])
        changed = recipe.scaled(length, share)
        return changed, ScaledRecipe(where.stem, length, share, budget).name
    except ValidationError as error:
        raise UserError(
            "--length, --data-share",
            f"{length:g} and {share:g}",
            allowed="a length above 0, a share above 0 and at most 1, of at most six digits",
        ) from error
    except ValueError as error:
        raise UserError(f"{where}: training", str(error)) from error


def own_share(budget: Budget, behind: Mapping[str, Path]) -> float:
    """The part of a budget that is left for the run itself, in the budget's unit.

    Args:
        budget: budget of the run and its inputs.
        behind: the teacher or the tokenizer by role, if there is one.

    Raises:
        UserError: the inputs took another share than the budget gives them.
    """
    took = Spent.on(behind.values()).of(budget)
    if took == 0:  # no inputs, an untrained network, or weights from elsewhere
        return budget.amount
    share = budget.of_inputs.amount
    if abs(took - share) > TOLERANCE * share:
        raise UserError(
            ", ".join(f"--{role} {path}" for role, path in behind.items()),
            f"took {took:.4g} {budget.unit} with what stands behind it",
            allowed=f"{share:g}, the share of {budget} that is left to it",
            remedy=f"give what was made with {' '.join(budget.of_inputs.options)}",
        )
    return budget.amount * (1 - budget.behind)


def within_budget(
    training: Training,
    budget: Budget,
    own: float,
    method: Method,
    views: TrainingViews,
    facts: DatasetFacts,
    where: str,
) -> tuple[Training, list[float]]:
    """The training at the length that a budget gives it, and FLOPs of an image in each phase.

    The length is the same for every seed and number of devices: FLOPs are counted before processes
    meet, with random choices of a fixed seed.

    Args:
        training: the recipe's, at length 1.
        budget: budget of the run and its inputs.
        own: the part that is left for the run itself, in the budget's unit.
        method: on the CPU, as it was built.
        views: the training images.
        facts: facts of their set.
        where: the params file that errors name.

    Raises:
        UserError: the budget is below the recipe's warm-up, or one step; or no whole number of
            steps is near it; or it is more than ``LONGEST`` times the recipe's cost.
    """
    steps_per_epoch = max(facts.train_images // training.batch_size, 1)

    def phases(length: float) -> list[Phase]:
        scaled = training.model_copy(update={"length": length})
        return plan_phases(scaled, views, steps_per_epoch, rank=0, world=1, where=where)

    flops = _flops(method, phases(1.0), facts)
    # An image costs one unit in a budget of images, whatever its size; the rest is the same.
    costs = flops if budget.images is None else [_TERA] * len(flops)
    steps = [cost * training.batch_size / _TERA for cost in costs]
    epochs = [training.epochs, *([final.epochs] if (final := training.final_phase) else [])]
    whole = sum(step * each * steps_per_epoch for step, each in zip(steps, epochs, strict=True))
    length = own / whole
    _check_length(training, budget, own, length, max(steps), where)
    # Each phase rounds to whole steps by itself, so that the sum is known only now.
    spent = sum(s * phase.steps for s, phase in zip(steps, phases(length), strict=True))
    if abs(spent - own) > TOLERANCE * own:
        raise UserError(
            where,
            f"within {budget}, a whole number of its steps of {max(steps):.3g} {budget.unit} takes "
            f"{spent:.3g} where {own:.3g} are its own",
            allowed=f"a number of steps within {100 * TOLERANCE:g} % of the budget",
            remedy="raise the budget, or lower training.batch_size",
        )
    return training.model_copy(update={"length": length}), flops


def _check_length(
    training: Training, budget: Budget, own: float, length: float, step: float, where: str
) -> None:
    """Refuse a length that makes no run of the recipe."""
    epochs, warmup = length * training.epochs, training.schedule.warmup_epochs
    part = "" if own == budget.amount else f", of which {own:.4g} are its own,"
    # From the run's own part back to the budget, which is what a reader would change.
    asked = budget.amount / own
    if own < step:
        raise UserError(
            where,
            f"within {budget}{part} it makes no step, which takes {step:.3g}",
            allowed=f"a budget of {step * asked:.3g} {budget.unit} or more",
            remedy="raise the budget",
        )
    if epochs < warmup:
        raise UserError(
            where,
            f"within {budget}{part} it trains for {epochs:.3g} epochs, less than its warm-up of "
            f"{warmup:g}",
            allowed=f"a budget of {budget.amount * warmup / epochs:.3g} {budget.unit} or more",
            remedy="raise the budget, or lower training.schedule.warmup_epochs",
        )
    if length > LONGEST:
        raise UserError(
            where,
            f"within {budget}{part} it trains for {length:,.0f} times its {training.epochs:g} "
            "epochs",
            allowed=f"a budget of {budget.amount * LONGEST / length:.3g} {budget.unit} or less",
            remedy="lower the budget, or raise training.epochs",
        )


def _flops(method: Method, phases: list[Phase], facts: DatasetFacts) -> list[float]:
    """FLOPs per image in the middle of each phase, the mean over ``_COUNTED`` draws."""
    counted = []
    for index, phase in enumerate(phases):
        trial = method
        if index > 0:
            trial = copy.deepcopy(method)
            trial.enter_final_phase(phase.views.sides)
        # FLOPs depend on shapes and on draws, not on pixels.
        samples = phase.views.together([(0, 0)] * _AT_ONCE)
        batch = Batch(
            [normalise(view, facts.mean, facts.std) for view in samples.views],
            samples.labels,
            samples.text,
        )
        draws = trial.sample(_COUNTED, generator(0, "flops"))
        progress = phase.progress(phase.first + phase.steps // 2)
        # As in training, where the draws of a batch are made at once and then divided.
        parts = [
            {name: draw[first : first + _AT_ONCE] for name, draw in draws.items()}
            for first in range(0, _COUNTED, _AT_ONCE)
        ]
        counts = [flops_per_image(trial, batch, part, progress) for part in parts]
        counted.append(sum(counts) / len(counts))
    return counted
