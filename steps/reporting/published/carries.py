"""How far a small ranking carries: its order beside the published one of the same methods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl

from steps.reporting.confidence import confidences
from steps.reporting.published.data import DOUBTFUL, Carried, Published
from steps.reporting.source import HEADING, Evaluation, Source, read_source
from steps.reporting.statistics.agreement import LEAST, agreement
from steps.reporting.summary import cells_of, headline, summarize
from steps.reporting.tables import ABSENT, Table
from steps.reporting.text import Markup, code, plain

RESOLUTION = ("", "224")
"""Pixels of figures that are compared; many sources do not name the usual ones."""


def carries_section(published: Published) -> list[str]:
    """The section's paragraphs; none where no report has enough methods.

    Args:
        published: the folder's content, with the reports beside it.
    """
    rows = [row for source in _sources(published.folder) for row in _rows(published, source)]
    if not rows:
        return []
    columns = ["Report", "Score", "Backbone", "Methods", "tau-b", "95 % interval", "p"]
    rules = published.matching.carries
    against = ", ".join(f"{each.task} against {each.published}" for each in rules)
    return [
        "## How far a small ranking carries\n",
        "Kendall's tau-b between the order of methods without labels as measured in a small "
        f"experiment and as published for {plain(rules[0].backbone)} ({plain(against)}): 1 where "
        f"the orders are the same, {Markup('-1')} where one is the other reversed. Published: the "
        "median of a method's figures after the most epochs. p: share of all orders at least as "
        "far from 0, either way. The interval is of the measured side only, whose scores are drawn "
        f"again with their chance; {ABSENT} where no decisions were kept. Rows that collapsed are "
        f"left out, and with fewer than {LEAST} methods nothing is said.\n",
        Table(columns, [False, False, False, False, True, True, True], rows).markdown(),
    ]


def _sources(folder: Path) -> Iterator[Source]:
    """The reports beside a folder that are no studies of scale, whose rows are no methods."""
    for report in sorted(path.parent for path in folder.parent.glob(f"*/{HEADING}")):
        source = read_source(report)
        if not source.heading.scaling:
            yield source


def _rows(published: Published, source: Source) -> Iterator[list[str]]:
    """A row of the table for each rule and backbone that have methods enough."""
    summary = summarize(source.records())
    sure = confidences(source, summary)
    for rule in published.matching.carries:
        if rule.task not in source.heading.tasks:
            continue
        evaluation = Evaluation(rule.task, source.heading.tasks[rule.task][0])
        metric = headline(summary, evaluation)
        confidence = sure.known.get(evaluation)
        for backbone in source.heading.backbones:
            cells = _methods(cells_of(summary, evaluation, metric=metric), backbone, rule)
            known = {name: figure(published, rule, name) for name in cells}
            names = [name for name in cells if known[name] is not None]
            chosen = None
            if confidence is not None:
                chosen = [confidence.place[name, backbone] for name in names]
            found = agreement(
                np.array([cells[name] for name in names]),
                None
                if confidence is None
                else confidence.table.covariance()[np.ix_(chosen or [], chosen or [])],
                np.array([known[name] for name in names], float),
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


def _methods(cells: pl.DataFrame, backbone: str, rule: Carried) -> dict[str, float]:
    """Scores of methods without labels that were trained here, on the family of backbones that the
    rule is about, and did not collapse."""
    family = rule.backbone.partition("-")[0]
    cells = cells.filter(pl.col("scale").str.starts_with(family))
    chosen = cells.filter(pl.col("collapsed").list.len() == 0, backbone=backbone, imported=False)
    chosen = chosen.filter(pl.col("recipe") == pl.col("method"), pl.col("kind") != "Supervised")
    return dict(chosen.select("recipe", "mean").iter_rows())


def figure(published: Published, rule: Carried, method: str) -> float | None:
    """The published figure of a method: the median of those after the most epochs.

    Args:
        published: the folder's content.
        rule: which figures count.
        method: ours, by its name.

    Returns:
        None where nobody published one.
    """
    names = [each for each in published.matching.methods if each.method == method]
    found = [
        each
        for each in published.figures
        if (each.task, each.backbone) == (rule.published, rule.backbone)
        and any(each.method == own.results and each.pretrain_data in own.data for own in names)
        and each.resolution in RESOLUTION
        and not each.note.startswith(DOUBTFUL)
    ]
    if not found:
        return None
    most = max(float(each.pretrain_epochs or 0) for each in found)
    return median(float(each.value) for each in found if float(each.pretrain_epochs or 0) == most)
