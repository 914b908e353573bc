"""Two gloo processes give the losses of one process at the same global batch."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.scenery import RUNS, Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(name: str, scenery: Scenery, step: Step) -> None:
    # The two processes accumulate over two micro-batches.
    _compare(name, scenery, step, limits={1: 8, 2: 2})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["supervised", "simclr"])
def test_two_processes_equal_one_with_batch_norm(name: str, scenery: Scenery, step: Step) -> None:
    scenery.backbone_name = "resnet_test"
    _compare(name, scenery, step, limits={1: 8, 2: 4})


def _compare(name: str, scenery: Scenery, step: Step, limits: dict[int, int]) -> None:
    """Train twice, the processes with so many images at a time each."""
    data = scenery.images(train=80)
    outs: dict[int, Path] = {}
    for processes, limit in limits.items():
        out = outs[processes] = scenery.root / f"out{processes}"
        node, arguments = scenery.training(name, data, out, max_batch_per_device=limit)
        done = step(node, *arguments, processes=processes)
        assert done.returncode == 0, done.stderr
    one, two = (
        [json.loads(line) for line in (out / "metrics.jsonl").open()] for out in outs.values()
    )
    assert len(one) == len(two) == 20
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert ours[key] == pytest.approx(value, rel=1e-5, abs=1e-7), (ours["step"], key)
    weights = [load_file(out / "model.safetensors") for out in outs.values()]
    for key, tensor in weights[0].items():
        assert (weights[1][key] - tensor).abs().max() < 1e-4, key


def test_a_batch_that_processes_cannot_divide(scenery: Scenery, step: Step) -> None:
    data = scenery.images()
    out = scenery.root / "out"
    path = scenery.recipe("mae", batch_size=9)
    done = step("pretrain", *scenery.pretrain_arguments(path, data, out), processes=2)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors
    assert f"{path}: training.batch_size: a global batch of 9" in errors[0]
    assert "a multiple of 2, such as 8" in errors[0]
    assert not out.exists()
