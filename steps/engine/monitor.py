"""What a training run says while it runs: metrics, timing, and a bar or lines for the reader."""

from __future__ import annotations

import json
import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from steps.command import UserError
from steps.command.machine import writing

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
_LINE_SECONDS = 10.0


class Monitor:
    """Writes ``metrics.jsonl`` (the same for every run of the same thing) and ``timing.jsonl``.

    A terminal gets a progress bar; a file or a pipe gets a line every ten seconds.
    """

    def __init__(self, folder: Path, title: str, total_steps: int, *, quiet: bool) -> None:
        self.metrics_path = folder / METRICS
        self.timing_path = folder / TIMING
        self.title = title
        self.total_steps = total_steps
        self.quiet = quiet
        self._images = 0
        self._since = self._line = time.monotonic()
        self._bar: Progress | None = None

    def start(self, step: int, metrics: str | int) -> None:
        """Begin at a step.

        Args:
            step: how many steps were made before.
            metrics: the lines of metrics.jsonl up to there. What a killed run wrote after its
                checkpoint goes, what was lost of the file comes back. Of a checkpoint of an earlier
                version, the number of their bytes.

        Raises:
            UserError: the file has fewer bytes than that.
        """
        if self.quiet:
            return
        with writing(self.metrics_path):
            if isinstance(metrics, int):
                metrics = self._first(metrics)
            self.metrics_path.write_text(metrics, encoding="utf-8")
        if sys.stderr.isatty():
            self._bar = Progress(
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
        """Count a step of so many images, those of the global batch."""
        self._images += images
        if self._bar is not None:
            self._bar.advance(self._task)

    def write(self, step: int, values: dict[str, Any], waited: float) -> None:
        """Log a window that ends with ``step``: its mean losses, rates, and its speed.

        Args:
            step: the last of the window.
            values: of metrics.jsonl.
            waited: seconds that the device stood still for want of data.
        """
        if self.quiet:
            return
        now = time.monotonic()
        elapsed = max(now - self._since, 1e-9)
        speed = self._images / elapsed
        timing = {
            "step": step,
            "images_per_second": round(speed, 1),
            "data_wait_share": round(waited / elapsed, 4),
            "peak_memory_mib": round(_peak_memory_mib(), 1),
        }
        _append(self.metrics_path, {"step": step, **values})
        _append(self.timing_path, timing)
        state = (
            f"loss {values['loss']:.4f}  {speed:.0f} images/s  "
            f"waiting for data {timing['data_wait_share']:.0%}  "
            f"{timing['peak_memory_mib']:.0f} MiB"
        )
        if self._bar is not None:
            self._bar.update(self._task, state=state)
        elif now - self._line > _LINE_SECONDS or step == self.total_steps:
            log.info("%s  step %d/%d  %s", self.title, step, self.total_steps, state)
            self._line = now
        self._since, self._images = now, 0

    def _first(self, size: int) -> str:
        """So many bytes of metrics.jsonl."""
        content = self.metrics_path.read_bytes() if self.metrics_path.is_file() else b""
        if len(content) < size:
            raise UserError(
                str(self.metrics_path),
                f"{len(content)} bytes, and the checkpoint beside it belongs to {size}",
                remedy=f"remove {self.metrics_path.parent} and run again: the run starts from the "
                "beginning",
            )
        return content[:size].decode()

    def stop(self) -> None:
        """Give the terminal back."""
        if self._bar is not None:
            self._bar.stop()


def _append(path: Path, values: dict[str, Any]) -> None:
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _peak_memory_mib() -> float:
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class DataWaits:
    """Adds up the waits for data between two logs.

    On a CPU a wait is the time that the host waits. A GPU computes meanwhile what it was given
    before: it stands still only from the end of that to the arrival of the data, as two events of
    its own clock tell.
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
