from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from steps.params.tasks import PROTOCOLS
from steps.reporting.published.data import (
    Published,
    beside_coco,
    beside_ranking,
    measurements,
    read_published,
    reports_beside,
)
from steps.reporting.tables import score
from tests.processes import REPOSITORY
from tests.unit.reporting.published.conftest import COCO, IMAGENET, PUBLISHED, Add


def _texts(folder: Path) -> dict[int, list[str]]:
    """Measured scores by row of the ranking."""
    found = beside_ranking(read_published(folder), measurements(reports_beside(folder)))
    texts: dict[int, list[str]] = {}
    for row in found.iter_rows(named=True):
        texts.setdefault(row["row"], []).append(score(row))
    return texts


def _boxes(published: Published) -> pl.DataFrame:
    """The rows of the COCO table with a measured box AP."""
    found = beside_coco(published, measurements(reports_beside(published.folder)))
    return published.coco.join(found.filter(metric="box_AP"), on="row", how="semi")


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
    found = measurements(reports_beside(PUBLISHED))
    assert {each.record.scale for each in found} == {"ViT-Femto", "ViT-Pico", "ViT-Nano"}
    published = read_published(PUBLISHED)
    assert beside_ranking(published, found).is_empty()
    assert beside_coco(published, found).is_empty()


def test_seeds_are_one_score_and_recipes_are_not(folder: Path, add: Add) -> None:
    add(
        IMAGENET,
        {**IMAGENET, "seed": 1, "value": 83.0},
        {**IMAGENET, "recipe": "mae_long"},
        {**IMAGENET, "recipe": "mae_long", "seed": 1},
    )
    assert _texts(folder) == {7: ["83.2 ± 0.3", "83.4 ± 0.0"]}


def test_two_reports_are_two_scores(folder: Path, add: Add) -> None:
    add(IMAGENET, name="one")
    add({**IMAGENET, "value": 80.0}, name="two")
    assert _texts(folder) == {7: ["83.4", "80.0"]}


def test_detection_needs_the_detector_and_the_pretraining_data(folder: Path, add: Add) -> None:
    add(COCO)
    published = read_published(folder)
    beside = _boxes(published)
    key = ["method", "scale", "pretrain_data"]
    assert set(beside.select(key).iter_rows()) == {("MAE", "ViT-B", "ImageNet-1K")}
    assert beside["protocol"].str.starts_with("ViTDet, Mask R-CNN").all()
    found = beside_coco(published, measurements(reports_beside(folder)))
    assert set(found["metric"]) == {"box_AP"}


def test_supervised_with_other_labels_is_not_ours(folder: Path, add: Add) -> None:
    add({**COCO, "method": "supervised", "recipe": "supervised", "scale": "ViT-B"})
    published = read_published(folder)
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
    data = _boxes(replace(published, matching=matching))["pretrain_data"]
    assert set(data) == {"ImageNet-1K with labels"}


def test_the_rule_names_protocols_that_exist() -> None:
    matching = read_published(PUBLISHED).matching
    named = [*matching.imagenet.protocols]
    named += [name for each in matching.coco.detectors for name in each.protocols]
    for name in named:
        assert (REPOSITORY / "params" / "protocols" / f"{name}.yaml").is_file(), name
    assert {matching.imagenet.task, matching.coco.task} <= set(PROTOCOLS)
    for dataset in (matching.pretrain_dataset, matching.imagenet.dataset, matching.coco.dataset):
        assert (REPOSITORY / "params" / "datasets" / f"{dataset}.yaml").is_file(), dataset
