"""The runs of a study of scale: error against compute, size, images and epochs."""

from __future__ import annotations

import polars as pl

from steps.reporting.source import Evaluation, Heading
from steps.reporting.tables import cells_of, headline

WHOLE = 100.0
"""Percent: what is not right is wrong."""


def evaluations(summary: pl.DataFrame, heading: Heading) -> list[Evaluation]:
    """Those whose headline metric is a share of what is right, so that it has an error."""
    return [
        each
        for each in heading.evaluations()
        if cells_of(summary, each, metric=headline(summary, each))["unit"][0] == "%"
    ]


def methods(heading: Heading) -> list[str]:
    """The methods that grow, in the experiment's order."""
    return list(dict.fromkeys(row.recipe for row in heading.scaling.values()))


def runs(summary: pl.DataFrame, heading: Heading, evaluation: Evaluation) -> pl.DataFrame:
    """A row a run, means over its seeds, from the cheapest to the dearest.

    Returns:
        columns ``method``, ``backbone``, ``row`` (as tables call it), ``data_share``, ``flops``
        (of pretraining), ``size`` (FLOPs an image), ``images`` (in an epoch), ``epochs``,
        ``score``, ``std`` (null for one seed) and ``error`` (percent all). An error of 0 counts as
        half an image: logarithms need one.
    """
    cells = cells_of(summary, evaluation, metric=headline(summary, evaluation))
    return (
        cells.filter(pl.col("recipe").is_in(list(heading.scaling)))
        .with_columns(
            method=_of(heading, "recipe", pl.String),
            data_share=_of(heading, "data_share", pl.Float64),
            size=pl.col("flops") / pl.col("images_seen"),
            images=pl.col("images_seen") / pl.col("epochs"),
            error=pl.max_horizontal(WHOLE - pl.col("mean"), 0.5 * WHOLE / pl.col("n")),
        )
        .rename({"mean": "score", "recipe": "row"})
        .select(
            *("method", "backbone", "row", "data_share", "flops", "size", "images", "epochs"),
            *("score", "std", "error"),
        )
        .sort("flops", maintain_order=True)
    )


def floor(summary: pl.DataFrame, heading: Heading, evaluation: Evaluation) -> float | None:
    """The least error of a row without any pretraining; None where there is no such row."""
    cells = cells_of(summary, evaluation, metric=headline(summary, evaluation))
    best = cells.filter(pl.col("flops") == 0, ~pl.col("imported"))["mean"].max()
    return None if best is None else WHOLE - float(best)  # type: ignore[arg-type]


def frontier(of_a_method: pl.DataFrame) -> pl.DataFrame:
    """The runs that no cheaper run of the method beats, from the cheapest on."""
    least = of_a_method["error"].cum_min().shift(1)
    return of_a_method.filter(least.is_null() | (of_a_method["error"] < least))


def _of(heading: Heading, key: str, dtype: type[pl.DataType]) -> pl.Expr:
    values = {name: getattr(row, key) for name, row in heading.scaling.items()}
    return pl.col("recipe").replace_strict(values, return_dtype=dtype)
