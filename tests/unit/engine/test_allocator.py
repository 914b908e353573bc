"""Memory that stays with the process, seen in the pages that the system has to give it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from steps.engine import devices

STEPS = """
import resource, torch
from steps.engine.devices import keep_freed_memory
keeps = {keeps} and keep_freed_memory()
def step():
    for size in (2**24, 2**23, 2**22):  # 64, 32 and 16 MiB
        torch.ones(size)
for _ in range(20):  # small things that lie between tensors move them a few times, then no more
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, int(keeps))
"""


def _faults(keeps: bool) -> tuple[int, bool]:
    """Pages that four later steps are given, and whether the C library took part."""
    found = subprocess.run(
        [sys.executable, "-c", STEPS.format(keeps=keeps)],
        capture_output=True,
        text=True,
        check=True,
    )
    pages, kept = map(int, found.stdout.split())
    return pages, bool(kept)


def test_a_step_takes_the_pages_of_the_step_before() -> None:
    pages, kept = _faults(True)
    if kept:
        plain, _ = _faults(False)
        assert pages < plain / 10


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not devices.keep_freed_memory()
