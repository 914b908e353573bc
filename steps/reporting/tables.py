"""Records to tables: means over seeds, the ranking, a table a protocol, as plain markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from steps.command import UserError
from steps.params.tasks import TASKS
from steps.reporting.source import Evaluation, ReportSpec
from steps.reporting.text import Markup, duration, flops_unit, measured, plain, significant

if TYPE_CHECKING:
    from steps.reporting.confidence import Confidence

BALANCED = "balanced"
"""The metric that stands for accuracy where classes are of unequal size."""
UNTRAINED = "Random"
"""The type of a row that was not trained."""
HEADLINES = {name: task.metrics[0] for name, task in TASKS.items()}
"""The metric that stands for a task, in the order in which tasks are taken for the ranking."""
SHOWN = {name: task.metrics for name, task in TASKS.items()}
"""Metrics that a table shows, balanced accuracy aside; others are folded."""
COLLAPSED = "†"
"""The mark of a row whose embeddings were collapsed."""
UNSTABLE = "‡"
"""The mark of a score whose seeds spread beyond those of other rows."""
IMPORTED = "\N{CIRCLE WITH LEFT HALF BLACK}"
"""The mark of a row whose weights are the authors' own."""
DECIMALS = 6
PANELS = 7
"""Most rows side by side in the ranking's figure."""
MOST_ROWS, MOST_CURVES = 60, 40
"""Rows and methods that figures show: nobody reads hundreds, and each costs time."""
ABSENT = "\N{EN DASH}"
"""In the place of a number that there cannot be."""
_CELL = ["task", "protocol", "metric", "recipe", "backbone"]
_COMPARABLE = ["dataset", "n", "unit"]
_CONSTANT = ["method", "kind", "scale", "pretrain_dataset", "epochs", "images_seen", *_COMPARABLE]


@dataclass(frozen=True)
class Table:
    """Cells as text, or as Markdown where they are :class:`Markup`. ``right`` says which columns
    are set flush right."""

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


def summarize(records: pl.DataFrame) -> pl.DataFrame:
    """A row a task, protocol, metric, recipe and backbone: mean and deviation over the seeds.

    Returns:
        the columns of a cell, what is constant over its seeds, ``seeds`` (their number), ``mean``,
        ``std`` (sample; null for one seed), the means of ``flops`` and ``device_seconds``, and
        ``collapsed`` (the seeds whose embeddings were collapsed after pretraining), ``imported``
        (whether the weights are their authors') and ``unequal`` (whether classes are).
        ``images_behind`` are those that teacher and tokenizer saw within a budget.

    Raises:
        UserError: what stands in one cell, or in one column of a table, cannot be compared.
    """
    grouped = records.group_by(_CELL, maintain_order=True)
    _require_constant(
        grouped.agg(pl.col(_CONSTANT).unique(maintain_order=True)), _CELL, _CONSTANT, "seeds"
    )
    column = ["task", "protocol", "metric"]
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
                    "/".join(str(row[name]) for name in key),
                    f"{what} differ in {column}: {', '.join(map(str, row[column][:4]))}",
                    allowed="one and the same, or they cannot be compared",
                    remedy="run the steps of the odd ones again",
                )


def ranked_by(heading: ReportSpec) -> Evaluation:
    """What the ranking is sorted by: the first of HEADLINES that the experiment has, and the
    first protocol of it."""
    task = next((task for task in HEADLINES if task in heading.tasks), next(iter(heading.tasks)))
    return Evaluation(task, heading.tasks[task][0])


def cells_of(summary: pl.DataFrame, evaluation: Evaluation, **names: str) -> pl.DataFrame:
    """The summary's rows of an evaluation; ``names`` gives a metric, recipe or backbone besides."""
    return summary.filter(task=evaluation.task, protocol=evaluation.protocol, **names)


def headline(summary: pl.DataFrame, evaluation: Evaluation) -> str:
    """The metric that stands for a task; the first one recorded where the task has no custom, and
    balanced accuracy where the largest class has many times the images of the smallest."""
    metrics = metrics_of(summary, evaluation)
    if BALANCED in metrics and cells_of(summary, evaluation)["unequal"][0]:
        return BALANCED
    wanted = HEADLINES.get(evaluation.task, metrics[0])
    return wanted if wanted in metrics else metrics[0]


def metrics_of(summary: pl.DataFrame, evaluation: Evaluation) -> list[str]:
    """An evaluation's metrics in the order in which its step recorded them."""
    chosen = cells_of(summary, evaluation)["metric"]
    return [str(metric) for metric in chosen.unique(maintain_order=True)]


def shown_metrics(summary: pl.DataFrame, evaluation: Evaluation) -> tuple[list[str], list[str]]:
    """The metrics that an evaluation's table shows, headline first, and those that are folded."""
    best = headline(summary, evaluation)
    shown = {best, "top1" if best == BALANCED else BALANCED, *SHOWN.get(evaluation.task, ())}
    metrics = metrics_of(summary, evaluation)
    others = [metric for metric in metrics if metric in shown and metric != best]
    return [best, *others], [metric for metric in metrics if metric not in shown]


def ranked(summary: pl.DataFrame, heading: ReportSpec) -> pl.DataFrame:
    """The rows of the ranking's metric, best first; equals keep the experiment's order."""
    best = ranked_by(heading)
    chosen = cells_of(summary, best, metric=headline(summary, best))
    return chosen.sort("mean", descending=True, maintain_order=True)


def model_name(recipe: str, backbone: str, heading: ReportSpec) -> str:
    """A row's name: the recipe, and the backbone where the experiment has several."""
    name = heading.shown(recipe)
    return name if len(heading.backbones) == 1 else f"{name} ({backbone})"


def row_name(row: dict[str, Any], heading: ReportSpec) -> str:
    """A row's name, marked where it was imported, or the embeddings of a seed were collapsed."""
    name = model_name(row["recipe"], row["backbone"], heading)
    marks = [IMPORTED] * row["imported"] + [COLLAPSED] * bool(row["collapsed"])
    return " ".join([name, *marks])


def score(row: dict[str, Any]) -> str:
    """Mean, and ± the sample deviation where there are several seeds."""
    text = measured(row["mean"], row["unit"])
    return text if row["std"] is None else f"{text} ± {measured(row['std'], row['unit'])}"


def figure_rows(summary: pl.DataFrame, heading: ReportSpec) -> pl.DataFrame:
    """The rows that the ranking's figure has room for, best first."""
    # Two rows of panels have room for all of them, further ones share it.
    lines = max(2, -(-len(heading.evaluations()) // PANELS))
    return ranked(summary, heading).head(max(MOST_ROWS // 5, 2 * MOST_ROWS // lines))


def figure_methods(trained: Sequence[str], summary: pl.DataFrame, heading: ReportSpec) -> list[str]:
    """The methods whose training curves a figure has room for, in the experiment's order: those of
    the best rows."""
    best = dict.fromkeys(name for name in ranked(summary, heading)["recipe"] if name in trained)
    chosen = set(list(best)[:MOST_CURVES])
    return [name for name in heading.methods if name in chosen]


def rank(confidence: Confidence, row: dict[str, Any]) -> str:
    """The ranks that a row may have: ``2`` or ``2–4``; a dash where none is known."""
    place = confidence.place.get((row["recipe"], row["backbone"]))
    if place is None or confidence.table.unstable[place]:
        return ABSENT
    first, last = (int(each[place]) for each in confidence.ranks)
    return str(first) if first == last else f"{first}{ABSENT}{last}"


def sure_score(row: dict[str, Any], confidence: Confidence | None) -> str:
    """Mean and its interval: ``59.3 [55.1, 63.2]``; or as :func:`score` where there is none."""
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
    """A row a method and backbone in the ranking's order, a column a metric.

    The best of each column is bold; of the headline, where its confidence is known, every row that
    is not resolved below another, and none where no row is apart from random weights. A method
    that the task does not apply to has a row too, without numbers.

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
            rows.append([name, *[ABSENT] * (1 + len(ranks) + len(metrics))])
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
    """Whether no row is resolved to be better than a stable one."""
    place = confidence.place[row["recipe"], row["backbone"]]
    return not confidence.table.unstable[place] and int(confidence.ranks[0][place]) == 1


def _is_grey(confidence: Confidence | None, metric: str) -> bool:
    """Whether nothing in a column is apart from random weights."""
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
    """The best mean as printed; none where all are equal, or where more may not be better."""
    printed = [measured_mean(row) for row in cells.iter_rows(named=True)]
    if len(set(printed)) < 2 or cells["unit"][0] != "%":
        return None
    return measured(float(cells["mean"].max()), "%")  # type: ignore[arg-type]


def _column(summary: pl.DataFrame, evaluation: Evaluation, metric: str) -> str:
    unit = cells_of(summary, evaluation, metric=metric)["unit"][0]
    return f"{metric} ({unit})" if unit not in ("", "%") else metric


def results_csv(summary: pl.DataFrame) -> bytes:
    """The summary as CSV, a row a task, protocol, metric, recipe and backbone."""
    gone = ("collapsed", "imported", "images_behind", "unequal")
    return summary.drop(*gone).write_csv().encode()
