"""Sets with several labels, a number or a mask per image: tasks on them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from steps.command import UserError
from steps.params.checks import load_plan
from steps.params.plan import Plan
from tests.scenery import RECIPES, Scenery

TABLE = {"format": "csv", "train": "t.csv", "val": {"share": 0.5}}
MASKS = {"images": "i", "masks": "m"}
SETS = {
    "fields": {"format": "masks", "train": MASKS, "val": {"share": 0.5}, "classes": ["a", "b"]},
    "findings": {**TABLE, "label_separator": "|"},
    "ages": {**TABLE, "number_column": "age"},
}
CACHED = {"kind": "cached", "poolings": ["cls"], "epochs": 1, "batch_size": 8, "lr": [0.1]}
PROTOCOLS: dict[str, Any] = {
    "features": {"poolings": ["cls"], "crop_fraction": 1.0},
    "knn": {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"},
    "linear": CACHED,
    "finetune": {
        "method": {"name": "supervised"},
        "training": RECIPES["supervised"]["training"],
        "crop_fraction": 1.0,
    },
    "zeroshot": {"prompts": ["a {class}."], "crop_fraction": 1.0},
    "geometry": {"pooling": "cls", "view": {"area": [0.2, 1.0]}, "crop_fraction": 1.0},
}
LOGREG = {"kind": "logreg", "poolings": ["cls"], "c": [1.0]}
LOGREG |= {"max_iterations": 10, "tolerance": 1e-6}


def _plan(scenery: Scenery, dataset: str, protocols: Any = (), **changes: Any) -> Plan:
    for name, content in SETS.items():
        scenery.write(f"datasets/{name}.yaml", content)
    for name, content in {**PROTOCOLS, **dict(protocols)}.items():
        scenery.write(f"protocols/{name}.yaml", content)
    experiment = {
        "title": "Test",
        "question": "?",
        "dataset": dataset,
        "regime": "test",
        "methods": ["random", "dino"],
        "backbones": ["vit_test"],
        "seeds": [0],
        "tasks": {name: [name] for name in ("knn", "linear", "finetune", "geometry")},
        **changes,
    }
    scenery.write("experiments/test.yaml", experiment)
    return load_plan("test", scenery.params)


SEGMENT = {"epochs": 1, "batch_size": 4, "lr": 0.01, "weight_decay": 0.0}


def test_semantic_masks_are_pretrained_on_and_segmented(scenery: Scenery) -> None:
    tasks = {"segment": ["segment"], "geometry": ["geometry"]}
    plan = _plan(scenery, "fields", {"segment": SEGMENT}, tasks=tasks, detection_dataset="fields")
    assert {(task, on) for _, task, _, on in plan.evaluations()} == {
        ("segment", "fields"),
        ("geometry", "fields"),
    }


@pytest.mark.parametrize(
    ("task", "on", "found"),
    [
        ("layout", "fields", r"fields\.yaml has no boxes, which layout needs"),
        (
            "segment",
            "ages",
            r"ages\.yaml has no masks, which segment needs \| allowed: a set of "
            "format masks, coco with masks, or shapes",
        ),
    ],
)
def test_sets_without_what_a_task_on_objects_needs(
    scenery: Scenery, task: str, on: str, found: str
) -> None:
    protocols = {"segment": SEGMENT, "layout": {"mass": 0.6, "crop_fraction": 1.0}}
    with pytest.raises(UserError, match=found):
        _plan(scenery, "fields", protocols, tasks={task: [task]}, detection_dataset=on)


@pytest.mark.parametrize("dataset", ["findings", "ages"])
def test_tasks_on_labels_take_them(scenery: Scenery, dataset: str) -> None:
    plan = _plan(scenery, dataset)
    assert {task for _, task, _, _ in plan.evaluations()} == {
        *("knn", "linear", "finetune", "geometry")
    }


@pytest.mark.parametrize(
    ("dataset", "protocols", "changes", "found"),
    [
        (
            "findings",
            {},
            {"methods": ["random", "supervised"]},
            r"dataset: findings has several labels per image, and recipe supervised needs one "
            r"class per image \| allowed: a classification set",
        ),
        (
            "ages",
            {},
            {"methods": ["clip"], "tasks": {"zeroshot": ["zeroshot"]}},
            "ages has a number per image, and zeroshot needs one class per image",
        ),
        (
            "findings",
            {"linear": LOGREG},
            {},
            r"linear\.yaml: kind: logreg, which needs one class per image, and findings has "
            r"several labels per image \| allowed: kind: cached",
        ),
        (
            "ages",
            {"knn": {**PROTOCOLS["knn"], "samples_per_class": [5]}},
            {},
            r"knn\.yaml: samples_per_class: \[5\], which needs one class per image",
        ),
        (
            "ages",
            {
                "finetune": {
                    **PROTOCOLS["finetune"],
                    "method": {"name": "supervised", "label_smoothing": 0.1},
                }
            },
            {},
            r"finetune\.yaml: method\.label_smoothing: 0\.1, which .* \| allowed: 0",
        ),
    ],
)
def test_what_needs_one_class_per_image_is_refused(
    scenery: Scenery, dataset: str, protocols: Any, changes: Any, found: str
) -> None:
    with pytest.raises(UserError, match=found):
        _plan(scenery, dataset, protocols, **changes)
