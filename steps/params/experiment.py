"""Params of an experiment: dataset x methods x backbones x seeds x tasks x protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len
from pydantic import PrivateAttr, model_validator

from steps.command import UserError
from steps.params.base import LATER, Params, Whole
from steps.params.budget import Budget
from steps.params.imported import Imported, ImportedMethod, Method
from steps.params.load import load
from steps.params.names import Label, Name
from steps.params.recipe import KeptWeights, Recipe, ScaledRecipe, Scaling
from steps.params.tasks import TASKS, TaskName

Names = Annotated[list[Name], Len(1)]
_GONE = {
    "chain": "python -m workflow.dvc writes dvc.yaml from the experiment",
    "text_methods": "recipes say which methods have a text tower",
}


class Experiment(Params):
    """``params/experiments/<experiment>.yaml``."""

    title: Label
    question: Annotated[str, Len(1)]
    """The question that the report answers, in a sentence or two."""
    dataset: Name
    """``params/datasets/<dataset>.yaml``: for pretraining, and for tasks that name no other set."""
    evaluate_on: Annotated[Names | None, LATER] = None
    """Sets that replace ``dataset`` in tasks, each with tables of its own; ``dataset`` may be among
    them. The ranking stands on the first one, and so does ``training.knn`` where ``dataset`` has no
    labels. null: tasks read ``dataset``."""
    detection_dataset: Name | None = None
    """Images with boxes and masks: detection, segmentation, object layout."""
    decode_dataset: Name | None = None
    """Drawn images with independent factors: which factors can features decode (decode)?"""
    bias_dataset: Name | None = None
    """Drawn images with conflicting cues: which cue do features follow (bias)?"""
    regime: Name
    """``params/recipes/<regime>/``."""
    methods: Annotated[list[Method], Len(1)]
    """Recipes of the regime, each a row; or ``imported: {...}``, an official checkpoint."""
    backbones: Names
    seeds: Annotated[list[Whole], Len(1)]
    budget: Budget | None = None
    """Compute or images that each row trained here may use; replaces the epochs of its recipe."""
    scaling: Scaling | None = None
    """A scaling study: each of its methods has one row per length and share of the images."""
    features: Name = "features"
    """The protocol of the frozen features that knn and linear read."""
    tasks: dict[TaskName, list[Name]]
    """The protocols of each task, ``params/protocols/<protocol>.yaml``; its first one represents it
    in the ranking. A task that is not named is left out."""
    pictures: list[Name] = []
    """Methods whose pictures the page shows, with the first seed: attention, detections, and the
    drawings of ``steps.diagnose`` of them and of their tokenizers."""

    _untrained: frozenset[str] = PrivateAttr(frozenset())
    """Methods whose recipes train nothing, to which no budget applies."""
    _keep_epochs: dict[str, list[float]] = PrivateAttr({})
    """Epochs at which recipes keep weights, by method."""
    _trials: dict[str, int] = PrivateAttr({})
    """Number of settings of a recipe that were tried, by method."""

    @property
    def recipes(self) -> list[str]:
        """The rows that are pretrained here: methods, or their points in a scaling study."""
        aside = {*self.imported, *self.kept}
        return [name for name in self.names if name not in aside]

    @property
    def kept(self) -> dict[str, KeptWeights]:
        """The rows of weights that a pretraining keeps along its way, by name."""
        kept = [
            KeptWeights(name, epoch)
            for method, names in self._trained.items()
            for name in names
            for epoch in self._keep_epochs.get(method, ())
        ]
        return {each.name: each for each in kept}

    @property
    def scaled(self) -> dict[str, ScaledRecipe]:
        """The rows that change their recipe, by name: rows of a scaling study or of a budget."""
        scaled: list[ScaledRecipe] = []
        if self.scaling is not None:
            for name in self.scaling.methods:
                scaled += self.scaling.scaled(name, self.budget)
        if self.budget is not None:
            rest = {name for name in self.methods if isinstance(name, str)} - self._untrained
            rest -= {each.recipe for each in scaled}
            scaled += [
                ScaledRecipe(name, budget=self.budget) for name in self.methods if name in rest
            ]
        return {each.name: each for each in scaled}

    @property
    def pictured(self) -> list[str]:
        """The rows of ``pictures``; the name of a recipe means its row within the budget."""
        names = self.names
        return [
            name if name in names else ScaledRecipe(name, budget=self.budget).name
            for name in self.pictures
        ]

    @cached_property
    def imported(self) -> dict[str, Imported]:
        """The official checkpoints by name."""
        found = [m.imported for m in self.methods if isinstance(m, ImportedMethod)]
        return {each.name: each for each in found}

    @property
    def trials(self) -> dict[str, int]:
        """Number of settings of a row's recipe that were tried, by the name of the row."""
        rows = {
            name: self._trials[method]
            for method, names in self._trained.items()
            for name in names
            if method in self._trials
        }
        kept = {n: rows[each.recipe] for n, each in self.kept.items() if each.recipe in rows}
        return rows | kept

    @property
    def names(self) -> list[str]:
        """The name of every row in tables, in the order of the experiment."""
        before: dict[str, list[str]] = {}
        for name, each in self.kept.items():
            before.setdefault(each.recipe, []).append(name)
        names: list[str] = []
        for method in self.methods:
            if isinstance(method, str):
                for name in self._trained[method]:
                    names += [*before.get(name, []), name]
            else:
                names.append(method.imported.name)
        return names

    @property
    def _trained(self) -> dict[str, list[str]]:
        """The names of the rows that each recipe among the methods trains."""
        points: dict[str, list[str]] = {}
        for each in self.scaled.values():
            points.setdefault(each.recipe, []).append(each.name)
        return {name: points.get(name, [name]) for name in self.methods if isinstance(name, str)}

    def sets_of(self, task: str) -> list[str]:
        """The sets that a task, or ``features``, reads: several only with ``evaluate_on``.

        ``dataset`` for a task that is not measured here and whose own key is not given.
        """
        key = TASKS[task].reads if task in TASKS else "dataset"
        if key == "dataset" and self.evaluate_on is not None:
            return self.evaluate_on
        return [getattr(self, key) or self.dataset]

    def evaluations(self) -> Iterator[tuple[str, str]]:
        """Every (task, protocol) that is measured on a row, on each set of the task."""
        for task, protocols in self.tasks.items():
            for protocol in protocols:
                yield task, protocol

    def has_row(self, method: str, backbone: str) -> bool:
        """True if a method has a row on a backbone; an official checkpoint has only its own."""
        checkpoint = self.imported.get(method)
        return checkpoint is None or checkpoint.backbone == backbone

    @model_validator(mode="before")
    @classmethod
    def _not_any_more(cls, values: Any) -> Any:
        """Refuse a key of earlier versions, and say what to do about it."""
        for key, why in _GONE.items():
            if isinstance(values, Mapping) and key in values:
                raise ValueError(f"the key '{key}' is no longer needed: remove it ({why})")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        lists: dict[str, Sequence[object]] = {
            "methods": self.names,
            "backbones": self.backbones,
            "seeds": self.seeds,
            "pictures": self.pictures,
            "evaluate_on": self.evaluate_on or [],
            **{f"tasks.{task}": protocols for task, protocols in self.tasks.items()},
        }
        for task, protocols in self.tasks.items():
            if not protocols:
                raise ValueError(f"tasks.{task} names no protocol: remove the key")
        for name, point in self.scaled.items():
            if name != point.recipe and name in self.methods:
                key = "scaling" if self.budget is None else "budget"
                raise ValueError(
                    f"methods names the recipe {name}, and {key} has a row of that name: {point}. "
                    "Rename the recipe"
                )
        for key, values in lists.items():
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"{key} names {', '.join(twice)} twice")
        for name, checkpoint in self.imported.items():
            if checkpoint.backbone not in self.backbones:
                raise ValueError(
                    f"methods: {name} is on backbone {checkpoint.backbone}, which is not among "
                    f"backbones {self.backbones}"
                )
        for name in self.scaling.methods if self.scaling else ():
            if name not in self.methods:
                raise ValueError(f"scaling.methods names {name}, which is no recipe among methods")
        names = self.names
        for name, row in zip(self.pictures, self.pictured, strict=True):
            if row not in names:
                raise ValueError(f"pictures names {name}, which is not among methods")
        if not self.tasks:
            raise ValueError("tasks names no task, so there is nothing to measure")
        for task in self.tasks:
            if getattr(self, key := TASKS[task].reads) is None:
                raise ValueError(f"tasks has {task}, so the key '{key}' is needed")
        if self.evaluate_on and all(TASKS[task].reads != "dataset" for task in self.tasks):
            raise ValueError(
                f"evaluate_on is given, but no task of {', '.join(self.tasks)} reads its sets: "
                "remove the key, or add a task such as knn"
            )
        return self


def load_experiment(file: Path) -> Experiment:
    """Read an experiment, and of its recipes what decides its rows: the ones that train nothing,
    and the epochs at which weights are kept; and how many settings were tried.

    Args:
        file: ``<root>/experiments/<experiment>.yaml``.

    Raises:
        UserError: naming the file and the key at fault.
    """
    experiment = load(file, Experiment)
    folder = file.parents[1] / "recipes" / experiment.regime
    recipes = {
        name: load(folder / f"{name}.yaml", Recipe)
        for name in experiment.methods
        # The plan names a recipe that is missing; a report needs none.
        if isinstance(name, str) and (experiment.budget or (folder / f"{name}.yaml").is_file())
    }
    trainings = {name: recipe.training for name, recipe in recipes.items()}
    if experiment.budget is not None:
        experiment._untrained = frozenset(
            name for name, training in trainings.items() if training is None
        )
    experiment._keep_epochs = {
        name: training.keep_epochs for name, training in trainings.items() if training is not None
    }
    experiment._trials = {
        name: recipe.trials for name, recipe in recipes.items() if recipe.trials is not None
    }
    for name, kept in experiment.kept.items():
        other = folder / f"{name}.yaml"
        if name in experiment.imported or other.is_file():
            what = "an imported row" if name in experiment.imported else f"the recipe {other}"
            raise UserError(
                f"{file}: methods",
                f"the weights of {kept.recipe} after {kept.epoch:g} epochs (training.keep_epochs) "
                f"would be called {name}, as {what} is",
                remedy="rename that one: both would have one folder in the results",
            )
    return experiment
