"""The committed published figures, copied beside a made-up report of ImageNet and COCO records."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from steps.artifacts import Record
from steps.artifacts.manifest import digest_value
from steps.reporting.published.data import MATCHING, RANKING, RESULTS
from steps.reporting.source import (
    CURVES_SCHEMA,
    Provenance,
    ReportSpec,
    TracedRecord,
    make_source,
    source_files,
)
from tests.processes import REPOSITORY

PUBLISHED = REPOSITORY / "reports" / "published"

IMAGENET = {
    "method": "mae",
    "recipe": "mae",
    "scale": "ViT-B",
    "backbone": "vit_b16",
    "pretrain_dataset": "imagenet1k",
    "dataset": "imagenet1k",
    "task": "finetune",
    "protocol": "finetune_mae",
    "metric": "top1",
    "epochs": 800.0,
    "value": 83.4,
    "seed": 0,
}
"""A record that stands beside row 7 of the ranking: MAE, ViT-B, 800 epochs."""
COCO = {
    **IMAGENET,
    "dataset": "coco2017",
    "task": "detect",
    "protocol": "vitdet_mask_rcnn_100ep",
    "metric": "box_AP",
    "epochs": 1600.0,
    "value": 51.4,
}
"""A record that stands beside the rows of MAE, ViT-B in ViTDet's Mask R-CNN."""

Add = Callable[..., None]


def record(**fields: Any) -> Record:
    """A record with some of its fields made up."""
    rest = {"unit": "%", "n": 50_000, "kind": "Generative", "images_seen": 1, "flops": 1e18}
    return Record.model_validate({**rest, "device_seconds": 1.0, "artifact": "a" * 64, **fields})


def _provenance(records: list[Record], node: str, params: dict[str, Any]) -> Provenance:
    return Provenance.model_validate(
        {
            "node": node,
            "digest": digest_value([each.model_dump() for each in records]),
            "params": params,
            "inputs": {},
            "seed": 0,
            "code": {"commit": "c" * 40, "dirty": False, "digest": "d" * 64},
            "libraries": {},
            "device": "cpu",
            "wall_seconds": 1.0,
            "peak_memory_mib": 1.0,
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``reports/published`` with no report beside it."""
    folder = tmp_path / "reports" / "published"
    folder.mkdir(parents=True)
    for name in (RESULTS, RANKING, MATCHING):
        shutil.copy(PUBLISHED / name, folder)
    return folder


@pytest.fixture
def add(folder: Path) -> Add:
    """Write a report beside it, of a record a file, with ``params`` behind its pretraining."""

    def write(
        *rows: dict[str, Any], name: str = "made_up", collapsed: bool = False, **params: Any
    ) -> None:
        records = [record(**fields) for fields in rows]
        heading = ReportSpec(
            title="Made up",
            question="?",
            methods=tuple(dict.fromkeys(each.recipe for each in records)),
            backbones=tuple(dict.fromkeys(each.backbone for each in records)),
            seeds=tuple(dict.fromkeys(each.seed for each in records)),
            tasks={
                task: tuple(dict.fromkeys(each.protocol for each in records if each.task == task))
                for task in dict.fromkeys(each.task for each in records)
            },
            experiment="params/experiments/made_up.yaml",
            results="results/made_up",
            out="reports/made_up",
        )
        traced = [
            TracedRecord(
                source=f"{index}.json",
                records=(each,),
                measured=_provenance([each], each.task, {}),
                pretrained=_provenance([each], "pretrain", params),
                collapsed=collapsed,
            )
            for index, each in enumerate(records)
        ]
        source = make_source(heading, traced, pl.DataFrame(schema=CURVES_SCHEMA))
        (folder.parent / name).mkdir()
        for file, content in source_files(source).items():
            (folder.parent / name / file).write_bytes(content)

    return write
