"""Intervals hold what they say: simulated tables whose truth is known.

Thirteen rows on 1,000 images of differing difficulty: eleven ordinary ones, one at a ceiling (99 %
right), one that collapses in three of ten seeds. Deviations over seeds are on the logit scale:
equal, log-normal with sigma 0.6, or those of a committed table for k-NN and linear probes. A row
keeps its own in all tables, so that the worst row is the one that spreads most, not one that had
bad luck.

The row that collapses is held to nothing: where no seed did, or all, an interval cannot know.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm

from steps.reporting.statistics.differences import all_pairs, differences
from steps.reporting.statistics.scores import of_decisions, scores
from steps.reporting.statistics.spread import Bools, Floats

ROWS, IMAGES, DIFFICULTY = 13, 1000, 1.5
CEILING, COLLAPSING = 11, 12
COLLAPSES, COLLAPSED = 0.3, -2.2
"""Share of seeds that collapse, and where to on the logit scale."""
ORDINARY = np.arange(ROWS) != COLLAPSING
CENTRES = np.concatenate([np.linspace(-1.2, 1.5, 11), [6.0, 1.0]])
QUANTILES = (np.arange(ROWS) + 0.5) / ROWS
ORDER = np.random.default_rng(5).permutation(ROWS)


COMMITTED = np.array(
    [0.021, 0.032, 0.05, 0.065, 0.086, 0.097, 0.101, 0.115, 0.13, 0.174, 0.204, 0.238, 0.548]
)
"""Deviations over three seeds in reports/all_methods at commit dbb343a, of its 13 trained rows by
k-NN and linear probe, at 13 quantiles. Numbers, and not read from the table, so that what
docs/certainty.md says does not change with it."""


DEVIATIONS = {
    "equal": np.full(ROWS, 0.15),
    "log-normal": 0.15 * np.exp(0.6 * norm.ppf(QUANTILES)),
    "committed": COMMITTED,
}


class Coverage(NamedTuple):
    """Shares of the tables whose intervals hold the truth."""

    rows: Floats
    together: float
    """All differences between the rows that do not collapse at once."""


def _truth(deviations: Floats) -> Floats:
    """Accuracy of each row over all images and seeds, in %."""
    points, weights = np.polynomial.hermite_e.hermegauss(61)
    spread = np.hypot(deviations, DIFFICULTY)[:, None] * points
    shares = expit(CENTRES[:, None] + spread) @ weights / weights.sum()
    flat = expit(COLLAPSED + spread[COLLAPSING]) @ weights / weights.sum()
    shares[COLLAPSING] += COLLAPSES * (flat - shares[COLLAPSING])
    return np.asarray(100 * shares)


def _decisions(deviations: Floats, seeds: int, generator: np.random.Generator) -> Bools:
    """A table: decisions of each row and seed on the same images ``(R, S, N)``."""
    chance = generator.normal(size=(ROWS, seeds)) * deviations[:, None]
    centres = np.repeat(CENTRES[:, None], seeds, 1)
    centres[COLLAPSING, generator.random(seeds) < COLLAPSES] = COLLAPSED
    difficulty = generator.normal(size=IMAGES) * DIFFICULTY
    known = expit(((centres + chance)[..., None] + difficulty).astype(np.float32))
    return np.asarray(generator.random(known.shape, dtype=np.float32) < known)


def coverage(deviations: Floats, seeds: int, tables: int) -> Coverage:
    """Coverage over simulated tables."""
    generator, truth = np.random.default_rng(0), _truth(deviations)
    pairs = all_pairs(ROWS)
    counted = ORDINARY[pairs].all(1)
    expected = truth[pairs[:, 0]] - truth[pairs[:, 1]]
    rows, together = np.zeros(ROWS), 0
    for _ in range(tables):
        correct = _decisions(deviations, seeds, generator)
        values = 100 * correct.mean(-1)
        table = scores(of_decisions(correct), values, np.ones(ROWS, bool))
        low, high = table.intervals()
        rows += (low <= truth) & (truth <= high)
        family = differences(table, pairs)
        inside = (family.low <= expected) & (expected <= family.high)
        together += int(inside[counted].all())
    return Coverage(rows / tables, together / tables)


def _hold(found: Coverage, seeds: int, tables: int) -> None:
    # Two standard errors of what so few tables can tell; none of 1,000, which is what is claimed.
    loose = 0.0 if tables >= 1000 else 2 / np.sqrt(tables)
    mean = found.rows[ORDINARY].mean()
    assert 0.93 - 0.05 * loose <= mean <= 0.97 + 0.05 * loose, found
    worst = found.rows[ORDINARY].min()
    assert worst >= (0.85 if seeds == 3 else 0.75) - 0.4 * loose, found
    assert found.together >= 0.93 - 0.25 * loose, found


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("kind", DEVIATIONS)
def test_intervals_hold_the_truth(kind: str, seeds: int) -> None:
    _hold(coverage(DEVIATIONS[kind][ORDER], seeds, tables=100), seeds, tables=100)


@pytest.mark.long
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("kind", DEVIATIONS)
def test_intervals_hold_the_truth_in_a_thousand_tables(kind: str, seeds: int) -> None:
    found = coverage(DEVIATIONS[kind][ORDER], seeds, tables=1000)
    print(kind, seeds, found.rows.round(3).tolist(), found.together)
    _hold(found, seeds, tables=1000)


def test_images_alone_are_covered_from_chance_to_the_ceiling() -> None:
    """One seed: intervals of the images, at 1,000 images and at 100."""
    generator = np.random.default_rng(0)
    for images in (100, 1000):
        shares = np.array([0.1, 0.5, 0.9, 0.99])
        inside = np.zeros(len(shares))
        for _ in range(400):
            correct = generator.random((4, 1, images)) < shares[:, None, None]
            table = scores(of_decisions(correct), 100 * correct.mean(-1), np.ones(4, bool))
            low, high = table.intervals()
            inside += (low <= 100 * shares) & (100 * shares <= high)
        # One error in a hundred images is counted in steps too coarse for 95 %.
        assert (inside / 400 >= 0.90).all(), inside
        assert inside.mean() / 400 >= 0.93, inside
