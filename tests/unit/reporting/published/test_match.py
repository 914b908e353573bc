from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steps.params.tasks import PROTOCOLS
from steps.reporting.published.data import (
    beside_pair,
    beside_place,
    measurements_beside,
    read_published,
)
from tests.processes import REPOSITORY
from tests.unit.reporting.published.conftest import COCO, IMAGENET, PUBLISHED, Add


def _texts(folder: Path) -> dict[int, list[str]]:
    """What was measured, by row of the ranking; rows without are left out."""
    published, found = read_published(folder), measurements_beside(folder)
    scores = {
        number: [score.text() for score in beside_place(place, published.matching, found)]
        for number, place in enumerate(published.ranking, 1)
    }
    return {number: texts for number, texts in scores.items() if texts}


def test_a_record_stands_beside_its_method_and_scale_alone(folder: Path, add: Add) -> None:
    add(IMAGENET)
    assert _texts(folder) == {7: ["83.4"]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dataset", "shapes"),
        ("pretrain_dataset", "cifar10"),
        ("pretrain_dataset", "imagenet22k"),
        ("scale", "ViT-Pico"),
        ("method", "ibot"),
        ("task", "linear"),
        ("metric", "top5"),
        ("protocol", "finetune_small"),
        ("protocol", "finetune_mae_1pct"),
    ],
)
def test_one_thing_that_differs_keeps_a_record_out(
    folder: Path, add: Add, key: str, value: Any
) -> None:
    add({**IMAGENET, key: value})
    assert _texts(folder) == {}


def test_the_committed_reports_of_small_experiments_do_not_enter() -> None:
    found = measurements_beside(PUBLISHED)
    assert {each.record.scale for each in found} == {"ViT-Femto", "ViT-Pico", "ViT-Nano"}
    published = read_published(PUBLISHED)
    for place in published.ranking:
        assert beside_place(place, published.matching, found) == []
    for pair in published.detection():
        for metric in (published.matching.coco.box, published.matching.coco.mask):
            assert beside_pair(pair, metric, published.matching, found) == []


def test_seeds_are_one_score_and_recipes_are_not(folder: Path, add: Add) -> None:
    add(IMAGENET, {**IMAGENET, "seed": 1, "value": 83.0}, {**IMAGENET, "recipe": "mae_long"})
    assert _texts(folder) == {7: ["83.2 ± 0.3", "83.4"]}


def test_two_reports_are_two_scores(folder: Path, add: Add) -> None:
    add(IMAGENET, name="one")
    add({**IMAGENET, "value": 80.0}, name="two")
    assert _texts(folder) == {7: ["83.4", "80.0"]}


def test_detection_needs_the_detector_and_the_pretraining_data(folder: Path, add: Add) -> None:
    add(COCO)
    published, found = read_published(folder), measurements_beside(folder)
    beside = [
        pair.first
        for pair in published.detection()
        if beside_pair(pair, "box_AP", published.matching, found)
    ]
    assert beside
    assert {(each.method, each.scale, each.pretrain_data) for each in beside} == {
        ("MAE", "ViT-B", "ImageNet-1K")
    }
    assert all(each.protocol.startswith("ViTDet, Mask R-CNN") for each in beside)
    assert not any(
        beside_pair(pair, "mask_AP", published.matching, found) for pair in published.detection()
    )


def test_supervised_with_other_labels_is_not_ours(folder: Path, add: Add) -> None:
    add({**COCO, "method": "supervised", "recipe": "supervised", "scale": "ViT-B"})
    published, found = read_published(folder), measurements_beside(folder)
    matching = published.matching.model_copy(
        update={
            "coco": published.matching.coco.model_copy(
                update={
                    "detectors": [
                        each.model_copy(update={"protocols": ["vitdet_mask_rcnn_100ep"]})
                        for each in published.matching.coco.detectors
                    ]
                }
            )
        }
    )
    data = {
        pair.first.pretrain_data
        for pair in published.detection()
        if beside_pair(pair, "box_AP", matching, found)
    }
    assert data == {"ImageNet-1K with labels"}


def test_the_rule_names_protocols_that_exist() -> None:
    matching = read_published(PUBLISHED).matching
    named = [*matching.imagenet.protocols]
    named += [name for each in matching.coco.detectors for name in each.protocols]
    for name in named:
        assert (REPOSITORY / "params" / "protocols" / f"{name}.yaml").is_file(), name
    assert {matching.imagenet.task, matching.coco.task} <= set(PROTOCOLS)
    for dataset in (matching.pretrain_dataset, matching.imagenet.dataset, matching.coco.dataset):
        assert (REPOSITORY / "params" / "datasets" / f"{dataset}.yaml").is_file(), dataset
