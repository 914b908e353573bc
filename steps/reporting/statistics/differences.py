"""Differences between rows with intervals that hold all at once; ranks and levels from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steps.reporting.statistics.scores import LEVEL, Scores
from steps.reporting.statistics.spread import Bools, Floats

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Family:
    """Differences of ``P`` pairs of rows: the score of the first less that of the second."""

    pairs: Indices
    """``(P, 2)``"""
    difference: Floats
    """``(P,)``, as all below."""
    low: Floats
    high: Floats
    apart: Bools
    """Whether the interval excludes 0, and both rows are stable."""


def all_pairs(rows: int) -> Indices:
    """Every pair of so many rows ``(P, 2)``."""
    return np.stack(np.triu_indices(rows, 1), axis=1)


def differences(table: Scores, pairs: Indices) -> Family:
    """Differences paired by image and by seed, with simultaneous 95 % intervals.

    Bonferroni's t intervals: each has the level 1 - 0.05 / P. Nothing is apart that rests on an
    unstable row.

    Args:
        table: scores with their chance.
        pairs: the family ``(P, 2)``.
    """
    one, other = pairs.T
    covariance = table.covariance()
    variance = covariance[one, one] + covariance[other, other] - 2 * covariance[one, other]
    variance = np.maximum(variance, 0)
    tail = (1 - LEVEL) / 2 / max(len(pairs), 1)
    reach = table.quantile(1 - tail, variance, one, other, family=True) * np.sqrt(variance)
    difference = table.score[one] - table.score[other]
    stable = ~(table.unstable[one] | table.unstable[other])
    return Family(
        pairs,
        difference,
        difference - reach,
        difference + reach,
        stable & (np.abs(difference) > reach),
    )


def better(family: Family, rows: int) -> Bools:
    """Whether a row is resolved to be better than another ``(R, R)``: [better, worse]."""
    found = np.zeros((rows, rows), bool)
    one, other = family.pairs.T
    found[one, other] = family.apart & (family.difference > 0)
    found[other, one] = family.apart & (family.difference < 0)
    return found


def ranks(above: Bools) -> tuple[Indices, Indices]:
    """First and last rank that each row may have ``(R,)``: 1 + the rows resolved better, to all
    rows less those resolved worse.

    Args:
        above: as :func:`better` returns it.
    """
    return 1 + above.sum(0), len(above) - above.sum(1)


def levels(above: Bools, score: Floats) -> list[int]:
    """The longest chain of rows each resolved above the next, by index, best first.

    Args:
        above: as :func:`better` returns it.
        score: of each row ``(R,)``; a row is resolved above rows of a lower score only.
    """
    longest: dict[int, list[int]] = {}
    for row in np.argsort(score, kind="stable").tolist():
        below = [longest[other] for other in np.flatnonzero(above[row]).tolist()]
        longest[row] = [row, *max(below, key=len, default=[])]
    return max(longest.values(), key=len, default=[])
