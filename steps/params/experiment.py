"""Params of an experiment: dataset x methods x backbones x seeds x tasks x protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Len
from pydantic import PrivateAttr, model_validator

from steps.params.base import Params, Whole
from steps.params.budget import Budget
from steps.params.imported import Imported, ImportedMethod, Method
from steps.params.load import load
from steps.params.names import Label, Name
from steps.params.recipe import Recipe, ScaledRecipe, Scaling
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
    """What the report answers, in a sentence or two."""
    dataset: Name
    """``params/datasets/<dataset>.yaml``: pretraining, k-NN, linear probing, fine-tuning."""
    detection_dataset: Name | None = None
    """Images with boxes and masks: detection, segmentation, object layout."""
    decode_dataset: Name | None = None
    """Drawn images whose factors are independent: which of them features tell (decode)."""
    bias_dataset: Name | None = None
    """Drawn images whose cues conflict: which of them features follow (bias)."""
    regime: Name
    """``params/recipes/<regime>/``."""
    methods: Annotated[list[Method], Len(1)]
    """Recipes of the regime, each a row; or ``imported: {...}``, an official checkpoint."""
    backbones: Names
    seeds: Annotated[list[Whole], Len(1)]
    budget: Budget | None = None
    """What each row that is trained here may use, in the place of its recipe's epochs."""
    scaling: Scaling | None = None
    """A study of scale: each of its methods has a row for every length and share of the images."""
    features: Name = "features"
    """The protocol of the frozen features that knn and linear take."""
    tasks: dict[TaskName, list[Name]]
    """Each task's protocols, ``params/protocols/<protocol>.yaml``; the first one of a task stands
    for it in the ranking. A task that is not named is left out."""
    pictures: list[Name] = []
    """Those of ``methods`` whose pictures the page shows, with the first seed: where they look,
    what they detect, and what ``steps.diagnose`` drew of them and of their tokenizers."""

    _untrained: frozenset[str] = PrivateAttr(frozenset())
    """Those of ``methods`` whose recipes train nothing: no budget is theirs."""

    @property
    def recipes(self) -> list[str]:
        """The rows that are pretrained here: methods, or their points in a study of scale."""
        return [name for name in self.names if name not in self.imported]

    @property
    def scaled(self) -> dict[str, ScaledRecipe]:
        """The rows that are not their recipes as they stand, by their names: those of a study of
        scale, and those of a budget."""
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
        """The rows of ``pictures``; a recipe's name stands for its row within the budget."""
        names = self.names
        return [
            name if name in names else ScaledRecipe(name, budget=self.budget).name
            for name in self.pictures
        ]

    @cached_property
    def imported(self) -> dict[str, Imported]:
        """The official checkpoints, by their names."""
        found = [m.imported for m in self.methods if isinstance(m, ImportedMethod)]
        return {each.name: each for each in found}

    @property
    def names(self) -> list[str]:
        """Every row as tables call it, in the experiment's order."""
        points: dict[str, list[str]] = {}
        for each in self.scaled.values():
            points.setdefault(each.recipe, []).append(each.name)
        names: list[str] = []
        for method in self.methods:
            name = method if isinstance(method, str) else method.imported.name
            names += points.get(name, [name])
        return names

    def evaluations(self) -> Iterator[tuple[str, str]]:
        """Every task with every protocol of it: what is measured of a row."""
        for task, protocols in self.tasks.items():
            for protocol in protocols:
                yield task, protocol

    def has_row(self, method: str, backbone: str) -> bool:
        """Whether a method has a row on a backbone: an official checkpoint has its own alone."""
        checkpoint = self.imported.get(method)
        return checkpoint is None or checkpoint.backbone == backbone

    @model_validator(mode="before")
    @classmethod
    def _not_any_more(cls, values: Any) -> Any:
        """Say what to do about a key that earlier versions asked for."""
        for key, why in _GONE.items():
            if isinstance(values, Mapping) and key in values:
                raise ValueError(f"the key '{key}' is not needed any more: remove it ({why})")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        lists: dict[str, Sequence[object]] = {
            "methods": self.names,
            "backbones": self.backbones,
            "seeds": self.seeds,
            "pictures": self.pictures,
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
                    "Call the recipe otherwise"
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
                raise ValueError(f"pictures names {name}, which is none of methods")
        if not self.tasks:
            raise ValueError("tasks names no task, so there is nothing to measure")
        for task in self.tasks:
            if getattr(self, key := TASKS[task].reads) is None:
                raise ValueError(f"tasks has {task}, so the key '{key}' is needed")
        return self


def load_experiment(file: Path) -> Experiment:
    """An experiment; of one with a budget the recipes are read too, for rows that train nothing.

    Args:
        file: ``<root>/experiments/<experiment>.yaml``.

    Raises:
        UserError: naming the file and the key at fault.
    """
    experiment = load(file, Experiment)
    if experiment.budget is not None:
        folder = file.parents[1] / "recipes" / experiment.regime
        experiment._untrained = frozenset(
            name
            for name in experiment.methods
            if isinstance(name, str) and load(folder / f"{name}.yaml", Recipe).training is None
        )
    return experiment
