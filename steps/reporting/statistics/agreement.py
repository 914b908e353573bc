"""Agreement of two orders: Kendall's tau-b with its exact permutation p."""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import numpy as np

from steps.reporting.statistics.spread import Floats

LEAST = 6
"""Fewest methods to compare: with five, one order in sixty agrees or disagrees perfectly."""
ENUMERATED = 8
"""Most methods for which every order is enumerated: 8! is 40,320."""
DRAWS, SEED = 20_000, 0


class Agreement(NamedTuple):
    """Kendall's tau-b of two scores of the same methods."""

    tau: float
    low: float
    high: float
    """Ends of the 95 % interval, by resampling the measured scores."""
    p: float
    """Two-sided p under unrelated orders."""
    exact: bool
    """True if ``p`` enumerates all permutations; otherwise they are drawn."""
    methods: int


def tau_b(one: Floats, other: Floats) -> Floats:
    """Kendall's tau-b (Kendall 1945, Biometrika 33) along the last axis, 0 where one side is all
    ties."""
    rows, columns = np.triu_indices(one.shape[-1], 1)
    first = np.sign(one[..., rows] - one[..., columns])
    second = np.sign(other[..., rows] - other[..., columns])
    untied = (first**2).sum(-1) * (second**2).sum(-1)
    return np.asarray((first * second).sum(-1) / np.sqrt(np.maximum(untied, 1)))


def agreement(measured: Floats, covariance: Floats | None, published: Floats) -> Agreement | None:
    """Agreement of a measured order with a published one; None below ``LEAST`` methods.

    The published scores are taken as exact: their uncertainty is unknown.

    Args:
        measured: scores ``(M,)``.
        covariance: of them ``(M, M)``; without it the interval is tau itself.
        published: scores ``(M,)``.
    """
    count = len(measured)
    if count < LEAST:
        return None
    found = float(tau_b(measured, published))
    generator = np.random.default_rng(SEED)
    exact = count <= ENUMERATED
    orders = (
        np.array(list(permutations(range(count))))
        if exact
        else generator.permuted(np.tile(np.arange(count), (DRAWS, 1)), axis=1)
    )
    chance = np.abs(tau_b(measured, published[orders])) >= abs(found) - 1e-9
    low = high = found
    if covariance is not None:
        half = np.linalg.cholesky(covariance + 1e-9 * np.eye(count))
        again = measured + generator.standard_normal((DRAWS, count)) @ half.T
        low, high = np.quantile(tau_b(again, published), [0.025, 0.975])
    p = float(chance.mean()) if exact else float((chance.sum() + 1) / (DRAWS + 1))
    return Agreement(found, float(low), float(high), p, exact, count)
