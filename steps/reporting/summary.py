"""Records as one frame: means over seeds, headline metrics, the order of the ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from steps.command import UserError
from steps.params.tasks import BETTER, TASKS
from steps.reporting.decided import TABLE
from steps.reporting.source import Evaluation, ReportSpec

Row = tuple[str, str]
"""Recipe and backbone."""
BALANCED = "balanced"
"""The metric that replaces accuracy where classes differ in size."""
UNTRAINED = "Random"
"""The type of an untrained row."""
SHOWN = {name: task.metrics for name, task in TASKS.items()}
"""Metrics that a table shows beside balanced accuracy; others are folded. The first one recorded is
the headline. Tasks are in the order in which they are taken for the ranking."""
COLLAPSED = "†"
"""Mark of a row with collapsed embeddings."""
UNSTABLE = "‡"
"""Mark of a score whose seeds spread more than those of other rows."""
IMPORTED = "\N{CIRCLE WITH LEFT HALF BLACK}"
"""Mark of a row with weights from elsewhere."""
DECIMALS = 6
PANELS = 7
"""Most panels side by side in the ranking's figure."""
MOST_ROWS, MOST_CURVES = 60, 40
"""Rows and methods that figures show: nobody reads hundreds, and each costs time."""
_CELL = ["task", "protocol", "metric", "recipe", "backbone", "evaluate_on"]
_COMPARABLE = ["dataset", "n", "unit"]
_CONSTANT = ["method", "kind", "scale", "pretrain_dataset", "epochs", "images_seen", *_COMPARABLE]


def summarize(records: pl.DataFrame) -> pl.DataFrame:
    """One row per task, protocol, metric, recipe, backbone and set of several (``evaluate_on``):
    mean and deviation over seeds.

    Returns:
        the columns of a cell, the facts that are constant over its seeds, ``seeds`` (their
        number), ``mean``, ``std`` (sample; null for one seed), the means of ``flops`` and
        ``device_seconds``, ``collapsed`` (the seeds whose embeddings had collapsed after
        pretraining), ``imported`` (weights from elsewhere), ``unequal`` (class sizes) and
        ``images_behind`` (seen by teacher and tokenizer within a budget).

    Raises:
        UserError: records of one cell, or of one column of a table, cannot be compared.
    """
    grouped = records.group_by(_CELL, maintain_order=True)
    _require_constant(
        grouped.agg(pl.col(_CONSTANT).unique(maintain_order=True)), _CELL, _CONSTANT, "seeds"
    )
    column = ["task", "protocol", "metric", "evaluate_on"]
    by_column = records.group_by(column, maintain_order=True)
    _require_constant(
        by_column.agg(pl.col(_COMPARABLE).unique(maintain_order=True)),
        column,
        _COMPARABLE,
        "rows of one table",
    )
    return grouped.agg(
        pl.col(_CONSTANT).first(),
        pl.len().alias("seeds"),
        pl.col("value").mean().round(DECIMALS).alias("mean"),
        pl.col("value").std(ddof=1).round(DECIMALS).alias("std"),
        pl.col("flops").mean(),
        pl.col("device_seconds").mean().round(3),
        pl.col("seed").filter("collapsed").alias("collapsed"),
        pl.col("imported").first(),
        pl.col("images_behind").first(),
        pl.col("unequal").first(),
    )


def _require_constant(frame: pl.DataFrame, key: list[str], columns: list[str], what: str) -> None:
    for row in frame.iter_rows(named=True):
        for column in columns:
            if len(row[column]) > 1:
                raise UserError(
                    "/".join(str(row[name]) for name in key if row[name] != ""),
                    f"{what} differ in {column}: {', '.join(map(str, row[column][:4]))}",
                    allowed="one and the same, or they cannot be compared",
                    remedy="run the steps of the odd ones again",
                )


def by_row(cells: pl.DataFrame) -> dict[Row, dict[str, Any]]:
    """One cell per recipe and backbone: the cells of a metric, or the last one of each row."""
    return {(cell["recipe"], cell["backbone"]): cell for cell in cells.iter_rows(named=True)}


def ranked_by(heading: ReportSpec) -> Evaluation:
    """The evaluation that the ranking is sorted by: the first task of SHOWN that the
    experiment has and that measures every row, by its first protocol, on its first set."""
    tasks = [task for task in SHOWN if task in heading.tasks] or list(heading.tasks)
    # Tables have the rows of the ranking, so one without some rows would hide them everywhere.
    of_all = [task for task in tasks if heading.methods_of(task) == heading.methods]
    return heading.first((of_all or tasks)[0])


def cells_of(summary: pl.DataFrame, evaluation: Evaluation, **names: str) -> pl.DataFrame:
    """The summary's rows of an evaluation, and of a metric, recipe or backbone in ``names``."""
    mine = dict(zip(TABLE, evaluation, strict=True))
    return summary.filter(**mine, **names)


def headline(summary: pl.DataFrame, evaluation: Evaluation) -> str:
    """The headline metric: balanced accuracy where class sizes differ much, otherwise the one of
    SHOWN, or the first one recorded."""
    metrics = metrics_of(summary, evaluation)
    if BALANCED in metrics and cells_of(summary, evaluation)["unequal"][0]:
        return BALANCED
    wanted = SHOWN.get(evaluation.task, ())
    return next((metric for metric in wanted if metric in metrics), metrics[0])


def direction(metric: str, unit: str) -> str | None:
    """Direction in which a metric improves, ``higher`` or ``lower``; None if that is not known."""
    return "higher" if unit == "%" else BETTER.get(metric.partition("_")[0])


def metrics_of(summary: pl.DataFrame, evaluation: Evaluation) -> list[str]:
    """An evaluation's metrics in the order in which its step recorded them."""
    chosen = cells_of(summary, evaluation)["metric"]
    return [str(metric) for metric in chosen.unique(maintain_order=True)]


def shown_metrics(summary: pl.DataFrame, evaluation: Evaluation) -> tuple[list[str], list[str]]:
    """The metrics that an evaluation's table shows, headline first, and the folded ones."""
    best = headline(summary, evaluation)
    shown = {best, "top1" if best == BALANCED else BALANCED, *SHOWN.get(evaluation.task, ())}
    metrics = metrics_of(summary, evaluation)
    others = [metric for metric in metrics if metric in shown and metric != best]
    return [best, *others], [metric for metric in metrics if metric not in shown]


def ranked(summary: pl.DataFrame, heading: ReportSpec) -> pl.DataFrame:
    """The rows of the ranking's metric, best first; ties keep the experiment's order."""
    best = ranked_by(heading)
    chosen = cells_of(summary, best, metric=headline(summary, best))
    return chosen.sort("mean", descending=True, maintain_order=True)


def model_name(recipe: str, backbone: str, heading: ReportSpec) -> str:
    """A row's name: the recipe, and the backbone where the experiment has several."""
    name = heading.shown(recipe)
    return name if len(heading.backbones) == 1 else f"{name} ({backbone})"


def row_name(row: dict[str, Any], heading: ReportSpec) -> str:
    """A row's name, marked if it was imported or the embeddings of a seed collapsed."""
    name = model_name(row["recipe"], row["backbone"], heading)
    marks = [IMPORTED] * row["imported"] + [COLLAPSED] * bool(row["collapsed"])
    return " ".join([name, *marks])


def figure_rows(summary: pl.DataFrame, heading: ReportSpec) -> pl.DataFrame:
    """The rows that fit into the ranking's figure, best first."""
    # Two rows of panels have room for all table rows; more share the same height.
    lines = max(2, -(-len(heading.evaluations()) // PANELS))
    return ranked(summary, heading).head(max(MOST_ROWS // 5, 2 * MOST_ROWS // lines))


def figure_methods(trained: Sequence[str], summary: pl.DataFrame, heading: ReportSpec) -> list[str]:
    """The methods of the best rows, whose training curves fit into a figure, in the
    experiment's order."""
    best = dict.fromkeys(name for name in ranked(summary, heading)["recipe"] if name in trained)
    chosen = set(list(best)[:MOST_CURVES])
    return [name for name in heading.methods if name in chosen]


def results_csv(summary: pl.DataFrame) -> bytes:
    """The summary as CSV: one row per task, protocol, metric, recipe, backbone and set."""
    gone = ("collapsed", "imported", "images_behind", "unequal", "evaluate_on")
    return summary.drop(*gone).write_csv().encode()
