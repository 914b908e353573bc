"""Waits for data: those of the host on a CPU, those of the device on a GPU."""

from __future__ import annotations

import pytest
import torch

from steps.engine import monitor
from steps.engine.monitor import DataWaits


class Clocks:
    """A host and a device that works off what it is given."""

    def __init__(self) -> None:
        self.host = self.free = 0.0

    def asked(self, seconds: float) -> None:
        """The host gives the device so much work, and goes on."""
        self.free = max(self.free, self.host) + seconds

    def event(self) -> Event:
        return Event(max(self.free, self.host))


class Event:
    """A moment on the device's clock."""

    def __init__(self, at: float) -> None:
        self.at = at

    def elapsed_time(self, other: Event) -> float:
        return 1000 * (other.at - self.at)


@pytest.mark.parametrize(
    ("work", "load", "stood"),
    [
        (1.0, 0.0, 0.0),
        (1.0, 0.4, 0.0),  # the device works all the while
        (1.0, 1.0, 0.0),
        (1.0, 3.0, 2.0),  # and then stands still
        (0.0, 3.0, 3.0),
    ],
)
def test_a_gpu_waits_only_when_it_has_nothing_to_do(
    work: float, load: float, stood: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks, waits = Clocks(), DataWaits(torch.device("cuda"))
    monkeypatch.setattr(waits, "_event", clocks.event)
    monkeypatch.setattr(monitor.time, "monotonic", lambda: clocks.host)
    for _ in range(3):
        clocks.asked(work)
        with waits.waiting():
            clocks.host += load
    assert waits.take() == pytest.approx(3 * stood)
    assert waits.take() == 0.0


def test_a_cpu_waits_as_long_as_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, waits = Clocks(), DataWaits(torch.device("cpu"))
    monkeypatch.setattr(monitor.time, "monotonic", lambda: clocks.host)
    with waits.waiting():
        clocks.host += 2.0
    assert waits.take() == 2.0
