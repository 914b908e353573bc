"""Schedules as pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steps.params.recipe import Schedule

_ROUNDING = 1e-9
"""More than floating point loses of a step or an epoch."""


@dataclass(frozen=True)
class Progress:
    """Position of a training run before update ``step``, counted from 0."""

    step: int
    steps_per_epoch: float
    """Steps per epoch; not whole if a schedule is compressed (``steps.engine.loop``)."""
    total_steps: int

    @property
    def epoch(self) -> int:
        """Epoch of the step, counted from 0."""
        # A quotient that should be whole may be rounded down: 11 // 1.1 is 9.
        return int(self.step / self.steps_per_epoch + _ROUNDING)

    def within(self, epochs: float) -> bool:
        """True at the steps that begin in the first ``epochs``, which need not be whole."""
        # Far less than a step: a product that should be whole may be rounded up.
        return self.step + _ROUNDING < epochs * self.steps_per_epoch


def cosine(progress: Progress, start: float, end: float) -> float:
    """Cosine from ``start`` at step 0 to ``end`` at step ``total_steps``, one after the last."""
    return _cosine(start, end, progress.step / progress.total_steps)


def half_cosine(progress: Progress, start: float, end: float, epochs: float) -> float:
    """Cosine from ``start`` to ``end`` over the first ``epochs``, then ``end``."""
    return _cosine(start, end, min(progress.step / (epochs * progress.steps_per_epoch), 1.0))


def ramp_by_epoch(
    progress: Progress, start: float, end: float, epochs: int, first: int = 0
) -> float:
    """Constant per epoch: ``epochs`` evenly spaced values from start to end, then ``end``.

    The first value of the ramp is ``start`` and its last ``end``, as in DINO's teacher temperature.
    The ramp begins at epoch ``first``, with ``start`` before it, as in iBOT's patch temperature.
    """
    if progress.epoch < first:
        return start
    if progress.epoch >= first + epochs:
        return end
    return start + (end - start) * (progress.epoch - first) / max(epochs - 1, 1)


def ramp_by_step(progress: Progress, start: float, end: float, epochs: float) -> float:
    """Linear over the steps of the first ``epochs``, from start to end, then ``end``.

    The first step has ``start`` and the last step of the ramp ``end``, as in DINOv2's temperature.
    """
    steps = int(epochs * progress.steps_per_epoch)
    if progress.step >= steps:
        return end
    return start + (end - start) * progress.step / max(steps - 1, 1)


def learning_rate(progress: Progress, schedule: Schedule, peak: float) -> float:
    """Linear warm-up from ``warmup_lr`` to ``peak``, then a cosine down to ``min_lr``.

    With ramp "exclusive" the warm-up's W steps have lr peak * i / W (MAE's fractional epochs);
    with "inclusive" lr peak * i / (W - 1), so that the peak occurs twice (DINO, BEiT); with
    "shifted" lr peak * (i + 1) / W, so that the first step is not wasted (CLIP).
    """
    warmup = schedule.warmup_epochs * progress.steps_per_epoch
    if schedule.ramp != "exclusive":
        warmup = int(warmup)
    if progress.step < warmup:
        done = progress.step + 1 if schedule.ramp == "shifted" else progress.step
        last = max(warmup - 1, 1) if schedule.ramp == "inclusive" else warmup
        return schedule.warmup_lr + (peak - schedule.warmup_lr) * done / last
    share = (progress.step - warmup) / max(progress.total_steps - warmup, 1)
    return _cosine(peak, schedule.min_lr, share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))
