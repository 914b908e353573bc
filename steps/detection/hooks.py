"""Hooks for mmengine's runner: seed each epoch, stop when numbers are not finite, checkpoint,
report progress.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from steps.artifacts import archives
from steps.command import UserError
from steps.command.machine import writing
from steps.core.finite import not_finite
from steps.core.seeds import derive
from steps.evaluation.precision import KINDS

log = logging.getLogger("steps.detect")

CHECKPOINT = "checkpoint.pth"
REPORT_SECONDS = 10.0
DIVERGED = 10.0
"""An epoch's mean loss over the run's first loss from which a training counts as diverged."""


class SeedEpoch(Hook):  # type: ignore[misc]
    """Start every generator of an epoch from (seed, epoch, rank): none has to be saved."""

    priority = "VERY_HIGH"

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed Python, NumPy and torch, and tell the dataset the epoch."""
        seed = derive(runner.seed, "detect", runner.epoch, get_rank())
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        runner.train_dataloader.dataset.epoch = runner.epoch


class Finite(Hook):  # type: ignore[misc]
    """Stop where a loss, or a weight after an epoch, is not finite: it is not saved or measured."""

    priority = "HIGH"

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the loss, which mmengine has brought to the CPU for its own log.

        Raises:
            UserError: it is not finite.
        """
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            parts = [
                name
                for name, value in outputs.items()
                if name != "loss" and not math.isfinite(float(value))
            ]
            raise _diverged(runner, f"the loss is {loss} ({', '.join(parts)})")

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at the weights, which the last update of an epoch may have spoilt.

        Raises:
            UserError: one is not finite.
        """
        if wrong := not_finite(runner.model.state_dict().items()):
            raise _diverged(runner, wrong)


def _diverged(runner: Runner, found: str) -> UserError:
    return UserError(
        f"detection, iteration {min(runner.iter + 1, runner.max_iters)} of {runner.max_iters}",
        found,
        remedy="lower optimizer.lr in the protocol, lengthen optimizer.warmup_iterations, or set "
        "optimizer.clip_grad",
    )


class SaveEpoch(Hook):  # type: ignore[misc]
    """Write ``checkpoint.pth`` after each epoch, of plain values: whole, or as it was."""

    priority = "VERY_LOW"

    def __init__(self, mark: Callable[[int], None] | None = None) -> None:
        self._mark = mark

    def after_train_epoch(self, runner: Runner) -> None:
        """Save weights, optimiser and schedules."""
        # mmengine's own hook overwrites in place, and a kill meanwhile would lose the run; what it
        # writes holds pickled objects, which run code when they are read.
        if is_main_process():
            model = runner.model.module if is_model_wrapper(runner.model) else runner.model
            path = Path(runner.work_dir) / CHECKPOINT
            content = {
                "epoch": runner.epoch + 1,
                "iterations": runner.iter,
                "epoch_losses": runner.message_hub.get_info("epoch_losses"),
                "model": dict(model.state_dict()),
                "optimizer": runner.optim_wrapper.state_dict(),
                "schedules": [each.state_dict() for each in runner.param_schedulers],
            }
            with writing(path):
                archives.save(content, path)
            if self._mark is not None:
                self._mark(runner.iter)
        barrier()


class Progress(Hook):  # type: ignore[misc]
    """Log a line with epoch, loss and time left every few seconds; keep losses and metrics."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] | None = None
        self._at = self._began = time.monotonic()
        self._first: int | None = None

    def before_train(self, runner: Runner) -> None:
        """Forget what another run of this process left in mmengine's global store."""
        if runner.epoch == 0:
            runner.message_hub.update_info("epoch_losses", [])
            runner.message_hub.update_info("first_loss", None)

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the epoch's mean."""
        self._sum, self._count = torch.zeros(()), 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Add the loss; report when it is time."""
        loss = outputs["loss"].detach()
        self._sum, self._count = self._sum.to(loss.device) + loss, self._count + 1
        if runner.iter == 0:
            runner.message_hub.update_info("first_loss", float(loss))
        if self._first is None:
            self._first, self._began = runner.iter, time.monotonic()
        now = time.monotonic()
        if now - self._at >= REPORT_SECONDS and is_main_process():
            self._at = now
            done = runner.iter + 1
            left = (runner.max_iters - done) * (now - self._began) / max(done - self._first, 1)
            log.info(
                "epoch %d/%d  iteration %d/%d  loss %.4f  %.0f s left",
                *(runner.epoch + 1, runner.max_epochs, done, runner.max_iters),
                *(float(self._sum) / self._count, left),
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Keep the epoch's mean loss where a checkpoint carries it.

        Raises:
            UserError: it is far above the loss before any update.
        """
        losses = list(runner.message_hub.get_info("epoch_losses"))
        losses.append(round(float(self._sum) / self._count, 6))
        runner.message_hub.update_info("epoch_losses", losses)
        first = runner.message_hub.get_info("first_loss")
        # A checkpoint of before has no first loss.
        if first is not None and losses[-1] > DIVERGED * first:
            found = (
                f"the mean loss of epoch {len(losses)} is {losses[-1]:g}, and began at {first:g}"
            )
            raise _diverged(runner, found)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the metrics and log the headline numbers."""
        self.metrics = metrics
        if metrics and is_main_process():
            found = [
                f"{kind} AP {metrics[f'{kind}_AP']:.2f}"
                for kind in KINDS
                if f"{kind}_AP" in metrics
            ]
            log.info("after epoch %d: %s", runner.epoch, ", ".join(found))
