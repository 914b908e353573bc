"""A made-up experiment on disk: backbone artifacts and record files as the steps write them."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from steps.artifacts import Record, publish, write_records
from steps.params.experiment import Experiment
from steps.params.paths import Paths
from steps.params.tasks import TASKS
from steps.reporting.collect import collect
from steps.reporting.source import ReportSpec, ScaledRow, Source

KINDS = {
    "random": "Random",
    "supervised": "Supervised",
    "mae": "Generative",
    "beit": "Generative",
    "dino": "Contrastive",
    "mocov3": "Contrastive",
    "clip": "Contrastive",
}
PROTOCOLS = {
    "knn": "knn",
    "linear": "linear",
    "finetune": "finetune_small",
    "detect": "mask_rcnn_small",
    "zeroshot": "zeroshot",
    "retrieval": "retrieval",
    "decode": "decode",
    "bias": "bias",
}
TOP1 = {"random": 21.3, "supervised": 93.7, "mae": 64.2, "beit": 60.1, "dino": 78.9}
METRICS = {
    "knn": ("top1", "top5", "top1_k10"),
    "linear": ("top1", "top5"),
    "finetune": ("top1", "top5"),
    "detect": ("box_AP", "box_AP50", "mask_AP"),
    "zeroshot": ("top1", "top5"),
    "retrieval": ("text_R@1", "image_R@1"),
    "decode": ("outline", "colour", "texture", "ground_colour", "ground_texture"),
    "bias": tuple(
        f"{metric}{end}"
        for end in ("", "_knn")
        for cue in ("texture", "colour", "ground")
        for metric in (f"outline_vs_{cue}", f"{cue}_vs_outline")
    ),
}
GAINS = {
    "knn": 0.0,
    "linear": 4.0,
    "finetune": 5.0,
    "detect": -20.0,
    "zeroshot": 1.0,
    "retrieval": -9.0,
    "decode": 0.0,
    "bias": -60.0,
}
SETS = {"detect": "shapes_scenes", "decode": "shapes_independent", "bias": "shapes_conflicts"}


@dataclass(frozen=True)
class Synthetic:
    """Where a made-up experiment lies."""

    params: Path
    paths: Paths
    heading: ReportSpec

    def source(self) -> Source:
        """What collect makes of it."""
        return collect(self.heading, self.paths)

    def row(self, recipe: str, seed: int = 0, backbone: str = "vit_pico") -> Path:
        """The folder of a row."""
        return Path(self.paths.row(backbone, recipe, seed))

    @property
    def results(self) -> Path:
        """The folder of all results."""
        return Path(self.paths.results)

    def file(self, recipe: str, task: str) -> Path:
        """A record file by the first protocol of its task."""
        return record_file(self.row(recipe), task, self.heading.tasks[task][0])


def record_file(row: Path, task: str, protocol: str, on: str = "") -> Path:
    """Where the record of a task by a protocol lies; ``on`` is a set of ``evaluate_on``."""
    if task in ("knn", "linear"):
        return row / task / (on or "shapes") / "features" / f"{protocol}.json"
    return row / task / (on or SETS.get(task, "shapes")) / f"{protocol}.json"


def build(
    root: Path,
    methods: Sequence[str] = ("random", "supervised", "mae", "dino"),
    backbones: Sequence[str] = ("vit_pico",),
    seeds: Sequence[int] = (0,),
    tasks: Sequence[str] = ("knn", "linear", "finetune", "detect"),
    steps: int = 40,
    collapsed: Sequence[tuple[str, int]] = (),
    text_methods: Sequence[str] = (),
    protocols: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    imported: Sequence[str] = (),
    scaling: Mapping[str, ScaledRow] = MappingProxyType({}),
    evaluate_on: Sequence[str] = (),
) -> Synthetic:
    """Write an experiment's params, backbone artifacts and record files below ``root``.

    ``collapsed`` names the recipes and seeds whose embeddings were so after pretraining,
    ``protocols`` those of tasks that have not the one of PROTOCOLS, ``imported`` the recipes that
    are official checkpoints of the first backbone, ``scaling`` the rows that stand for a method at
    a length, on a share of the images, ``evaluate_on`` several sets with the same scores.
    """
    methods = (*methods, *scaling)
    measured = {task: protocols.get(task, (PROTOCOLS[task],)) for task in tasks}
    only = {task: tuple(text_methods) for task in tasks if "text" in TASKS[task].needs}
    params = root / "params" / "experiments" / "made_up.yaml"
    official = dict.fromkeys(imported, backbones[0])
    content = {
        "title": "Made-up numbers",
        "question": "Does the report add up?",
        "dataset": "shapes",
        **{f"{name}_dataset": SETS[name] for name in ("decode", "bias")},
        "detection_dataset": "shapes_scenes",
        "regime": "small",
        "methods": [
            {
                "imported": {
                    "name": m,
                    "format": m,
                    "checkpoint": f"{m}.pth",
                    "backbone": backbones[0],
                }
            }
            if m in imported
            else m
            for m in methods
        ],
        "backbones": list(backbones),
        "seeds": list(seeds),
        "tasks": {task: list(names) for task, names in measured.items()},
        **({"evaluate_on": list(evaluate_on)} if evaluate_on else {}),
    }
    params.parent.mkdir(parents=True)
    params.write_text(json.dumps(content))  # JSON is YAML
    experiment = Experiment.model_validate(content)
    paths = Paths(experiment, str(root / "results"))
    for backbone, recipe, seed in product(backbones, methods, seeds):
        if official.get(recipe, backbone) != backbone:
            continue
        folder = Path(paths.row(backbone, recipe, seed))
        flat = (recipe, seed) in collapsed
        write_backbone(
            folder / "backbone",
            recipe,
            backbone,
            seed,
            steps,
            collapsed=flat,
            imported=recipe in official,
            scaled=scaling.get(recipe),
        )
        for task, names in measured.items():
            if recipe in only.get(task, methods):
                several = evaluate_on if TASKS[task].reads == "dataset" else ()
                for (place, name), on in product(enumerate(names), several or [""]):
                    gain = -place + _grown_by(scaling.get(recipe))
                    write_task(folder, task, name, gain=gain, on=on)
    heading = ReportSpec.of(
        experiment,
        text_methods,
        experiment="params/experiments/made_up.yaml",
        results="results",
        out="reports/made_up",
    ).model_copy(update={"scaling": dict(scaling)})
    return Synthetic(params, paths, heading)


def write_backbone(
    out: Path,
    recipe: str,
    backbone: str,
    seed: int,
    steps: int = 40,
    *,
    collapsed: bool = False,
    imported: bool = False,
    scaled: ScaledRow | None = None,
) -> None:
    """A backbone artifact without weights that anyone could load."""
    trained = recipe != "random" and not imported
    params: dict[str, Any] = {"recipe": recipe, "backbone": backbone}
    if imported:
        params["official"] = {"mae.pth": "0" * 64}
    with publish(out, node="pretrain", params=params, inputs={}, seed=seed) as draft:
        (draft.path / "config.json").write_text(json.dumps([recipe, backbone, seed]))
        if trained:
            lines = [
                {
                    "step": step,
                    "epoch": 50 * step / steps,
                    "loss": loss(recipe, step / steps, seed),
                    "lr": 1e-3,
                }
                for step in range(1, steps + 1)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (draft.path / "metrics.jsonl").write_text(text)
        draft.facts = {
            "method": recipe if scaled is None else scaled.recipe,
            "recipe": recipe,
            "kind": KINDS[recipe if scaled is None else scaled.recipe],
            "backbone": backbone,
            "scale": "ViT-Pico" if backbone == "vit_pico" else "ViT-Nano",
            "pretrain_dataset": "shapes",
            "epochs": 50.0 if trained else 0.0,
            "images_seen": 200_000 if trained else 0,
            "flops": 2.345e13 if trained else 0.0,
            "device_seconds": 125.2 + seed if trained else 0.0,
            "collapsed": collapsed,
        }
        if scaled is not None:
            seen = scaled.length * scaled.data_share
            size = 1.0 if backbone == "vit_pico" else 4.0
            draft.facts |= {
                "epochs": 50.0 * scaled.length,
                "images_seen": round(200_000 * seen),
                "flops": 2.345e13 * seen * size,
            }


def _grown_by(scaled: ScaledRow | None) -> float:
    """Points of accuracy: five for each doubling of what is seen."""
    return 0.0 if scaled is None else 5 * math.log2(scaled.length * scaled.data_share)


def loss(recipe: str, progress: float, seed: int) -> float:
    """A falling curve with a ripple that tells the seeds apart."""
    ripple = 0.03 * math.sin(80 * progress + 2 * seed + len(recipe))
    return len(recipe) * (0.4 + math.exp(-4 * progress) + ripple)


def write_task(
    folder: Path,
    task: str,
    name: str | None = None,
    /,
    *,
    gain: float = 0.0,
    on: str = "",
    **changed: Any,
) -> None:
    """The record file of a task beside ``folder``'s backbone; ``changed`` fields as given.

    ``name`` is the protocol's, of PROTOCOLS if there is none; ``gain`` is added to the values, and
    ``on`` is one of several sets.
    """
    name = PROTOCOLS[task] if name is None else name
    backbone = folder / "backbone"
    recipe, seed = folder.parent.name, int(folder.name.removeprefix("seed"))
    wider = 2.0 if folder.parent.parent.name != "vit_pico" else 0.0
    records = []
    for place, metric in enumerate(METRICS[task]):
        measured: dict[str, Any] = {
            "task": task,
            "protocol": name,
            "metric": metric,
            "value": max(
                0.0,
                min(
                    99.9,
                    TOP1.get(recipe.partition("-x")[0], 50.0)
                    + GAINS[task]
                    + wider
                    + seed
                    + 3 * place
                    + gain,
                ),
            ),
            "unit": "%",
            "n": 1000,
            "dataset": on or SETS.get(task, "shapes"),
        }
        record = Record.of_backbone(backbone, **measured)
        records.append(record.model_copy(update=changed))
    write_records(
        record_file(folder, task, name, on),
        records,
        node=task,
        params={"protocol": {"name": name, "lr": [0.1, 0.3]}},
        inputs={"backbone": backbone},
        started=time.monotonic(),
        seed=seed,
    )
