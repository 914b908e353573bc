"""The training loop's memory does not grow; ``benchmarks.steady`` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.steady import LOG_EVERY, peak_mib


@pytest.mark.slow
def test_memory_of_the_loop_is_constant(tmp_path: Path) -> None:
    peaks = peak_mib("mae", 600, tmp_path)
    # 5 KiB a step would be more: the tensors of a micro-batch's smallest layer.
    assert peaks[-1] - peaks[300 // LOG_EVERY] < 1.5, "MiB in 300 steps"
