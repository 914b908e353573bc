"""Decisions made up for made-up records: as many images right as the record says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from steps.artifacts import Record
from steps.artifacts.manifest import digest_value
from steps.reporting.decided import DECISIONS_SCHEMA, IMAGES_SCHEMA
from steps.reporting.source import Source

CLASSES = 10
DRAWN = {"detect": ("box_AP",), "retrieval": ("text_R@1",), "layout": ("jaccard",)}


def decided(
    source: Source,
    tasks: Sequence[str] = ("knn", "linear", "finetune", "detect", "zeroshot", "retrieval"),
    counts: Sequence[int] = (),
    rows: Sequence[str] = (),
) -> Source:
    """The source with decisions of these tasks.

    ``counts`` are the images of each class, all alike by default; ``rows`` the recipes that keep
    theirs, all by default.
    """
    found = []
    n = next(record.n for item in source.traced for record in item.records)
    labels = np.repeat(np.arange(len(counts)), counts) if counts else np.arange(n) % CLASSES
    # Images are hard to every row alike, the first ones least; a seed adds chance of its own.
    difficulty = np.random.default_rng(0).permutation(n)
    for item in source.traced:
        for record in item.records:
            wanted = DRAWN.get(record.task, ("top1",))
            if record.task not in tasks or record.metric not in wanted:
                continue
            if rows and record.recipe not in rows:
                continue
            on = source.heading.evaluation_of(record).dataset
            found.append(_row(record, difficulty, on))
    images = [
        {
            "images": _digest(n),
            "labels": labels.tolist(),
            "classes": [f"class{each}" for each in range(int(labels.max()) + 1)],
        }
    ]
    return replace(
        source,
        decisions=pl.DataFrame(found, schema=DECISIONS_SCHEMA),
        images=pl.DataFrame(images, schema=IMAGES_SCHEMA),
    )


def _digest(n: int) -> str:
    return digest_value(["images", n])


def _row(record: Record, difficulty: np.ndarray, on: str) -> dict[str, object]:
    generator = np.random.default_rng([record.seed, len(record.recipe), len(record.backbone)])
    kept: dict[str, object] = {"correct": None, "draws": None}
    if record.metric == "top1":
        order = np.argsort(difficulty + generator.normal(size=record.n) * record.n / 4)
        correct = np.zeros(record.n, bool)
        correct[order[: round(record.value * record.n / 100)]] = True
        kept["correct"] = np.packbits(correct).tobytes()
    else:
        kept["draws"] = (record.value + generator.normal(size=200)).tolist()
    return {
        **{name: getattr(record, name) for name in list(DECISIONS_SCHEMA)[:6]},
        "n": record.n,
        "images": _digest(record.n),
        "digest": digest_value([record.recipe, record.task, record.seed]),
        "evaluate_on": on,
        **kept,
    }
