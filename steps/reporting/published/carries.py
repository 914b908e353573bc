"""Agreement of a small experiment's ranking with the published one of the same methods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl

from steps.reporting.confidence import confidences
from steps.reporting.published.data import DOUBTFUL, Carried, Published
from steps.reporting.source import ReportSpec, Source
from steps.reporting.statistics.agreement import LEAST, agreement
from steps.reporting.summary import cells_of, headline, summarize
from steps.reporting.tables import ABSENT, Table
from steps.reporting.text import Markup, code, plain

RESOLUTION = ("", "224")
"""Resolutions of the figures compared; many sources do not state the usual one."""


def carries_section(published: Published, reports: Iterable[Source]) -> list[str]:
    """The section's paragraphs; none where no report has enough methods.

    Args:
        published: the published figures.
        reports: beside them. Studies of scale are left out: their rows are no methods.
    """
    sources = [source for source in reports if not source.heading.scaling]
    rows = [row for source in sources for row in _rows(published, source)]
    if not rows:
        return []
    columns = ["Report", "Score", "Backbone", "Methods", "tau-b", "95 % interval", "p"]
    rules = published.matching.carries
    against = ", ".join(f"{each.task} against {each.published}" for each in rules)
    return [
        "## How far a small ranking carries\n",
        "Kendall's tau-b between two orders of the methods without labels: as measured in a small "
        f"experiment, and as published for {plain(rules[0].backbone)} ({plain(against)}). It is 1 "
        f"for the same order and {Markup('-1')} for the reverse. Published: the median of a "
        "method's figures after the most epochs. p: share of all orders whose tau-b is at least as "
        "far from 0. The interval covers only the chance in the measured scores; "
        f"{ABSENT} where no decisions were kept. Collapsed rows are left out, and fewer than "
        f"{LEAST} methods are not compared.\n",
        Table(columns, [False, False, False, False, True, True, True], rows).markdown(),
    ]


def _rows(published: Published, source: Source) -> Iterator[list[str]]:
    """One row per rule and backbone with enough methods."""
    summary = summarize(source.records())
    sure = confidences(source, summary)
    for rule in published.matching.carries:
        if rule.task not in source.heading.tasks:
            continue
        evaluation = source.heading.first(rule.task)
        metric = headline(summary, evaluation)
        confidence = sure.known.get(evaluation)
        known = medians(published, rule)
        for backbone in source.heading.backbones:
            cells = cells_of(summary, evaluation, metric=metric)
            measured = _methods(cells, source.heading, backbone, rule)
            names = [name for name in measured if name in known]
            covariance = None
            if confidence is not None:
                chosen = [confidence.place[measured[name].recipe, backbone] for name in names]
                covariance = confidence.table.covariance()[np.ix_(chosen, chosen)]
            found = agreement(
                np.array([measured[name].score for name in names]),
                covariance,
                np.array([known[name] for name in names]),
            )
            if found is None:
                continue
            ends = ABSENT if confidence is None else f"{found.low:.2f} to {found.high:.2f}"
            yield [
                code(source.heading.out),
                f"{source.heading.label(evaluation)} {metric}",
                backbone,
                ", ".join(names),
                f"{found.tau:.2f}",
                ends,
                f"{found.p:.3f}" + ("" if found.exact else " (drawn)"),
            ]


class _Measured(NamedTuple):
    """A method's own row: not one of a study of scale, and no weights kept along the way."""

    recipe: str
    """Its name in records, which a budget is part of."""
    score: float


def _methods(
    cells: pl.DataFrame, heading: ReportSpec, backbone: str, rule: Carried
) -> dict[str, _Measured]:
    """Methods without labels that were trained here and did not collapse.

    Only backbones of the rule's family count.
    """
    family = rule.backbone.partition("-")[0]
    cells = cells.filter(pl.col("scale").str.starts_with(family))
    chosen = cells.filter(pl.col("collapsed").list.len() == 0, backbone=backbone, imported=False)
    rows = chosen.filter(pl.col("kind") != "Supervised").select("method", "recipe", "mean")
    return {
        method: _Measured(recipe, score)
        for method, recipe, score in rows.iter_rows()
        if heading.shown(recipe) == method
    }


def medians(published: Published, rule: Carried) -> dict[str, float]:
    """The published figure of each of our methods: the median of those after the most epochs.

    Args:
        published: the folder's content.
        rule: names the task and backbone that count.
    """
    found = (
        published.figures.filter(
            pl.col("resolution").is_in(RESOLUTION),
            ~pl.col("note").str.starts_with(DOUBTFUL),
            task=rule.published,
            backbone=rule.backbone,
        )
        .join(published.matching.names(), on=["method", "pretrain_data"])
        .select(
            "ours",
            value=pl.col("value").cast(pl.Float64),
            epochs=pl.col("pretrain_epochs").replace("", "0").cast(pl.Float64),
        )
        .filter(pl.col("epochs") == pl.col("epochs").max().over("ours"))
        .group_by("ours")
        .agg(pl.col("value").median())
    )
    return dict(found.iter_rows())
