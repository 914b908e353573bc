"""Estimated time of an experiment on the quickstart's machine, from the quickstart's records."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from steps.params.budget import Budget
from steps.params.dag import Pretraining
from steps.params.load import load
from steps.params.plan import Plan
from steps.params.shapes import ShapesDataset
from workflow.dvc import Stages

REPOSITORY = Path(__file__).resolve().parents[1]
REPORT = REPOSITORY / "reports/quickstart/records.jsonl"
CORES = 2
"""CPU cores of the machine that the estimate is for."""
JOB_SECONDS = 11.4
"""Seconds of a core for the imports of a job: the part of the quickstart's 23.2 minutes on two
cores that its records do not have, spread over its 44 jobs."""
_LIKE = {
    "mask_rcnn_shapes": "mask_rcnn_small",
    "layout": "layout_128",
    "finetune_small": "finetune_shapes",
    "finetune_numbers": "finetune_shapes",
    "geometry_bands": "geometry",
}
"""Protocols that cost the same as a measured one: the same network and sizes."""
_STATED = {"segment": 0.010}
"""Seconds per image of protocols that the quickstart lacks, as their files state them."""


@dataclass(frozen=True)
class Size:
    """Images of a set, and the time to decode one."""

    train: int
    val: int
    decode_seconds: float = 0.0


_Passes = Callable[[Size, float], float]
_PASSES: dict[str, _Passes] = {
    "knn": lambda size, epochs: size.train,
    "linear": lambda size, epochs: size.train,
    "finetune": lambda size, epochs: epochs * size.train + size.val,
    "geometry": lambda size, epochs: size.val,
    "detect": lambda size, epochs: epochs * size.train + size.val,
    "segment": lambda size, epochs: epochs * size.train + size.val,
    "layout": lambda size, epochs: size.val,
}
"""Images that a task passes over, by its set's size and its protocol's epochs."""
_CACHED = ("knn", "linear")
"""Tasks that decode no image: they read features."""


class Cost(NamedTuple):
    """Cost of an image in a pretraining."""

    seconds: float
    flops: float


class Measured:
    """Seconds per image of recipes and protocols, from a report's records."""

    def __init__(self, report: Path) -> None:
        recipes: dict[tuple[str, str, str], Cost] = {}
        # Rows of a budget have it in their names, and cost per image what they cost without it.
        budget = json.loads(report.with_name("report.json").read_text(encoding="utf-8"))["budget"]
        ending = "" if budget is None else f"-{Budget.model_validate(budget).name}"
        tasks: dict[tuple[str, str], list[float]] = defaultdict(list)
        for line in report.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            record, measured = entry["records"][0], entry["measured"]
            regime = entry["source"].split("/")[2]
            images = record["images_seen"]
            key = (regime, record["backbone"], record["recipe"].removesuffix(ending))
            recipes[key] = Cost(
                *(record[of] / images if images else 0.0 for of in ("device_seconds", "flops"))
            )
            dataset: ShapesDataset = load(
                REPOSITORY / f"params/datasets/{record['dataset']}.yaml", ShapesDataset
            )
            size = Size(dataset.train, dataset.val)
            epochs = _epochs(measured["params"])
            passed = _PASSES[record["task"]](size, epochs)
            tasks[record["backbone"], record["protocol"]].append(measured["wall_seconds"] / passed)
        self.recipes = recipes
        self.tasks = {key: statistics.mean(values) for key, values in tasks.items()}

    def of_task(self, backbone: str, protocol: str) -> float | None:
        """Seconds per image that a protocol passes over; None: not measured."""
        known = self.tasks.get((backbone, _LIKE.get(protocol, protocol)))
        return _STATED.get(protocol) if known is None else known


def _epochs(protocol: dict[str, object]) -> float:
    training = protocol.get("training")
    epochs = training.get("epochs") if isinstance(training, dict) else protocol.get("epochs")
    return float(epochs) if isinstance(epochs, int | float) else 1.0


def estimated_seconds(plan: Plan, sizes: dict[str, Size], report: Path = REPORT) -> float | None:
    """Wall seconds of an experiment on ``CORES`` cores, with jobs side by side.

    Args:
        plan: the experiment.
        sizes: of its sets, by name.
        report: records of a report that was made on the machine.

    Returns:
        None if one of its recipes, backbones or protocols was not measured there.
    """
    if not report.is_file():
        return None
    measured = Measured(report)
    experiment = plan.experiment
    seeds, own = len(experiment.seeds), sizes[experiment.dataset]
    seconds = JOB_SECONDS * len(list(Stages(plan).all()))
    # Each image is decoded and written once.
    seconds += sum(2 * size.decode_seconds * (size.train + size.val) for size in sizes.values())
    for node in plan.needs:
        if not isinstance(node, Pretraining):
            return None
        # Recipes for any channels do the work of those for photographs, but for the colours.
        stem = plan.recipe_file(node.recipe).stem.removesuffix("_bands")
        each = measured.recipes.get((experiment.regime, node.backbone, stem))
        if each is None:
            return None
        images = _images_seen(plan, node.recipe, own.train, each)
        seconds += seeds * images * (each.seconds + own.decode_seconds)
    # A pass over the images for features costs about one of the three passes of geometry.
    for row, task, protocol, dataset in plan.evaluations():
        size = sizes[dataset]
        per_image = measured.of_task(row[0], protocol)
        if per_image is None or task not in _PASSES:
            return None
        decoding = 0.0 if task in _CACHED else size.decode_seconds
        epochs = _epochs(plan.protocols[protocol].resolved())
        seconds += _PASSES[task](size, epochs) * (per_image + decoding)
    for (backbone, *_), dataset in plan.extractions():
        pass_seconds = (measured.of_task(backbone, "geometry") or 0.0) / 3
        size = sizes[dataset]
        seconds += (size.train + size.val) * (pass_seconds + size.decode_seconds)
    return seconds / CORES


def _images_seen(plan: Plan, recipe: str, train: int, cost: Cost) -> float:
    """Images of a pretraining; an incomplete last batch of an epoch is left out."""
    training, scaled = plan.recipes[recipe].training, plan.scaled.get(recipe)
    if training is None:
        return 0.0
    if scaled is not None and scaled.budget is not None:
        budget = scaled.budget
        return float(budget.images or 1e12 * budget.amount / cost.flops)
    return training.epochs * (train // training.batch_size) * training.batch_size


def in_words(seconds: float) -> str:
    """A duration as a person says it."""
    minutes = seconds / 60
    if minutes < 90:
        return f"{max(1, round(minutes))} minutes"
    return f"{minutes / 60:.1f} hours" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days"
