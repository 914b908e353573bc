"""The runs of a study of scale: error against compute, size, images and epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import stdtrit  # type: ignore[import-untyped]

from steps.params.budget import TOLERANCE
from steps.reporting.source import Evaluation, ReportSpec
from steps.reporting.summary import cells_of, headline

# --- Power laws by least squares in logarithms
# error = a C^-b, as in "Scaling laws for neural language models" (arXiv:2001.08361, eq. 1.3); of
# several axes, the product of such terms. There is no irreducible error as in "Training compute-
# optimal large language models" (arXiv:2203.15556, eq. 2): a few runs over two orders of magnitude
# do not tell such a floor from a smaller exponent.


LEAST_RUNS = 3
"""A line through two points fits any two."""
_LARGEST = 700.0
"""Logarithm of FLOPs that a float holds."""
TAIL = 0.975
"""The level of a quantile of Student's t, for intervals of 95 %."""


@dataclass(frozen=True)
class Law:
    """error = scale * product over x of x^-exponent."""

    scale: float
    exponents: tuple[float, ...]
    deviations: tuple[float, ...]
    """Standard errors of the exponents; nan where the runs are as many as the unknowns."""
    r2: float
    """Share of the variance of log error that it accounts for; 1 where there is none."""
    runs: int

    @property
    def free(self) -> int:
        """Degrees of freedom of the deviations."""
        return self.runs - 1 - len(self.exponents)

    def interval(self, place: int) -> tuple[float, float] | None:
        """95 % interval of an exponent, by the scatter of the runs about the law; None where they
        are as many as the unknowns."""
        if self.free == 0:
            return None
        reach = stdtrit(self.free, TAIL) * self.deviations[place]
        return self.exponents[place] - reach, self.exponents[place] + reach

    def at(self, *values: float) -> float:
        """The predicted error."""
        terms = (x**-exponent for x, exponent in zip(values, self.exponents, strict=True))
        return self.scale * math.prod(terms, start=1.0)


@dataclass(frozen=True)
class Crossing:
    """Compute at which two laws predict the same error."""

    flops: float
    sure: bool
    """True if the 95 % interval of the exponents' difference excludes 0."""


def fit(errors: Sequence[float], *axes: Sequence[float]) -> Law | None:
    """The law through some runs.

    Args:
        errors: above 0, one a run.
        axes: of each axis its value in every run, above 0.

    Returns:
        None where there are fewer than three runs, fewer than unknowns, or where an axis does not
        vary by itself.
    """
    logs = [np.log(np.asarray(axis, dtype=np.float64)) for axis in axes]
    target = np.log(np.asarray(errors, dtype=np.float64))
    count, unknowns = len(target), 1 + len(axes)
    if count < max(LEAST_RUNS, unknowns):
        return None
    # Centred, since FLOPs' logarithms lie far from 0 and close together.
    means = [float(log.mean()) for log in logs]
    design = np.stack(
        [np.ones(count), *(log - mean for log, mean in zip(logs, means, strict=True))], 1
    )
    if np.linalg.matrix_rank(design) < unknowns:
        return None
    found = np.linalg.lstsq(design, target, rcond=None)[0]
    left = float(((target - design @ found) ** 2).sum())
    total = float(((target - target.mean()) ** 2).sum())
    return Law(
        scale=math.exp(float(found[0]) - float(np.dot(found[1:], means))),
        exponents=tuple(float(-slope) for slope in found[1:]),
        deviations=_deviations(design, left)[1:],
        r2=1 - left / total if total > 0 else 1.0,
        runs=count,
    )


def crossing(first: Law, second: Law) -> Crossing | None:
    """Intersection of two laws of one axis; None if they are parallel, or meet where no compute is.

    The interval of the difference has Student's t with Satterthwaite's degrees of freedom.
    """
    (b1,), (b2,) = first.exponents, second.exponents
    if b1 == b2:
        return None
    log_flops = math.log(first.scale / second.scale) / (b1 - b2)
    if abs(log_flops) > _LARGEST:
        return None
    flops = math.exp(log_flops)
    if 0 in (first.free, second.free):
        return Crossing(flops, sure=False)
    variances = [law.deviations[0] ** 2 for law in (first, second)]
    if (total := sum(variances)) == 0:  # both exact
        return Crossing(flops, sure=True)
    parts = zip(variances, (first.free, second.free), strict=True)
    free = total**2 / sum(variance**2 / each for variance, each in parts)
    return Crossing(flops, sure=abs(b1 - b2) > stdtrit(free, TAIL) * math.sqrt(total))


def compared_at(runs: Mapping[str, pl.DataFrame], heading: ReportSpec) -> list[float]:
    """Amounts of compute, in FLOPs, at which methods are compared: the budgets of a study, or what
    ``budgets`` gives."""
    if heading.budget is None or heading.budget.tflops is None:
        return budgets(runs)
    lengths = sorted({row.length for row in heading.scaling.values()})
    return [1e12 * heading.budget.tflops * length for length in lengths]


def budgets(runs: Mapping[str, pl.DataFrame], count: int = 5) -> list[float]:
    """Amounts of compute between the cheapest and largest runs of all methods, evenly in log.

    Args:
        runs: of each method, with a column ``flops``.
        count: how many.

    Returns:
        none where the methods' runs do not overlap.
    """
    low = max(float(each["flops"].min()) for each in runs.values())  # type: ignore[arg-type]
    high = min(float(each["flops"].max()) for each in runs.values())  # type: ignore[arg-type]
    if high <= low:
        return []
    return [float(value) for value in np.geomspace(low, high, count)]


def _deviations(design: npt.NDArray[np.float64], left: float) -> tuple[float, ...]:
    """Standard errors of least squares, by the residuals' variance."""
    free = len(design) - design.shape[1]
    if free == 0:
        return (math.nan,) * int(design.shape[1])
    covariance = np.linalg.inv(design.T @ design) * left / free
    variances: list[float] = np.diag(covariance).tolist()
    return tuple(map(math.sqrt, variances))


WHOLE = 100.0
"""Percent: the rest is the error."""


def evaluations(summary: pl.DataFrame, heading: ReportSpec) -> list[Evaluation]:
    """Evaluations of every scaled row whose headline metric is a percentage, so that it has an
    error."""
    return [
        each
        for each in heading.evaluations()
        if {*heading.scaling} <= {*heading.methods_of(each.task)}
        and cells_of(summary, each, metric=headline(summary, each))["unit"][0] == "%"
    ]


def methods(heading: ReportSpec) -> list[str]:
    """The scaled methods, in the experiment's order."""
    return list(dict.fromkeys(row.recipe for row in heading.scaling.values()))


def runs(summary: pl.DataFrame, heading: ReportSpec, evaluation: Evaluation) -> pl.DataFrame:
    """One row per run, means over its seeds, from the cheapest to the most expensive.

    Returns:
        columns ``method``, ``backbone``, ``row`` (as tables call it), ``data_share``, ``flops``
        (of pretraining), ``size`` (FLOPs an image), ``images`` (in an epoch), ``epochs``,
        ``score``, ``std`` (null for one seed) and ``error`` (percent all), ``collapsed`` (true if
        a seed's embeddings were). An error of 0 counts as half an image: logarithms need one.
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
            collapsed=pl.col("collapsed").list.len() > 0,
        )
        .rename({"mean": "score", "recipe": "row"})
        .select(
            *("method", "backbone", "row", "data_share", "flops", "size", "images", "epochs"),
            *("score", "std", "error", "collapsed"),
        )
        .sort("flops", maintain_order=True)
    )


def floor(summary: pl.DataFrame, heading: ReportSpec, evaluation: Evaluation) -> float | None:
    """The least error of a row without pretraining; None if there is no such row."""
    cells = cells_of(summary, evaluation, metric=headline(summary, evaluation))
    best = cells.filter(pl.col("flops") == 0, ~pl.col("imported"))["mean"].max()
    return None if best is None else WHOLE - float(best)  # type: ignore[arg-type]


def within(of_a_method: pl.DataFrame, budget: float) -> dict[str, Any]:
    """The best run of a method within a budget in FLOPs, which it may miss by 2 %."""
    runs = of_a_method.filter(pl.col("flops") <= budget * (1 + TOLERANCE))
    return runs.sort("error", maintain_order=True).row(0, named=True)


def frontier(of_a_method: pl.DataFrame) -> pl.DataFrame:
    """The runs that no cheaper run of the method beats, cheapest first."""
    least = of_a_method["error"].cum_min().shift(1)
    return of_a_method.filter(least.is_null() | (of_a_method["error"] < least))


def _of(heading: ReportSpec, key: str, dtype: type[pl.DataType]) -> pl.Expr:
    values = {name: getattr(row, key) for name, row in heading.scaling.items()}
    return pl.col("recipe").replace_strict(values, return_dtype=dtype)
