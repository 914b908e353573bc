"""The note of a page on its budget: what each row may use, and what rows used."""

from __future__ import annotations

import polars as pl

from steps.params.budget import BEHIND, Budget
from steps.reporting.escape import plain
from steps.reporting.source import Source
from steps.reporting.tables import ranked


def budget_note(source: Source, summary: pl.DataFrame) -> list[str]:
    """The paragraph under the ranking; none without a budget."""
    budget = source.heading.budget
    if budget is None:
        return []
    said = [_about(budget)] if not source.heading.scaling else []
    if used := _used(source, summary, budget):
        said.append(used)
    said.append("Device time is no part of a budget, and not equal.")
    others = dict.fromkeys(
        (source.heading.shown(item.records[0].recipe), name)
        for item in source.traced
        for name in item.elsewhere
    )
    if others:
        named = ", ".join(f"{name} behind {row}" for row, name in others)
        said.append(f"Weights taken from elsewhere count nothing: {plain(named)}.")
    return [" ".join(said) + "\n"]


def _about(budget: Budget) -> str:
    share = "a third" if budget.behind == BEHIND else f"{100 * budget.behind:g} %"
    what = "compute" if budget.images is None else "images"
    return (
        f"**Equal {what}: {budget} a row**, from which its epochs follow, its schedules scaled "
        f"with them. Teacher and tokenizer take {share} of it together: they are in the row's "
        "FLOPs, images and device time, not in its epochs. Untrained and imported rows take "
        "nothing."
    )


def _used(source: Source, summary: pl.DataFrame, budget: Budget) -> str:
    """How near rows came, where all have one budget."""
    rows = ranked(summary, source.heading).filter(~pl.col("imported"), pl.col("flops") > 0)
    if source.heading.scaling or rows.is_empty():
        return ""
    flops, images = rows["flops"] / 1e12, rows["images_seen"] + rows["images_behind"]
    off = ((flops if budget.images is None else images) / budget.amount - 1).abs().max()
    return f"Each row is within {100 * float(off):.1f} % of it."  # type: ignore[arg-type]
