"""Metrics, timing and progress of a training run, in files, in the log and in loggers."""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from steps.command import UserError
from steps.command.machine import writing
from steps.core.durations import duration

if TYPE_CHECKING:
    from lightning.fabric.loggers.logger import Logger

METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
KNN = "knn_top1"
"""Name of k-NN accuracy during training in metrics.jsonl."""
_LINE_SECONDS = 10.0

log = logging.getLogger(__name__)


class Monitor:
    """Writes ``metrics.jsonl`` (the same for every run of the same thing) and ``timing.jsonl``.

    A terminal gets a progress bar; a file or a pipe gets a line every ten seconds.

    Args:
        folder: where both files go.
        title: title of the run.
        total_steps: its length.
        quiet: write nothing, as in other processes than the first.
        chance: losses of a network that knows nothing, by name (``Method.chance``).
        loggers: opens loggers that get the same values, given the steps made before.
    """

    def __init__(
        self,
        folder: Path,
        title: str,
        total_steps: int,
        *,
        quiet: bool,
        chance: Mapping[str, float] | None = None,
        loggers: Callable[[int], Sequence[Logger]] | None = None,
    ) -> None:
        self.metrics_path = folder / METRICS
        self.timing_path = folder / TIMING
        self.title = title
        self.total_steps = total_steps
        self.quiet = quiet
        self.chance = dict(chance or {})
        self._open_loggers = loggers
        self._loggers: list[Logger] = []
        self._knn: list[float] = []
        self._images = 0
        self._first_step = 0
        self._begun = self._since = self._line = time.monotonic()
        self._bar: Bar | None = None

    def start(self, step: int, metrics: str | int) -> None:
        """Begin at a step.

        Args:
            step: steps made before.
            metrics: the lines of metrics.jsonl up to there, which replace the file: a killed run
                may have written more after its checkpoint. A checkpoint of an earlier version
                holds the number of their bytes instead.

        Raises:
            UserError: the file has fewer bytes than that.
        """
        if self.quiet:
            return
        with writing(self.metrics_path):
            if isinstance(metrics, int):
                metrics = self._first(metrics)
            self.metrics_path.write_text(metrics, encoding="utf-8")
        self._first_step, self._begun = step, time.monotonic()
        lines = [json.loads(line) for line in metrics.splitlines() if KNN in line]
        self._knn = [line[KNN] for line in lines]
        if self._open_loggers is not None:
            self._loggers = list(self._open_loggers(step))
        if sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[state]}"),
            )
            self._task = self._bar.add_task(
                self.title, total=self.total_steps, completed=step, state=""
            )
            self._bar.start()

    @property
    def metrics(self) -> str:
        """The lines that belong to a checkpoint made now."""
        return "" if self.quiet else self.metrics_path.read_text(encoding="utf-8")

    def stepped(self, images: int) -> None:
        """Count a step and the images of its global batch."""
        self._images += images
        if self._bar is not None:
            self._bar.advance(self._task)

    def write_start(self, values: dict[str, Any]) -> None:
        """Log what was measured before the first step, which has no loss."""
        if self.quiet:
            return
        _append(self.metrics_path, {"step": 0, "epoch": 0.0, **values})
        self._knn += [values[KNN]] if KNN in values else []
        self._tell_loggers(0, values)
        shown = "  ".join(f"{name} {value:.2f}" for name, value in values.items())
        log.info("%s  before the first step  %s", self.title, shown)

    def write(self, step: int, values: dict[str, Any], waited: float) -> None:
        """Log a window that ends with ``step``: its mean losses, rates, and its speed.

        Args:
            step: last step of the window.
            values: values for metrics.jsonl.
            waited: seconds that the device waited for data.
        """
        if self.quiet:
            return
        now = time.monotonic()
        elapsed = max(now - self._since, 1e-9)
        speed = self._images / elapsed
        # In a file of their own: metrics are the same for every run of one thing, times are not.
        timing = {
            "step": step,
            "images_per_second": round(speed, 1),
            "data_wait_share": round(waited / elapsed, 4),
            "peak_memory_mib": round(_peak_memory_mib(), 1),
        }
        _append(self.metrics_path, {"step": step, **values})
        _append(self.timing_path, timing)
        self._tell_loggers(step, {**values, **timing})
        self._knn += [values[KNN]] if KNN in values else []
        state = "  ".join(
            (
                *self._learnt(values),
                f"{speed:.0f} images/s",
                f"waiting for data {timing['data_wait_share']:.0%}",
                f"{timing['peak_memory_mib']:.0f} MiB",
            )
        )
        if self._bar is not None:
            self._bar.update(self._task, state=state)
        elif now - self._line > _LINE_SECONDS or step == self.total_steps:
            # The mean since the start of this process has the time of k-NN and checkpoints in it.
            pace = (now - self._begun) / max(step - self._first_step, 1)
            left = duration(pace * (self.total_steps - step))
            done = f"step {step}/{self.total_steps}"
            log.info("%s  %s  %s left  %s", self.title, done, left, state)
            self._line = now
        self._since, self._images = now, 0

    def _learnt(self, values: Mapping[str, Any]) -> Iterator[str]:
        """The losses, those of a network that knows nothing beside them, and k-NN so far."""
        for name in dict.fromkeys(["loss", *self.chance]):
            if name in values:
                chance = f" (chance {self.chance[name]:.4f})" if name in self.chance else ""
                yield f"{name} {values[name]:.4f}{chance}"
        if self._knn:
            best = max(self._knn)
            yield f"k-NN {self._knn[-1]:.2f}" + (
                f" (best {best:.2f})" if self._knn[-1] < best else ""
            )

    def _tell_loggers(self, step: int, values: Mapping[str, Any]) -> None:
        for logger in self._loggers:
            logger.log_metrics({k: v for k, v in values.items() if k != "step"}, step)

    def _first(self, size: int) -> str:
        """The first ``size`` bytes of metrics.jsonl."""
        content = self.metrics_path.read_bytes() if self.metrics_path.is_file() else b""
        if len(content) < size:
            raise UserError(
                str(self.metrics_path),
                f"{len(content)} bytes, and the checkpoint beside it belongs to {size}",
                remedy=f"remove {self.metrics_path.parent} and run again: the run starts from the "
                "beginning",
            )
        return content[:size].decode()

    def close(self) -> None:
        """Release the terminal and the loggers."""
        if self._bar is not None:
            self._bar.stop()
        for logger in self._loggers:
            logger.finalize("success")


def _append(path: Path, values: dict[str, Any]) -> None:
    # Opened for each line, so that a killed run leaves every line that it has logged.
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _peak_memory_mib() -> float:
    # The device's memory is what limits a batch; the host's where there is no device.
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class DataWaits:
    """Adds up the waits for data between two logs.

    On a CPU the wait of the host counts. A GPU still computes its earlier work meanwhile, and is
    idle only between the end of that work and the arrival of the data, which two events of its own
    clock measure.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waits: list[tuple[float, Any, Any]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The host waits for data inside."""
        done, started = self._event(), time.monotonic()
        yield
        self._waits.append((time.monotonic() - started, done, self._event()))

    def take(self) -> float:
        """Seconds of all waits since the last call. The device must have finished its work."""
        waits, self._waits = self._waits, []
        return sum(
            seconds if done is None else min(seconds, done.elapsed_time(resumed) / 1000)
            for seconds, done, resumed in waits
        )

    def _event(self) -> Any:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
