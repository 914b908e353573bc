"""Scores with intervals that hold both causes of chance: which images, and which seeds.

A score is a mean over images and seeds: x = p + seed + image + (seed and image together). Images'
means over the seeds spread by the last two parts, seeds' means over the images by the first and
the last. So that the last counts once, it is taken off the seeds' part. Everything is conditional
on the training set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, stdtrit  # type: ignore[import-untyped]

from steps.reporting.statistics.spread import Bools, Floats, Spread, spread

LEVEL = 0.95


@dataclass(frozen=True)
class Images:
    """The part of the images in the scores of ``R`` rows."""

    score: Floats
    """Mean of each row over its seeds ``(R,)``."""
    covariance: Floats
    """Covariance of the scores over draws of other images ``(R, R)``."""
    interaction: Floats
    """Variance of one seed's score that seeds and images make together ``(R,)``."""
    adjusted: Floats | None
    """The score in %, kept off 0 and 100, where it is a share of images ``(R,)``."""
    n: int
    """Number of images."""


def of_decisions(correct: Bools, labels: NDArray[np.int32] | None = None) -> Images:
    """The images' part of accuracies, by formula.

    With labels the accuracy is the balanced one, the mean of classes' recalls; its covariance is
    the one that a bootstrap of images within classes has in the limit.

    Args:
        correct: decisions ``(R, S, N)``.
        labels: class of each image ``(N,)``.
    """
    rows, _, n = correct.shape
    covariance, interaction = np.zeros((rows, rows)), np.zeros(rows)
    score, adjusted = np.zeros(rows), np.zeros(rows)
    classes = [None] if labels is None else list(np.unique(labels))
    for label in classes:
        chosen = correct if label is None else correct[..., labels == label]
        mean = chosen.mean(1, dtype=np.float32).astype(np.float64)
        covariance += _covariance(mean)
        interaction += _interaction(chosen, mean)
        score += mean.mean(-1)
        adjusted += _kept_off_ends(mean.mean(-1), mean.shape[-1])
    count = len(classes)
    return Images(
        100 * score / count,
        1e4 * covariance / count**2,
        1e4 * interaction / count**2,
        100 * adjusted / count,
        n,
    )


def _kept_off_ends(share: Floats, n: int) -> Floats:
    """Shares with half an image right and half an image wrong added: at 0 or 100 % something is
    left to vary (Agresti, Categorical Data Analysis, 3.1)."""
    return (n * share + 0.5) / (n + 1)


def _covariance(mean: Floats) -> Floats:
    """Covariance of rows' shares ``(R, R)`` from images' means ``(R, N)``, with the image that
    :func:`_kept_off_ends` adds."""
    n = mean.shape[-1]
    centre = _kept_off_ends(mean.mean(-1), n)
    apart = mean - centre[:, None]
    added = ((1 - centre) ** 2 + centre**2) / 2
    return np.asarray((apart @ apart.T + np.diag(added)) / (n + 1) ** 2)


def _interaction(correct: Bools, mean: Floats) -> Floats:
    """Variance of a seed's share through decisions ``(R, S, N)`` that seeds and images make
    together ``(R,)``: the mean square of a two-way table's interaction, by the images."""
    seeds, n = correct.shape[1:]
    if seeds == 1:
        return np.zeros(len(correct))
    within = (mean * (1 - mean)).mean(-1) * seeds / (seeds - 1)
    between = correct.mean(-1, dtype=np.float64).var(-1, ddof=1)
    return np.asarray(np.maximum(within - between, 0) / n)


def of_draws(draws: Floats, score: Floats, n: int) -> Images:
    """The images' part of any other score, by its bootstrap.

    Args:
        draws: the score on resamples of the images, the same for all rows ``(R, S, B)``.
        score: of each row, the mean over its seeds ``(R,)``.
        n: images.
    """
    seeds = draws.shape[1]
    mean = draws.mean(1)
    apart = (draws - mean[:, None]).var(-1).mean(-1)
    interaction = apart * seeds / (seeds - 1) if seeds > 1 else np.zeros(len(draws))
    return Images(score, np.atleast_2d(np.cov(mean)), interaction, None, n)


@dataclass(frozen=True)
class Scores:
    """Scores of ``R`` rows with what is known of their chance."""

    images: Images
    seeds: Spread | None
    """None for one seed: then all chance is that of the images."""
    unit: Floats
    """Factors from standard deviations over seeds to those of scores ``(R,)``."""
    common: Floats
    """Standard deviation over seeds that each row shares with the others ``(R,)``, before
    ``unit``."""

    @property
    def score(self) -> Floats:
        """Score of each row ``(R,)``."""
        return self.images.score

    @property
    def unstable(self) -> Bools:
        """Rows whose seeds spread more than those of the others ``(R,)``."""
        return np.zeros(len(self.score), bool) if self.seeds is None else self.seeds.unstable

    def seeds_part(self, variance: Floats) -> Floats:
        """Variance of scores through the seeds, beyond what images explain ``(..., R)``.

        Args:
            variance: of one seed's score ``(..., R)``, as :class:`Spread` has it.
        """
        assert self.seeds is not None
        beyond = np.maximum(variance - self.seeds.known, 0)
        return np.asarray(self.unit**2 * beyond / self.seeds.seeds)

    def covariance(self) -> Floats:
        """Covariance of the scores over images and seeds ``(R, R)``."""
        if self.seeds is None:
            return self.images.covariance
        shared = self.unit * self.common
        seeds = np.outer(shared, shared) / self.seeds.seeds
        np.fill_diagonal(seeds, self.seeds_part(self.seeds.variance))
        return np.asarray(self.images.covariance + seeds)

    def simulated(self, count: int, generator: np.random.Generator) -> Floats:
        """Errors of the scores in simulated tables ``(count, R)``.

        Those of images are of Student's t, since their covariance is an estimate from as many
        images; those of seeds are normal, with variances that are drawn for each table from what
        they may be.

        Args:
            count: of tables.
            generator: of chance.
        """
        rows = len(self.score)
        covariance = self.images.covariance
        ridge = 1e-8 * float(np.trace(covariance)) / rows + 1e-12
        half = np.linalg.cholesky(covariance + ridge * np.eye(rows))
        df = max(self.images.n - 1, 1)
        scale = np.sqrt(df / generator.chisquare(df, (count, 1)))
        errors = generator.standard_normal((count, rows)) @ half.T * scale
        if self.seeds is not None:
            variance = self.seeds_part(self.seeds.plausible(count, generator))
            shared = (self.unit * self.common) ** 2 / self.seeds.seeds
            own = np.sqrt(np.maximum(variance - shared, 0))
            errors += own * generator.standard_normal((count, rows))
            errors += np.sqrt(shared) * generator.standard_normal((count, 1))
        return np.asarray(errors)

    def intervals(self) -> tuple[Floats, Floats]:
        """Ends of the 95 % interval of each score ``(R,)``.

        Accuracies on the logit scale, where they stay between 0 and 100 % (Agresti, Categorical
        Data Analysis, 3.1), all with quantiles of Student's t and Satterthwaite's degrees of
        freedom.
        """
        variance = np.diag(self.covariance())
        divided, rest = np.zeros(len(variance)), variance
        if self.seeds is not None:
            part = self.unit**2 * self.seeds.variance / self.seeds.seeds
            divided, rest = part**2 / self.seeds.df, np.maximum(variance - part, 0)
        divided = divided + rest**2 / max(self.images.n - 1, 1)
        df = np.maximum(variance, 1e-12) ** 2 / np.maximum(divided, 1e-30)
        reach = stdtrit(df, (1 + LEVEL) / 2) * np.sqrt(variance)
        if self.images.adjusted is None:
            return self.score - reach, self.score + reach
        share = self.images.adjusted / 100
        wide = reach / 100 / (share * (1 - share))
        low, high = (100 * expit(logit(share) + sign * wide) for sign in (-1, 1))
        # The image that was added draws the centre a little towards 50 %.
        return np.minimum(low, self.score), np.maximum(high, self.score)


def scores(images: Images, values: Floats, trained: Bools) -> Scores:
    """Scores with their chance.

    Args:
        images: their part.
        values: score of each seed ``(R, S)``.
        trained: rows that were trained ``(R,)``.
    """
    rows, seeds = values.shape
    unit = np.ones(rows)
    if images.adjusted is not None:
        # A point is much near 0 or 100 % and little between: on the logit scale rows compare.
        unit = images.adjusted * (1 - images.adjusted / 100)
    if seeds == 1:
        return Scores(images, None, unit, np.zeros(rows))
    own = values.var(-1, ddof=1) / unit**2
    found = spread(own, images.interaction / unit**2, seeds, trained)
    stable = trained & ~found.unstable
    shared = _common(values[stable] / unit[stable, None])
    # No row shares more than it varies.
    common = np.minimum(shared, np.maximum(found.variance - found.known, 0)) * stable
    return Scores(images, found, unit, np.sqrt(common))


def _common(values: Floats) -> float:
    """Covariance of two rows through a draw of the seed that they share, as of a label subset.

    The mean over pairs of rows, less its standard error for rows that share nothing: what is shared
    makes differences sharper, so chance must not be taken for it.

    Args:
        values: ``(R, S)``.
    """
    rows, seeds = values.shape
    if rows < 2:
        return 0.0
    apart = values - values.mean(-1, keepdims=True)
    each = float((apart**2).sum())
    products = (float((apart.sum(0) ** 2).sum()) - each) / (rows * (rows - 1))
    error = each / rows / np.sqrt(rows * (rows - 1) / 2 * (seeds - 1))
    return float(max(products - error, 0.0) / (seeds - 1))
