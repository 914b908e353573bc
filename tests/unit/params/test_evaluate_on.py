"""``evaluate_on``: the sets that tasks are measured on, apart from the one of pretraining."""

from __future__ import annotations

from typing import Any

import pytest

from steps.command import UserError
from steps.params.checks import load_plan
from steps.params.dag import Pretraining
from steps.params.paths import Paths
from steps.params.plan import Plan
from tests.scenery import Scenery

PHOTOS = {"format": "images", "train": "p", "val": {"share": 0.5}}
LABELLED = {"format": "folder", "train": "t", "val": "v"}
ONE_CLASS = {"format": "csv", "train": "t.csv", "val": "v.csv", "classes": ["cat"]}
CAPTIONS = {
    "format": "coco_captions",
    "train": {"images": "t", "annotations": "t.json"},
    "val": {"images": "v", "annotations": "v.json"},
}
BOXES = {**CAPTIONS, "format": "coco"}
SETS = {"photos": PHOTOS, "cats": ONE_CLASS, "told": CAPTIONS, "boxed": BOXES}
SETS |= dict.fromkeys(("a", "b", "c"), LABELLED)
KNN = {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"}
GEOMETRY = {"pooling": "cls", "view": {"area": [0.2, 1.0]}, "crop_fraction": 1.0}
EXPERIMENT = {
    "title": "Test",
    "question": "?",
    "dataset": "photos",
    "evaluate_on": ["a", "b", "c"],
    "regime": "test",
    "methods": ["random", "dino"],
    "backbones": ["vit_test"],
    "seeds": [0],
    "tasks": {"knn": ["knn"], "geometry": ["geometry"]},
}


def _plan(scenery: Scenery, **changes: Any) -> Plan:
    for name, content in SETS.items():
        scenery.write(f"datasets/{name}.yaml", content)
    scenery.write("protocols/knn.yaml", KNN)
    scenery.write("protocols/geometry.yaml", GEOMETRY)
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    scenery.write("protocols/retrieval.yaml", {"k": [1], "crop_fraction": 1.0})
    scenery.write("protocols/zeroshot.yaml", {"prompts": ["a {class}."], "crop_fraction": 1.0})
    scenery.write("experiments/test.yaml", {**EXPERIMENT, **changes})
    return load_plan("test", scenery.params)


def test_every_task_is_measured_on_every_set(scenery: Scenery) -> None:
    plan = _plan(scenery)
    assert plan.dataset_names() == ["photos", "a", "b", "c"]
    assert list(plan.evaluations()) == [
        (("vit_test", method, 0), task, task, dataset)
        for task in ("knn", "geometry")
        for dataset in ("a", "b", "c")
        for method in ("random", "dino")
    ]
    assert list(plan.extractions()) == [
        (("vit_test", method, 0), dataset)
        for dataset in ("a", "b", "c")
        for method in ("random", "dino")
    ]
    paths = Paths(plan.experiment)
    row = paths.row("vit_test", "dino", 0)
    # The backbone is of the pretraining set; what is measured of it lies under the other set.
    assert row == "results/pretrained/photos/test/vit_test/dino/seed0"
    assert paths.record(row, "knn", "knn", "b") == f"{row}/knn/b/features/knn.json"
    assert paths.inputs(row, "knn", "b") == {
        "backbone": f"{row}/backbone",
        "features": f"{row}/features/b/features",
        "data": "results/data/b",
    }


def test_the_set_of_pretraining_may_be_among_them(scenery: Scenery) -> None:
    plan = _plan(scenery, dataset="b", evaluate_on=["a", "b"])
    assert plan.dataset_names() == ["b", "a"]
    assert {dataset for *_, dataset in plan.evaluations()} == {"a", "b"}


def test_without_it_tasks_read_the_set_of_pretraining(scenery: Scenery) -> None:
    plan = _plan(scenery, dataset="a", evaluate_on=None)
    assert plan.dataset_names() == ["a"]
    assert {dataset for *_, dataset in plan.evaluations()} == {"a"}
    assert plan.knn_set(Pretraining("vit_test", "dino")) is None
    # Snakemake compares these values, and would make the page of an older experiment again.
    assert "evaluate_on" not in plan.experiment.resolved()


def test_geometry_needs_no_labels(scenery: Scenery) -> None:
    plan = _plan(scenery, evaluate_on=["photos", "a"], tasks={"geometry": ["geometry"]})
    assert {dataset for *_, dataset in plan.evaluations()} == {"photos", "a"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"evaluate_on": []}, "'evaluate_on' is [] (list), but: List should have at least 1 item"),
        ({"evaluate_on": ["a", "b", "a"]}, "evaluate_on names a twice"),
        ({"evaluate_on": ["a", "../b"]}, "'evaluate_on[1]' is '../b'"),
        ({"evaluate_on": ["a", "d"]}, "d.yaml: no such params file"),
        (
            {"evaluate_on": ["a", "photos"]},
            "test.yaml: evaluate_on: photos has no labels, which knn needs | allowed: a "
            "classification set | remedy: take photos out of evaluate_on, use a set with labels, "
            "or leave knn out",
        ),
        (
            {"evaluate_on": ["boxed"]},
            "test.yaml: evaluate_on: boxed has no labels, which knn needs",
        ),
        (
            {"evaluate_on": ["a", "cats"]},
            "test.yaml: evaluate_on: cats has one class, and knn decides between classes | remedy: "
            "take cats out of evaluate_on",
        ),
        (
            {
                "evaluate_on": ["a", "told"],
                "methods": ["clip"],
                "tasks": {"zeroshot": ["zeroshot"]},
            },
            "test.yaml: evaluate_on: told has no labels, which zeroshot needs",
        ),
        (
            {
                "evaluate_on": ["told", "a"],
                "methods": ["clip"],
                "tasks": {"retrieval": ["retrieval"]},
            },
            "test.yaml: evaluate_on: a has no captions, which retrieval needs | remedy: take a out "
            "of evaluate_on, use a set with captions",
        ),
        (
            {"methods": ["supervised"]},
            "test.yaml: dataset: photos has no labels, which recipe supervised needs",
        ),
        (
            {"tasks": {"detect": ["knn"]}, "detection_dataset": "boxed"},
            "evaluate_on is given, but no task of detect reads its sets: remove the key, or add a "
            "task such as knn",
        ),
    ],
)
def test_sets_that_cannot_be(scenery: Scenery, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        _plan(scenery, **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_k_nn_of_an_unlabelled_pretraining_is_on_the_first_set(scenery: Scenery) -> None:
    scenery.recipe("mae")  # its recipe has training.knn, and DINO's has none
    node = Pretraining("vit_test", "mae")
    assert _plan(scenery, methods=["mae"]).knn_set(node) == "a"
    assert _plan(scenery, methods=["mae", "dino"]).knn_set(Pretraining("vit_test", "dino")) is None
    # A labelled pretraining stays what other experiments made of it.
    assert _plan(scenery, methods=["mae"], dataset="c").knn_set(node) is None
    # Where no set has labels, the step says that it leaves k-NN out.
    unlabelled = {"methods": ["mae"], "tasks": {"geometry": ["geometry"]}}
    for sets in (["told", "a"], None):
        assert _plan(scenery, **unlabelled, evaluate_on=sets).knn_set(node) is None
