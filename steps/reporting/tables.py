"""Summaries as markdown tables: the ranking, and one table per protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from steps.command import UserError
from steps.core.durations import duration
from steps.reporting.confidence import Confidence
from steps.reporting.source import Evaluation, ReportSpec
from steps.reporting.summary import (
    UNSTABLE,
    cells_of,
    direction,
    headline,
    metrics_of,
    ranked,
    ranked_by,
    row_name,
)
from steps.reporting.text import Markup, flops_unit, measured, plain, significant

ABSENT = "\N{EN DASH}"
"""Stands where there can be no number."""


@dataclass(frozen=True)
class Table:
    """Cells as text, or as Markdown where they are :class:`Markup`; ``right`` marks the columns
    that are set flush right."""

    columns: list[str]
    right: list[bool]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table with its pipes aligned, so that the source reads like the page."""
        cells = [[plain(cell) for cell in row] for row in [self.columns, *self.rows]]
        widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
        lines = [self._line(row, widths) for row in cells]
        rule = [
            "-" * (width - 1) + ":" if right else "-" * width
            for width, right in zip(widths, self.right, strict=True)
        ]
        lines.insert(1, "| " + " | ".join(rule) + " |")
        return "\n".join(lines) + "\n"

    def _line(self, row: Sequence[str], widths: list[int]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, self.right, strict=True)
        ]
        return "| " + " | ".join(padded) + " |"


def score(row: dict[str, Any]) -> str:
    """Mean, and ± the sample deviation where there are several seeds."""
    text = measured(row["mean"], row["unit"])
    return text if row["std"] is None else f"{text} ± {measured(row['std'], row['unit'])}"


def rank(confidence: Confidence, row: dict[str, Any]) -> str:
    """The possible ranks of a row: ``2`` or ``2–4``; a dash if none is known."""
    place = confidence.place.get((row["recipe"], row["backbone"]))
    if place is None or confidence.table.unstable[place]:
        return ABSENT
    first, last = (int(each[place]) for each in confidence.ranks)
    return str(first) if first == last else f"{first}{ABSENT}{last}"


def sure_score(row: dict[str, Any], confidence: Confidence | None) -> str:
    """Mean and interval: ``59.3 [55.1, 63.2]``; without an interval, as :func:`score`."""
    if confidence is None or row["metric"] != confidence.metric:
        return score(row)
    place = confidence.place[row["recipe"], row["backbone"]]
    ends = (float(each[place]) for each in (confidence.low, confidence.high))
    text = f"{measured_mean(row)} [{', '.join(measured(end, row['unit']) for end in ends)}]"
    return f"{text} {UNSTABLE}" if confidence.table.unstable[place] else text


def ranking_table(
    summary: pl.DataFrame, heading: ReportSpec, confidence: Confidence | None = None
) -> Table:
    """``Model | Rank | Type | Scale | Score | Epoch`` and the compute behind each row.

    Args:
        summary: of the records.
        heading: the experiment.
        confidence: of the evaluation that the ranking is by; without it there are no ranks.
    """
    rows = ranked(summary, heading)
    best = ranked_by(heading)
    divisor, unit = flops_unit(max(rows["flops"].to_list()))
    title = f"Score ({heading.label(best)} {headline(summary, best)}, {rows['unit'][0]})"
    columns = ["Model", "Type", "Scale", title, "Epoch", "Images seen", unit, "Device time"]
    table = Table(
        columns,
        [False, False, False, True, True, True, True, True],
        [
            [
                row_name(row, heading),
                row["kind"],
                row["scale"],
                sure_score(row, confidence),
                ABSENT if row["imported"] and not row["epochs"] else _epochs(row["epochs"]),
                *(
                    [ABSENT] * 3
                    if row["imported"]
                    else [
                        f"{row['images_seen'] + row['images_behind']:,}",
                        significant(row["flops"] / divisor),
                        duration(row["device_seconds"]),
                    ]
                ),
            ]
            for row in rows.iter_rows(named=True)
        ],
    )
    if heading.trials:
        table.columns.append("Trials")
        table.right.append(True)
        for cells, row in zip(table.rows, rows.iter_rows(named=True), strict=True):
            cells.append(str(heading.trials.get(row["recipe"], ABSENT)))
    if confidence is not None:
        table.columns.insert(1, "Rank")
        table.right.insert(1, True)
        for cells, row in zip(table.rows, rows.iter_rows(named=True), strict=True):
            cells.insert(1, rank(confidence, row))
    return table


def _epochs(epochs: float) -> str:
    return f"{epochs:.1f}".removesuffix(".0")


def evaluation_table(
    summary: pl.DataFrame,
    heading: ReportSpec,
    evaluation: Evaluation,
    metrics: Sequence[str] | None = None,
    confidence: Confidence | None = None,
) -> Table:
    """One row per method and backbone in the ranking's order, one column per metric.

    The best of each column is bold. In the headline column, if its confidence is known, every row
    that is not resolved below another is bold, or none if no row differs from random weights.
    Methods that the task does not apply to have no row.

    Args:
        summary: of the records.
        heading: the experiment.
        evaluation: whose table.
        metrics: its columns; all by default.
        confidence: of the headline.

    Raises:
        UserError: a row lacks some seeds' values of a metric.
    """
    metrics = metrics_of(summary, evaluation) if metrics is None else metrics
    rows: list[list[str]] = []
    bold = {metric: _best(cells_of(summary, evaluation, metric=metric)) for metric in metrics}
    mine: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for cell in cells_of(summary, evaluation).iter_rows(named=True):
        mine.setdefault((cell["recipe"], cell["backbone"]), {})[cell["metric"]] = cell
    ranks = [] if confidence is None else ["Rank"]
    for row in ranked(summary, heading).iter_rows(named=True):
        name = row_name(row, heading)
        if row["recipe"] not in heading.methods_of(evaluation.task):
            continue
        cells = mine.get((row["recipe"], row["backbone"]), {})
        seeds = {cell["seeds"] for cell in cells.values()}
        if len(seeds) != 1:
            raise UserError(
                f"{evaluation}/{row['recipe']}/{row['backbone']}",
                "some seeds lack some metrics" if seeds else "no record",
                remedy=f"run python -m steps.{evaluation.task} again for every seed",
            )
        shown = [name, *map(str, seeds)]
        if confidence is not None:
            shown.append(rank(confidence, row))
        for metric in metrics:
            if metric not in cells:
                shown.append("-")
                continue
            text = sure_score(cells[metric], confidence)
            if confidence is not None and metric == confidence.metric:
                is_best = confidence.tells and _is_first(confidence, row)
            else:
                is_best = measured_mean(cells[metric]) == bold[metric]
            shown.append(_set(text, bold=is_best, grey=_is_grey(confidence, metric)))
        rows.append(shown)
    columns = [_column(summary, evaluation, metric) for metric in metrics]
    columns = ["Model", "Seeds", *ranks, *columns]
    return Table(columns, [False, *[True] * (len(columns) - 1)], rows)


def _is_first(confidence: Confidence, row: dict[str, Any]) -> bool:
    """True of a stable row if no row is resolved as better."""
    place = confidence.place[row["recipe"], row["backbone"]]
    return not confidence.table.unstable[place] and int(confidence.ranks[0][place]) == 1


def _is_grey(confidence: Confidence | None, metric: str) -> bool:
    """True if no score in a column differs from random weights."""
    return confidence is not None and confidence.metric == metric and not confidence.tells


def _set(text: str, *, bold: bool, grey: bool) -> str:
    """A score in bold or, as Markdown has no grey, in small type."""
    if grey:
        return Markup(f"<sub>{plain(text)}</sub>")
    return Markup(f"**{plain(text)}**") if bold else text


def measured_mean(row: dict[str, Any]) -> str:
    """The mean as printed."""
    return measured(row["mean"], row["unit"])


def _best(cells: pl.DataFrame) -> str | None:
    """The best mean as printed; None if all are equal, or if it is not known what is better."""
    printed = [measured_mean(row) for row in cells.iter_rows(named=True)]
    metric, unit = cells["metric"][0], cells["unit"][0]
    way = direction(metric, unit)
    if len(set(printed)) < 2 or way is None:
        return None
    mean = cells["mean"].max() if way == "higher" else cells["mean"].min()
    return measured(float(mean), unit)  # type: ignore[arg-type]


def _column(summary: pl.DataFrame, evaluation: Evaluation, metric: str) -> str:
    unit = cells_of(summary, evaluation, metric=metric)["unit"][0]
    return f"{metric} ({unit})" if unit not in ("", "%") else metric
