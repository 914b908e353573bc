"""Differences between rows with intervals that hold all at once; ranks and levels from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steps.reporting.statistics.scores import LEVEL, Scores
from steps.reporting.statistics.spread import Bools, Floats

Indices = NDArray[np.intp]
CAUTIOUS = 0.975
"""Level where seeds are in play, in the place of 95 %: a dozen rows say little about how unlike
their variances over seeds are. With it simultaneous intervals of simulated tables, of equal and of
very unequal rows, cover 95 % (tests/unit/reporting/statistics/test_coverage.py)."""
DRAWS, SEED = 2000, 15
_AT_ONCE, _MOST = 2_000_000, 100_000_000
"""Differences that are held in memory at once, and most that are simulated in all."""


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
    """True where the interval excludes 0 and both rows are stable."""


def all_pairs(rows: int) -> Indices:
    """All pairs of ``rows`` rows ``(P, 2)``."""
    return np.stack(np.triu_indices(rows, 1), axis=1)


def differences(table: Scores, pairs: Indices) -> Family:
    """Differences paired by image and by seed, with intervals that hold all at once with 95 %.

    Each reaches as far as the same number of standard errors, by the distribution of the largest
    difference in simulated tables ("max-t"; Hothorn, Bretz and Westfall 2008, Biometrical Journal
    50), which counts how differences hang together. Pairs with an unstable row are no part of the
    family, and are never apart.

    Args:
        table: scores with their chance.
        pairs: the family ``(P, 2)``.
    """
    one, other = pairs.T
    covariance = table.covariance()
    variance = covariance[one, one] + covariance[other, other] - 2 * covariance[one, other]
    error = np.sqrt(np.maximum(variance, 1e-12))
    stable = ~(table.unstable[one] | table.unstable[other])
    reach = error * _errors(table, pairs[stable], error[stable])
    difference = table.score[one] - table.score[other]
    return Family(
        pairs,
        difference,
        difference - reach,
        difference + reach,
        stable & (np.abs(difference) > reach),
    )


def _errors(table: Scores, pairs: Indices, error: Floats) -> float:
    """Standard errors that all differences of a simulated table stay within."""
    if not len(pairs):
        return np.inf
    draws = max(min(DRAWS, _MOST // len(pairs)), 500)
    noise = table.simulated(draws, np.random.default_rng(SEED))
    one, other = pairs.T
    most = np.empty(draws)
    step = max(1, _AT_ONCE // len(pairs))
    for start in range(0, draws, step):
        chosen = noise[start : start + step]
        most[start : start + step] = (np.abs(chosen[:, one] - chosen[:, other]) / error).max(1)
    return float(np.quantile(most, LEVEL if table.seeds is None else CAUTIOUS))


def better(family: Family, rows: int) -> Bools:
    """True at [i, j] where row i is resolved as better than row j ``(R, R)``."""
    found = np.zeros((rows, rows), bool)
    one, other = family.pairs.T
    found[one, other] = family.apart & (family.difference > 0)
    found[other, one] = family.apart & (family.difference < 0)
    return found


def ranks(above: Bools) -> tuple[Indices, Indices]:
    """First and last possible rank of each row ``(R,)``.

    They are 1 + the number of rows resolved as better, and the number not resolved as worse.

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
