"""Params of an experiment: dataset x methods x backbones x seeds x tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Len
from pydantic import model_validator

from steps.params.base import Params
from steps.params.stages import Chain

Task = Literal["knn", "linear", "finetune", "detect", "layout", "zeroshot", "retrieval"]
OBJECT_TASKS: tuple[Task, ...] = ("detect", "layout")
"""Tasks that read ``detection_dataset``."""
TEXT_TASKS: tuple[Task, ...] = ("zeroshot", "retrieval")
"""Tasks that need a text tower: methods without one have no row in their tables."""
Names = Annotated[list[str], Len(1)]


class Experiment(Params):
    """``params/experiments/<experiment>.yaml``."""

    title: str
    question: str
    """What the report answers, in a sentence or two."""
    dataset: str
    """``params/datasets/<dataset>.yaml``: pretraining, k-NN, linear probing, fine-tuning."""
    detection_dataset: str | None = None
    """Images with boxes and masks: detection, object layout."""
    regime: str
    """``params/recipes/<regime>/``."""
    methods: Names
    """Recipes of the regime, each a row."""
    text_methods: list[str] = []
    """Those of ``methods`` that have a text tower, where a task needs one; else none. (DVC's
    templates cannot ask a recipe what it is; the plan checks the list.)"""
    backbones: Names
    seeds: Annotated[list[Annotated[int, Ge(0)]], Len(1)]
    features: str = "features"
    """The protocol of the frozen features that knn and linear take."""
    tasks: Annotated[dict[Task, str], Len(1)]
    """Each task's protocol, ``params/protocols/<protocol>.yaml``."""
    chain: Chain | None = None
    """For dvc.yaml: what stands behind the rows, held to the recipes by the plan."""

    def methods_of(self, task: str) -> list[str]:
        """The methods that a task applies to."""
        return self.text_methods if task in TEXT_TASKS else self.methods

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        for key in ("methods", "backbones", "seeds"):
            values = getattr(self, key)
            twice = sorted({str(value) for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"{key} names {', '.join(twice)} twice")
        for task in OBJECT_TASKS:
            if task in self.tasks and self.detection_dataset is None:
                raise ValueError(f"tasks has {task}, so the key 'detection_dataset' is needed")
        return self
