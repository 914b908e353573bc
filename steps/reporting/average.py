"""Average rank of each row over the sets of ``evaluate_on``, as a section of the page.

A mean of scores would be led by the set on which scores differ most; ranks weigh sets alike
(Demšar 2006, "Statistical comparisons of classifiers over multiple data sets", JMLR 7).
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from steps.params.tasks import TASKS
from steps.reporting.source import Evaluation, ReportSpec
from steps.reporting.summary import Row, cells_of, headline, ranked, row_name
from steps.reporting.tables import ABSENT, Table
from steps.reporting.text import plain


def average_ranks(summary: pl.DataFrame, heading: ReportSpec) -> list[str]:
    """The section's paragraphs; none with fewer than two sets, or without a task on labels.

    Args:
        summary: of the records.
        heading: the experiment.
    """
    tasks, sets = tasks_on_labels(heading), heading.evaluate_on
    if len(sets) < 2 or not tasks:
        return []
    titles = ", ".join(TASKS[task].title for task in tasks)
    said = (
        f"Mean of a row's ranks by the headline metric of {titles} on {plain(', '.join(sets))}, "
        "with equal weight. 1 is the best; equal scores share the mean of their ranks. Differences "
        "that may be chance count too: the tables of each set say which are resolved."
    )
    table, lacking = rank_table(summary, heading, tasks)
    if lacking:
        said += (
            f" {ABSENT}: no score on every set, so no average ({plain(', '.join(lacking))}). Ranks "
            "are among the rows that have a score."
        )
    return ["## Average rank\n", f"{said}\n", table.markdown()]


def tasks_on_labels(heading: ReportSpec) -> list[str]:
    """The tasks on labels of ``evaluate_on`` that every row has; all of them where there is none,
    as with zero-shot classification by itself."""
    found = [
        task
        for task in heading.tasks
        if task in TASKS
        and {"classes", "targets"} & {*TASKS[task].needs}
        and any(heading.sets_of(task))
    ]
    return [task for task in found if heading.methods_of(task) == heading.methods] or found


def ranks(summary: pl.DataFrame, evaluation: Evaluation) -> dict[Row, float]:
    """Rank of each row by an evaluation's headline metric: 1 is the best, and rows of equal means
    share the mean of their ranks."""
    cells = cells_of(summary, evaluation, metric=headline(summary, evaluation))
    places = cells["mean"].rank("average", descending=True).to_list()
    return dict(zip(cells.select("recipe", "backbone").iter_rows(), places, strict=True))


def rank_table(
    summary: pl.DataFrame, heading: ReportSpec, tasks: Sequence[str]
) -> tuple[Table, list[str]]:
    """Mean rank of each row over all sets, then over the tasks on each set, best row first.

    Args:
        summary: of the records.
        heading: the experiment.
        tasks: whose first protocols count.

    Returns:
        The table, and the names of the rows that lack a score, which come last.
    """
    rows: list[tuple[float, list[str]]] = []
    lacking = []
    found = {
        dataset: [ranks(summary, heading.first(task)._replace(dataset=dataset)) for task in tasks]
        for dataset in heading.evaluate_on
    }
    for row in ranked(summary, heading).iter_rows(named=True):
        key = row["recipe"], row["backbone"]
        means = [_mean([each.get(key) for each in by_task]) for by_task in found.values()]
        average, name = _mean(means), row_name(row, heading)
        if average is None:
            lacking.append(name)
        shown = [ABSENT if each is None else f"{each:.2f}" for each in (average, *means)]
        rows.append((float("inf") if average is None else average, [name, *shown]))
    rows.sort(key=lambda pair: pair[0])
    columns = ["Model", "Average rank", *heading.evaluate_on]
    table = Table(columns, [False, *[True] * (len(columns) - 1)], [cells for _, cells in rows])
    return table, lacking


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean; None if a value is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
