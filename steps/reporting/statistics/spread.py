"""Variance over seeds, moderated: two or three seeds of a row borrow from the other rows.

As limma does it (Smyth 2004, "Linear models and empirical Bayes methods for assessing differential
expression in microarray experiments", Stat. Appl. Genet. Mol. Biol. 3): rows' variances come from a
scaled inverse chi-square distribution. All rows together estimate its scale and its degrees of
freedom; a row's variance is the mean of its own and the scale, weighted by degrees of freedom.

Three things differ. Part of the spread of seeds is known, as it comes from single images, so the
scale is that part, of each row, and a common one above it. The two parameters are averages over
their likelihood, not moments of log variances, which two equal seeds would send to minus infinity.
And no row's variance is shrunk below its own: methods are few and fixed, one that spreads more than
the others does so for a reason.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, gammaln, logsumexp  # type: ignore[import-untyped]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ALPHA = 0.05
ENOUGH = 3
"""Fewest trained rows that make a pool."""
_DF = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
"""Degrees of freedom of the prior that are weighed, all alike before the data speak. No more: that
rows are more alike than that, a dozen of them cannot show."""
_STEPS = np.geomspace(1e-4, 4.0, 48)
"""Common variances to weigh, also equal at first, in units of the rows' mean variance."""
PRIOR_DF, _STEP = (grid.ravel() for grid in np.meshgrid(_DF, _STEPS))


@dataclass(frozen=True)
class Spread:
    """Variances over the seeds of ``R`` rows."""

    variance: Floats
    """Variance of one seed's score ``(R,)``, at least ``known``."""
    known: Floats
    """The part of each variance that images explain ``(R,)``."""
    df: Floats
    """Degrees of freedom of each variance ``(R,)``, for one interval."""
    unstable: Bools
    """Rows whose seeds spread more than those of the others ``(R,)``."""
    own: Floats
    """Sample variances ``(R,)``."""
    seeds: int
    scales: Floats
    """Common variances that are weighed ``(G,)``, each with one of ``PRIOR_DF``."""
    weights: Floats
    """Weights of the scales ``(G,)``; empty where rows do not borrow."""

    def plausible(self, count: int, generator: np.random.Generator) -> Floats:
        """Draws of what the variances may be in truth ``(count, R)``.

        Given the rows' variances, a scale and degrees of freedom by their weights, then variances
        by the inverse chi-square distribution that both imply.

        Args:
            count: of draws.
            generator: of chance.
        """
        df = self.seeds - 1
        if not len(self.weights):
            return df * self.own / generator.chisquare(df, (count, len(self.own)))
        chosen = generator.choice(len(self.weights), count, p=self.weights)
        prior = np.where(self.unstable, 0.0, PRIOR_DF[chosen][:, None])
        scale = self.scales[chosen][:, None] + self.known
        return np.asarray((prior * scale + df * self.own) / generator.chisquare(prior + df))


def spread(own: Floats, known: Floats, seeds: int, trained: Bools) -> Spread:
    """Moderated variances of rows over their seeds.

    Trained rows make up the pool, and all rows borrow from it; untrained ones vary less, so that
    errs on the side of caution. A trained row is unstable where F = variance / scale, against the
    prior that the other rows of the pool give, is significant at 5 % by Holm's procedure over rows
    (Holm 1979, Scand. J. Stat. 6). It keeps its own variance and leaves the pool, whose other rows
    are then looked at again. Where fewer than three rows are trained, each keeps its own.

    Args:
        own: sample variances over the seeds ``(R,)``.
        known: the part of each that images explain ``(R,)``.
        seeds: their number, at least 2.
        trained: rows that were trained ``(R,)``.
    """
    df = seeds - 1
    every = np.full(len(own), float(df))
    if trained.sum() < ENOUGH:
        stable, nothing = np.zeros(len(own), bool), np.zeros(0)
        variance = np.maximum(own, known)
        return Spread(variance, known, every, stable, own, seeds, nothing, nothing)
    scales = (own[trained].mean() + 1e-12) * _STEP
    likelihoods = _log_likelihoods(own, known, df, scales)
    pool = trained.copy()
    while (beyond := _beyond(own, known, df, pool, likelihoods, scales)).any():
        pool &= ~beyond
    weights = _weights(likelihoods[pool].sum(0))
    scale, prior = _prior(weights, scales)
    moderated = (prior * (scale + known) + df * own) / (prior + df)
    unstable = trained & ~pool
    # The common scale has no more degrees of freedom than the rows that it was estimated from.
    total = np.minimum(df + prior, df * pool.sum())
    return Spread(
        variance=np.maximum.reduce([np.where(unstable, own, moderated), own, known]),
        known=known,
        df=np.where(unstable, every, total),
        unstable=unstable,
        own=own,
        seeds=seeds,
        scales=scales,
        weights=weights,
    )


def _log_likelihoods(own: Floats, known: Floats, df: int, scales: Floats) -> Floats:
    """Log likelihood of each row at each scale and prior ``(R, G)``: own / (scale + known) has an F
    distribution with ``df`` and the prior's degrees of freedom."""
    variance = scales + known[:, None]
    half = (df + PRIOR_DF) / 2
    constant = gammaln(half) - gammaln(PRIOR_DF / 2) - df / 2 * np.log(PRIOR_DF)
    ratio = df * own[:, None] / (PRIOR_DF * variance)
    return np.asarray(constant - df / 2 * np.log(variance) - half * np.log1p(ratio))


def _weights(log_likelihood: Floats) -> Floats:
    """Weights along the last axis."""
    total = logsumexp(log_likelihood, axis=-1, keepdims=True)
    return np.asarray(np.exp(log_likelihood - total))


def _prior(weights: Floats, scales: Floats) -> tuple[Floats, Floats]:
    """Common variance and degrees of freedom, averaged over the last axis of ``weights``; the
    latter as their inverse, which is what widens an interval."""
    return weights @ scales, 1 / (weights @ (1 / PRIOR_DF))


def _beyond(
    own: Floats, known: Floats, df: int, pool: Bools, likelihoods: Floats, scales: Floats
) -> Bools:
    """Rows of the pool that spread beyond the others in it ``(R,)``."""
    count = int(pool.sum())
    found = np.zeros(len(own), bool)
    if count <= ENOUGH:
        return found
    mine = likelihoods[pool]
    scale, prior = _prior(_weights(mine.sum(0) - mine), scales)
    ratio = own[pool] / (scale + known[pool])
    p = fdtrc(df, np.minimum(prior, df * (count - 1)), ratio)
    order = np.argsort(p)
    rejected = np.empty(count, bool)
    rejected[order] = np.logical_and.accumulate(p[order] * np.arange(count, 0, -1) < ALPHA)
    found[np.flatnonzero(pool)] = rejected
    return found
