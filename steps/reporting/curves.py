"""Training curves: what a backbone artifact logged, thinned to what a figure shows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl

from steps.artifacts import Manifest
from steps.artifacts.digest import digest_file
from steps.command import UserError
from steps.reporting.source import CURVES_SCHEMA, OFFICIAL

METRICS = "metrics.jsonl"
MOST_POINTS = 200


def read_curve(artifact: Path, manifest: Manifest) -> pl.DataFrame:
    """At most 200 points of the losses in an artifact's ``metrics.jsonl``, first and last kept.

    Lines with a k-NN accuracy are kept besides; ``knn_top1`` is null in the others.

    Returns:
        a frame with the columns of ``CURVES_SCHEMA``; none for what was not trained here.

    Raises:
        UserError: the file is missing, is not the one that was published, or holds no loss.
    """
    path = artifact / METRICS
    facts = manifest.facts
    untrained = facts["kind"] == "Random" or OFFICIAL in manifest.params
    if not path.is_file():
        if untrained:
            return CURVES_SCHEMA.to_frame()
        raise UserError(str(path), "missing", remedy="run python -m steps.pretrain again")
    if METRICS in manifest.files and digest_file(path) != manifest.files[METRICS]:
        raise UserError(
            str(path),
            "bytes differ from the manifest's checksum",
            remedy="run python -m steps.pretrain again",
        )
    points = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            point = (int(entry["step"]), float(entry["epoch"]), float(entry["loss"]))
            knn = None if "knn_top1" not in entry else float(entry["knn_top1"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: line {number}", "no step, epoch and loss", allowed="a JSON object"
            ) from error
        if not all(map(math.isfinite, point)):
            raise UserError(f"{path}: line {number}", f"loss is {point[2]} at step {point[0]}")
        points.append((*point, knn))
    if not points and not untrained:
        raise UserError(str(path), "holds no loss", remedy="run python -m steps.pretrain again")
    row = (facts["recipe"], facts["backbone"], manifest.seed)
    kept = set(thinned(len(points)))
    return pl.DataFrame(
        [
            (*row, *point)
            for index, point in enumerate(points)
            if index in kept or point[-1] is not None
        ],
        schema=CURVES_SCHEMA,
        orient="row",
    )


def thinned(count: int, most: int = MOST_POINTS) -> list[int]:
    """Indices of at most ``most`` of ``count`` points, evenly spread, first and last among them."""
    if count <= most:
        return list(range(count))
    return [index * (count - 1) // (most - 1) for index in range(most)]
