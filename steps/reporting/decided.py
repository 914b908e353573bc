"""Decisions of an experiment's evaluations, as its report keeps them for its intervals.

An accuracy is kept as one bit per image. Any other metric is kept as its value on ``RESAMPLES``
draws of as many images with replacement; rows that measured the same number of images share the
draws, so that their differences are paired.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.compute as pc

from steps.artifacts import Record, verify
from steps.artifacts.decisions import Decisions, read_decisions
from steps.artifacts.manifest import digest_value
from steps.command import UserError
from steps.evaluation.targets import mean_average_precision, r_squared
from steps.params.tasks import TASKS

DECISIONS, IMAGES = "decisions.parquet", "images.parquet"
RESAMPLES = 1000
_SEED = 20_240_607
MOST_BYTES = 2_000_000
"""Most bytes of both files of an experiment, since they are committed."""
DECISIONS_SCHEMA = pl.Schema(
    {
        "task": pl.String(),
        "protocol": pl.String(),
        "metric": pl.String(),
        "recipe": pl.String(),
        "backbone": pl.String(),
        "seed": pl.Int64(),
        "n": pl.Int64(),
        "images": pl.String(),
        "digest": pl.String(),
        "correct": pl.Binary(),
        "draws": pl.List(pl.Float32),
        "evaluate_on": pl.String(),
    }
)
"""A row per record: ``n`` images, the digest of their ids and labels (``images``) and that of the
step's file; ``correct``, a packed bit per image that is right at top 1, or ``draws``; the set, if
the evaluation is on one of several. The file of an experiment of one set lacks that column."""
TABLE = ("task", "protocol", "evaluate_on")
"""Columns that tell evaluations apart, in the order of an ``Evaluation``."""
IMAGES_SCHEMA = pl.Schema(
    {"images": pl.String(), "labels": pl.List(pl.Int32), "classes": pl.List(pl.String)}
)
"""A row per digest of images: their labels in order, none where a task has none, and the names of
the classes."""
Weights = npt.NDArray[np.int32]


class Decided(NamedTuple):
    """Frames of :data:`DECISIONS_SCHEMA` and :data:`IMAGES_SCHEMA`."""

    decisions: pl.DataFrame
    images: pl.DataFrame


@dataclass(frozen=True)
class Measured:
    """A record file, and everything needed to read its decisions."""

    file: str
    """The record file, for errors."""
    records: tuple[Record, ...]
    decisions: Path
    digest: str
    classes: tuple[str, ...]
    data: Path
    """The dataset of the evaluation, with the ground truth of detections."""
    data_digest: str
    evaluate_on: str = ""
    """Its name, if the evaluation is on one of several."""


def decide(measured: Sequence[Measured]) -> Decided:
    """Read the decisions behind records.

    Raises:
        UserError: a file is missing or not the record's; rows of one table were measured on
            different images; or a dataset is no longer the one that was measured on.
    """
    rows: list[dict[str, Any]] = []
    images: dict[str, dict[str, Any]] = {}
    first: dict[tuple[str, ...], tuple[str, str]] = {}
    for item in measured:
        decided = read_decisions(item.decisions, item.digest)
        for metric, kept in _kept(item, decided):
            record = next(each for each in item.records if each.metric == metric)
            key = (record.task, record.protocol, item.evaluate_on, metric)
            digest, file = first.setdefault(key, (kept.digest, item.file))
            if digest != kept.digest:
                raise UserError(
                    item.file,
                    f"decides over other images than {file}",
                    allowed="the same images with the same labels in every row of a table",
                    remedy=f"run python -m steps.{record.task} again for the one of the two whose "
                    "dataset has changed since",
                )
            names = list(item.classes) if kept.labels else []
            images.setdefault(
                kept.digest, {"images": kept.digest, "labels": kept.labels, "classes": names}
            )
            rows.append(
                {
                    **{name: getattr(record, name) for name in list(DECISIONS_SCHEMA)[:6]},
                    "n": kept.n,
                    "images": kept.digest,
                    "digest": item.digest,
                    "correct": kept.correct,
                    "draws": None if kept.draws is None else kept.draws.tolist(),
                    "evaluate_on": item.evaluate_on,
                }
            )
    return Decided(
        pl.DataFrame(rows, schema=DECISIONS_SCHEMA),
        pl.DataFrame(list(images.values()), schema=IMAGES_SCHEMA),
    )


class _Kept(NamedTuple):
    """The decisions of a metric that the report keeps."""

    digest: str
    n: int
    labels: list[int]
    correct: bytes | None = None
    draws: npt.NDArray[np.float32] | None = None


def _kept(item: Measured, decided: Decisions) -> Iterator[tuple[str, _Kept]]:
    """Metrics of a file of decisions that the report keeps."""
    table = decided.table
    if decided.kind == "classes":
        labels = table["label"].to_pylist()
        digest = digest_value([table["id"].to_pylist(), labels])
        correct = pc.equal(pc.list_element(table["top"], 0), table["label"]).to_numpy()
        packed = np.packbits(correct.astype(bool)).tobytes()
        yield "top1", _Kept(digest, len(labels), labels, correct=packed)
        return
    if decided.kind in ("labels", "numbers"):
        yield _predicted(decided)
        return
    there = [record.metric for record in item.records]
    wanted = [name for name in TASKS[item.records[0].task].metrics if name in there] or there[:1]
    if decided.kind == "detections":
        yield from _detected(item, decided, wanted)
        return
    ids = table["id"].to_pylist()
    distinct = list(dict.fromkeys(ids))
    weights = resamples(len(distinct))
    digest = digest_value([distinct, []])
    for metric in wanted:
        if decided.kind == "confusion":
            draws = _miou(_rows(table["confusion"]), weights)
        else:
            place = {name: index for index, name in enumerate(distinct)}
            owner = np.array([place[name] for name in ids])
            draws = _means(table[metric].to_numpy(), owner, weights)
        yield metric, _Kept(digest, len(distinct), [], draws=draws)


def _predicted(decided: Decisions) -> tuple[str, _Kept]:
    """The headline of a probe on several labels per image (``mAP``), or on numbers (``R2``)."""
    table = decided.table
    name = "labels" if decided.kind == "labels" else "number"
    known = table[name].to_pylist()
    weights = resamples(len(known))
    if decided.kind == "labels":
        scores = np.array(table["scores"].to_pylist(), np.float32).reshape(len(known), -1)
        truth = np.zeros(scores.shape, bool)
        for row, labels in zip(truth, known, strict=True):
            row[labels] = True
        metric, draws = "mAP", mean_average_precision(truth, scores, weights)
    else:
        metric = "R2"
        draws = r_squared(np.array(known), table["predicted"].to_numpy(), weights)
    digest = digest_value([table["id"].to_pylist(), known])
    return metric, _Kept(digest, len(known), [], draws=draws.astype(np.float32))


def _detected(
    item: Measured, decided: Decisions, wanted: Sequence[str]
) -> Iterator[tuple[str, _Kept]]:
    """Average precision, from the ground truth of the dataset."""
    # Only experiments with detection need pycocotools.
    from pycocotools.coco import COCO

    from steps.evaluation.precision import KINDS, resampled

    if (found := verify(item.data, "prepare", shards=False).digest) != item.data_digest:
        raise UserError(
            item.file,
            f"measured on the dataset {item.data_digest[:12]}, but {item.data} is now {found[:12]}",
            remedy="run python -m steps.detect again",
        )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(item.data / "val.json"))
    ids = sorted(truth.imgs)
    weights = resamples(len(ids))
    digest = digest_value([ids, []])
    for metric in wanted:
        draws = resampled(truth, decided, KINDS[metric.partition("_")[0]], weights)
        yield metric, _Kept(digest, len(ids), [], draws=draws)


def resamples(images: int) -> Weights:
    """Count of each image in each draw (RESAMPLES, images), a function of the number of images."""
    rng = np.random.default_rng(_SEED)
    draws = (rng.integers(images, size=images) for _ in range(RESAMPLES))
    return np.stack([np.bincount(draw, minlength=images) for draw in draws]).astype(np.int32)


def _means(
    values: npt.NDArray[np.float32], owner: npt.NDArray[np.int64], weights: Weights
) -> npt.NDArray[np.float32]:
    """Mean over the rows of the images drawn (captions: several per image), without NaN."""
    known = ~np.isnan(values)
    images = weights.shape[1]
    sums = np.bincount(owner[known], weights=values[known], minlength=images)
    counts = np.bincount(owner[known], minlength=images)
    means: npt.NDArray[np.float32] = ((weights @ sums) / np.maximum(weights @ counts, 1)).astype(
        np.float32
    )
    return means


def _miou(counts: npt.NDArray[np.float64], weights: Weights) -> npt.NDArray[np.float32]:
    """Mean intersection over union in percent of the images drawn, as
    :func:`steps.evaluation.segmentation.scores` has it.

    Args:
        counts: (N, C, C), rows the truth.
        weights: (B, N).
    """
    classes = counts.shape[1]
    drawn = (weights.astype(np.float64) @ counts.reshape(len(counts), -1)).reshape(
        -1, classes, classes
    )
    hits = drawn.diagonal(axis1=1, axis2=2)
    union = drawn.sum(axis=1) + drawn.sum(axis=2) - hits
    there = union > 0
    overlaps = (hits / np.maximum(union, 1)).sum(axis=1, where=there)
    draws: npt.NDArray[np.float32] = (100 * overlaps / np.maximum(there.sum(axis=1), 1)).astype(
        np.float32
    )
    return draws


def _rows(column: Any) -> npt.NDArray[np.float64]:
    """A column of N lists of C * C counts as (N, C, C)."""
    flat = pc.list_flatten(column).to_numpy().astype(np.float64)
    side = round((len(flat) / len(column)) ** 0.5)
    rows: npt.NDArray[np.float64] = flat.reshape(len(column), side, side)
    return rows


def decided_files(decided: Decided) -> dict[str, bytes]:
    """The two files of a report, by name.

    Raises:
        UserError: they are larger than a repository should hold.
    """
    files = {}
    decisions = decided.decisions
    if not (decisions["evaluate_on"] != "").any():
        decisions = decisions.drop("evaluate_on")
    for name, frame in ((DECISIONS, decisions), (IMAGES, decided.images)):
        file = io.BytesIO()
        frame.write_parquet(file, compression="zstd", statistics=False)
        files[name] = file.getvalue()
    if (size := sum(map(len, files.values()))) > MOST_BYTES:
        raise UserError(
            DECISIONS,
            f"{size / 1e6:.1f} MB of decisions with {IMAGES}, in {decisions.height} rows",
            allowed=f"at most {MOST_BYTES / 1e6:g} MB an experiment, since both are committed",
            remedy="divide the experiment: fewer rows, seeds or protocols in one report",
        )
    return files


def read_decided(folder: Path) -> Decided:
    """Read the files of a report; empty frames for older reports, which lack them.

    Raises:
        UserError: a file is not what a report holds.
    """
    frames = []
    names = ((DECISIONS, DECISIONS_SCHEMA), (IMAGES, IMAGES_SCHEMA))
    if not any((folder / name).exists() for name, _ in names):
        return Decided(DECISIONS_SCHEMA.to_frame(), IMAGES_SCHEMA.to_frame())
    for name, schema in names:
        try:
            frame = pl.read_parquet(folder / name)
        except (pl.exceptions.PolarsError, OSError) as error:
            problem = str(error).splitlines()[0]
            raise UserError(
                str(folder / name),
                f"not what a report holds ({problem})",
                remedy="make the report again",
            ) from error
        if name == DECISIONS and "evaluate_on" not in frame.columns:
            frame = frame.with_columns(evaluate_on=pl.lit(""))
        if frame.schema != schema:
            raise UserError(
                str(folder / name),
                f"has the columns {', '.join(frame.columns)}",
                allowed=", ".join(schema),
                remedy="make the report again",
            )
        frames.append(frame)
    return Decided(*frames)
