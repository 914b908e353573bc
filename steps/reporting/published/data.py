"""Published figures and the measured records that stand beside them, as frames.

``results.csv`` and ``owner_ranking.csv`` hold the figures, ``matching.yaml`` the rule: a record
counts only with the method, the scale, both data sets, the task, the metric and the protocol that
the rule names. Nothing is guessed from names.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, NamedTuple

import polars as pl
from annotated_types import Len
from pydantic import Field

from steps.artifacts import Record
from steps.command import UserError
from steps.params.base import Params
from steps.params.load import load
from steps.reporting.source import HEADING, Source, TracedRecord, read_source

RESULTS, RANKING, MATCHING = "results.csv", "owner_ranking.csv", "matching.yaml"
_RESULTS = (
    *("method", "family", "backbone", "params_m", "pretrain_data", "pretrain_epochs"),
    *("resolution", "task", "protocol", "value", "unit", "source_title", "source_ref", "note"),
)
"""Columns of ``results.csv``. An empty cell: the source does not say."""
_RANKING = (
    *("model", "type", "scale", "score", "epoch"),
    *("verdict", "source_value", "source_ref", "reason"),
)
"""Columns of ``owner_ranking.csv``: five as its owner gave them, then what an audit found."""
DOUBTFUL = "low confidence"
"""First words of the note of a figure that no table may show."""
BOX, MASK = "coco_box_ap", "coco_mask_ap"
ONE_SOURCE = (
    *("method", "backbone", "pretrain_data", "pretrain_epochs", "resolution", "protocol"),
    "source_ref",
)
"""Box and mask AP that agree in these columns stand in one row."""


class MatchedMethod(Params):
    """One of our methods under the names that published tables give it."""

    method: str
    ranking: str | None
    results: str
    data: Annotated[list[str], Len(1)]


class Classification(Params):
    """The records beside the ranking."""

    dataset: str
    task: str
    metric: str
    protocols: list[str]


class Detector(Params):
    """A detector: published protocols by their first words, ours by name."""

    name: str
    published: Annotated[list[str], Len(1)]
    protocols: list[str]


class DetectionTable(Params):
    """The records beside the COCO table."""

    dataset: str
    task: str
    box: str
    mask: str
    detectors: list[Detector]


class Carried(Params):
    """Published figures that the order of a small experiment is compared with."""

    task: str
    """Our task; its first protocol and headline metric count."""
    published: str
    """The task in ``results.csv``."""
    backbone: str
    """The backbone in ``results.csv``, of the same family as ours."""


class Matching(Params):
    """``matching.yaml``."""

    pretrain_dataset: str
    methods: list[MatchedMethod]
    imagenet: Classification
    coco: DetectionTable
    carries: list[Carried] = Field(default_factory=list)

    def detector(self, protocol: str) -> Detector | None:
        """The first detector whose published protocols begin like this one."""
        for each in self.coco.detectors:
            if protocol.startswith(tuple(each.published)):
                return each
        return None

    def names(self) -> pl.DataFrame:
        """One row per method and data set: ``ours``, and the names in published tables."""
        rows = [(m.method, m.ranking, m.results, data) for m in self.methods for data in m.data]
        schema = dict.fromkeys(("ours", "model", "method", "pretrain_data"), pl.String)
        return pl.DataFrame(rows, schema=schema, orient="row")


@dataclass(frozen=True)
class Published:
    """The folder's content: text as its sources print it, with the ``line`` in the file."""

    folder: Path
    figures: pl.DataFrame
    """Columns of ``results.csv``, and ``scale``: the backbone without its patch size."""
    ranking: pl.DataFrame
    """Columns of ``owner_ranking.csv``, ``row`` (its number on the page), and ``agrees``: whether
    the audit found the score that the ranking gives."""
    matching: Matching

    @property
    def doubtful(self) -> pl.DataFrame:
        """The COCO figures that the table leaves out."""
        return self.figures.filter(pl.col("task").is_in([BOX, MASK]), _is_doubtful())

    @cached_property
    def coco(self) -> pl.DataFrame:
        """The COCO table, best box AP first; equal rows keep the order of the file.

        Returns:
            the columns of the figures, ``row`` (its number on the page), ``box`` and ``mask`` (null
            where not published), ``notes`` and ``detector``.
        """
        shown = self.figures.filter(pl.col("task").is_in([BOX, MASK]), ~_is_doubtful())
        detectors = [
            None if (found := self.matching.detector(protocol)) is None else found.name
            for protocol in shown["protocol"]
        ]
        values = {
            name: pl.col("value").filter(pl.col("task") == task).first()
            for name, task in (("box", BOX), ("mask", MASK))
        }
        return (
            shown.with_columns(detector=pl.Series(detectors, dtype=pl.String))
            .group_by(ONE_SOURCE, maintain_order=True)
            .agg(
                pl.col("family", "scale", "detector").first(),
                notes=pl.col("note").sort_by("task").unique(maintain_order=True),
                **values,
            )
            .sort(pl.coalesce("box", "mask").cast(pl.Float64), descending=True, maintain_order=True)
            .with_row_index("row", 1)
        )

    def audited(self, row: int) -> pl.DataFrame:
        """The fine-tuning figures with the audited value of a row of the ranking.

        Only those after the row's epochs, if there are any.
        """
        place = self.ranking.row(row - 1, named=True)
        names = self.matching.names().filter(model=place["model"])["method"].to_list()
        found = self.figures.filter(
            pl.col("method").is_in(names),
            pl.col("value").cast(pl.Float64) == float(place["source_value"]),
            task="imagenet_finetune",
            scale=place["scale"],
        )
        same = found.filter(pretrain_epochs=place["epoch"])
        return found if same.is_empty() else same


def _is_doubtful() -> pl.Expr:
    return pl.col("note").str.starts_with(DOUBTFUL)


def is_published(folder: Path) -> bool:
    """True of a folder of published figures, as opposed to an experiment's report."""
    return (folder / RANKING).is_file()


def read_published(folder: Path) -> Published:
    """Read and check the folder.

    Raises:
        UserError: a file is missing or has a row that cannot be read, or a COCO protocol belongs
            to no detector that ``matching.yaml`` names.
    """
    figures = _read(folder / RESULTS, _RESULTS, numbers=("value",)).with_columns(
        scale=pl.col("backbone").str.split("/").list.first()
    )
    ranking = _read(folder / RANKING, _RANKING, numbers=("score", "epoch", "source_value"))
    ranking = ranking.with_row_index("row", 1).with_columns(
        agrees=pl.col("score").cast(pl.Float64) == pl.col("source_value").cast(pl.Float64)
    )
    published = Published(folder, figures, ranking, load(folder / MATCHING, Matching))
    unnamed = published.coco.filter(pl.col("detector").is_null())
    for figure in figures.join(unnamed, on=ONE_SOURCE, how="semi").iter_rows(named=True):
        detectors = published.matching.coco.detectors
        raise UserError(
            f"{folder / RESULTS}: line {figure['line']}",
            f"the protocol {figure['protocol']!r} begins like no detector's",
            allowed=", ".join(each for detector in detectors for each in detector.published),
            remedy=f"name it in {folder / MATCHING}",
        )
    return published


def _read(path: Path, columns: Sequence[str], numbers: Sequence[str]) -> pl.DataFrame:
    """The rows of a CSV file as text, and their ``line``; ``numbers`` are checked."""
    if not path.is_file():
        raise UserError(str(path), "missing")
    rows = []
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        for row in reader:
            where = f"{path}: line {reader.line_num}"
            if tuple(row) != tuple(columns) or None in row.values():
                found = ", ".join(map(str, row))
                raise UserError(where, f"columns: {found}", allowed=", ".join(columns))
            for name in numbers:
                if not _is_finite(row[name]):
                    raise UserError(where, f"{name}: {row[name]!r}", allowed="a finite number")
            rows.append({"line": reader.line_num, **row})
    return pl.DataFrame(rows, schema={"line": pl.Int64, **dict.fromkeys(columns, pl.String)})


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


# --- Records of the reports beside the folder


class Measurement(NamedTuple):
    """A record, its record file, and the report that both stand in."""

    report: str
    results: str
    traced: TracedRecord
    record: Record


_FACTS = (
    *("recipe", "method", "scale", "backbone", "pretrain_dataset", "dataset", "task", "protocol"),
    *("metric", "unit", "epochs", "value", "seed"),
)
"""Fields of a record that rows are joined on, sorted by or printed from."""
_SCORE = ("row", "metric", "report", "recipe", "backbone", "protocol", "epochs")
"""Seeds that agree in these columns are one score."""


def reports_beside(folder: Path) -> dict[str, Source]:
    """The reports that stand beside a folder, by name."""
    return {
        path.parent.name: read_source(path.parent)
        for path in sorted(folder.parent.glob(f"*/{HEADING}"))
    }


def measurements(reports: dict[str, Source]) -> list[Measurement]:
    """Every record of these reports."""
    return [
        Measurement(name, source.heading.results, traced, record)
        for name, source in reports.items()
        for traced in source.traced
        for record in traced.records
    ]


def beside_ranking(published: Published, measured: Sequence[Measurement]) -> pl.DataFrame:
    """The scores beside each row of the ranking: its method and scale. See :func:`_scores`."""
    rule = published.matching.imagenet
    wanted = (
        published.ranking.select("row", "model", "scale")
        .join(published.matching.names().unique(["ours", "model"]), on="model")
        .join(pl.DataFrame({"protocol": rule.protocols}), how="cross")
        .with_columns(metric=pl.lit(rule.metric))
    )
    return _scores(wanted, measured, published.matching.pretrain_dataset, rule)


def beside_coco(published: Published, measured: Sequence[Measurement]) -> pl.DataFrame:
    """The scores beside each COCO row: its method, scale and detector. See :func:`_scores`."""
    rule = published.matching.coco
    detectors = [(d.name, protocol) for d in rule.detectors for protocol in d.protocols]
    wanted = (
        published.coco.drop("protocol")
        .join(published.matching.names(), on=["method", "pretrain_data"])
        .join(
            pl.DataFrame(detectors, ["detector", "protocol"], orient="row"),
            on="detector",
        )
        .join(pl.DataFrame({"metric": [rule.box, rule.mask]}), how="cross")
    )
    return _scores(wanted, measured, published.matching.pretrain_dataset, rule)


def _scores(
    wanted: pl.DataFrame,
    measured: Sequence[Measurement],
    pretrain_dataset: str,
    rule: Classification | DetectionTable,
) -> pl.DataFrame:
    """The records that match rows of a table: one score per recipe, protocol and report.

    Args:
        wanted: ``row``, and the ``ours`` (a method), ``scale``, ``protocol`` and ``metric`` that
            may stand beside it.
        measured: the records.
        pretrain_dataset: the only one that counts.
        rule: names the dataset and the task.

    Returns:
        the columns of ``_SCORE``; ``mean`` and ``std`` over the seeds (null for one seed),
        ``unit``, ``official`` (the authors' weights), ``collapsed``, and each seed's ``position``
        in ``measured``.
    """
    facts = [
        {
            **{name: getattr(each.record, name) for name in _FACTS},
            "report": each.report,
            "official": each.traced.imported,
            "collapsed": each.traced.collapsed,
            "position": position,
        }
        for position, each in enumerate(measured)
        if (each.record.pretrain_dataset, each.record.dataset, each.record.task)
        == (pretrain_dataset, rule.dataset, rule.task)
    ]
    schema = {
        **dict.fromkeys((*_FACTS, "report"), pl.String),
        "epochs": pl.Float64,
        "value": pl.Float64,
        "seed": pl.Int64,
        "official": pl.Boolean,
        "collapsed": pl.Boolean,
        "position": pl.Int64,
    }
    return (
        wanted.select("row", "ours", "scale", "protocol", "metric")
        .join(
            pl.DataFrame(facts, schema=schema).rename({"method": "ours"}),
            on=["ours", "scale", "protocol", "metric"],
        )
        .sort(*_SCORE, "seed")
        .group_by(_SCORE, maintain_order=True)
        .agg(
            pl.col("value").mean().alias("mean"),
            pl.col("value").std().alias("std"),
            pl.col("unit", "official").first(),
            pl.col("collapsed").any(),
            pl.col("position"),
        )
    )
