"""Lines of progress: chance beside the loss, k-NN so far, time left; loggers get everything."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from steps.engine import monitor
from steps.engine.monitor import Monitor


class Clock:
    """A clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(monitor.time, "monotonic", lambda: self.now)


class Remembering:
    """A logger that keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, Any]]] = []
        self.ended: list[str] = []

    def log_metrics(self, values: dict[str, Any], step: int) -> None:
        self.lines.append((step, values))

    def finalize(self, status: str) -> None:
        self.ended.append(status)


def _lines(caplog: pytest.LogCaptureFixture) -> Sequence[str]:
    # The peak of memory is that of this process.
    return [message.rsplit("  ", 1)[0] for message in caplog.messages]


def test_a_line_of_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    watched = Monitor(tmp_path, "dino", 1000, quiet=False, chance={"loss": 3.178})
    watched.start(0, "")
    with caplog.at_level(logging.INFO):
        for step, knn in ((10, 40.0), (20, None), (30, 37.5)):
            clock.now += 20
            for _ in range(10):
                watched.stepped(64)
            found = {} if knn is None else {"knn_top1": knn}
            watched.write(step, {"loss": 3.0, **found}, 1.0)
    assert _lines(caplog) == [
        "dino  step 10/1000  33 min 00 s left  loss 3.0000 (chance 3.1780)  k-NN 40.00  "
        "32 images/s  waiting for data 5%",
        "dino  step 20/1000  32 min 40 s left  loss 3.0000 (chance 3.1780)  k-NN 40.00  "
        "32 images/s  waiting for data 5%",
        "dino  step 30/1000  32 min 20 s left  loss 3.0000 (chance 3.1780)  "
        "k-NN 37.50 (best 40.00)  32 images/s  waiting for data 5%",
    ]


def test_a_resumed_run_knows_its_k_nn_and_does_not_count_earlier_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    watched = Monitor(tmp_path, "mae", 100, quiet=False)
    watched.start(90, '{"step": 90, "loss": 1.0, "knn_top1": 51.0}\n')
    clock.now += 15
    watched.stepped(30)
    with caplog.at_level(logging.INFO):
        watched.write(95, {"loss": 0.5}, 0.0)
    assert _lines(caplog) == [
        "mae  step 95/100  15 s left  loss 0.5000  k-NN 51.00  2 images/s  waiting for data 0%"
    ]


def test_parts_of_a_loss_are_shown_where_they_have_a_chance(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Monitor(tmp_path, "ibot", 1, quiet=False, chance={"cls": 3.178})
    watched.start(0, "")
    with caplog.at_level(logging.INFO):
        watched.write(1, {"loss": 5.0, "cls": 2.5, "patch": 2.5}, 0.0)
    assert "loss 5.0000  cls 2.5000 (chance 3.1780)  " in caplog.messages[0]


def test_loggers_get_metrics_and_timing_from_the_step_of_the_start(tmp_path: Path) -> None:
    logger, opened = Remembering(), []

    def loggers(step: int) -> list[Any]:
        opened.append(step)
        return [logger]

    watched = Monitor(tmp_path, "mae", 10, quiet=False, loggers=loggers)
    watched.start(4, "")
    watched.write(5, {"epoch": 0.5, "loss": 1.0}, 0.0)
    watched.close()
    assert opened == [4]
    ((step, values),) = logger.lines
    assert (step, values["loss"], values["epoch"]) == (5, 1.0, 0.5)
    assert {"images_per_second", "data_wait_share", "peak_memory_mib"} < set(values)
    assert "step" not in values
    assert logger.ended == ["success"]


def test_other_processes_open_no_loggers(tmp_path: Path) -> None:
    def loggers(step: int) -> list[Any]:
        raise AssertionError

    watched = Monitor(tmp_path, "mae", 10, quiet=True, loggers=loggers)
    watched.start(0, "")
    watched.write(1, {"loss": 1.0}, 0.0)
    watched.close()
