"""How long the device stands still because data are not there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


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
