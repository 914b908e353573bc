"""A run killed with SIGKILL at random steps ends with the bits of one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from steps.artifacts import read_manifest, verify
from tests.processes import command, environment
from tests.scenery import RECIPES, RUNS, Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]


def _start(
    scenery: Scenery,
    arguments: list[str],
    node: str = "pretrain",
    processes: int = 1,
    env: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(f"steps.{node}", *arguments, processes=processes),
        cwd=scenery.root,
        env=env or environment(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _lines(scenery: Scenery) -> int:
    files = list(scenery.root.glob(".scratch/*/metrics.jsonl"))
    return len(files[0].read_bytes().splitlines()) if files else 0


def kill_at(
    scenery: Scenery,
    arguments: list[str],
    step: int,
    node: str = "pretrain",
    env: dict[str, str] | None = None,
) -> None:
    """Kill the whole process group once the run has logged a step."""
    process = _start(scenery, arguments, node, env=env)
    deadline = time.monotonic() + 300
    while _lines(scenery) < step and process.poll() is None:
        assert time.monotonic() < deadline, "the run did not get to the step in time"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


# What a checkpoint must hold of every method, tests/pipeline/test_bf16.py tries in one process.
OFTEN = [("mae", "vit_test"), ("simclr", "resnet_test")]
REST = [(name, "vit_test") for name in RUNS if (name, "vit_test") not in OFTEN]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backbone"), [*OFTEN, *(pytest.param(*each, marks=pytest.mark.long) for each in REST)]
)
def test_killed_twice_ends_with_the_same_bits(
    name: str, backbone: str, scenery: Scenery, step: Step
) -> None:
    scenery.backbone_name = backbone
    data = scenery.images(train=64)
    changes = {"epochs": 10, "workers": 1}  # 80 steps
    whole, resumed = scenery.root / "whole", scenery.root / "resumed"
    node, arguments = scenery.training(name, data, whole, **changes)
    done = step(node, *arguments)
    assert done.returncode == 0, done.stderr

    _, arguments = scenery.training(name, data, resumed, **changes)
    first = random.randint(2, 25)
    kill_at(scenery, arguments, first, node)
    assert not resumed.exists(), "a half-made artifact was published"
    assert list(scenery.root.glob(".scratch/*/checkpoint.pt")), "no checkpoint was left"
    kill_at(scenery, arguments, random.randint(first + 5, 55), node)
    done = step(node, *arguments)
    assert done.returncode == 0, done.stderr

    assert verify(resumed).digest == verify(whole).digest
    assert (resumed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert not list(scenery.root.glob(".scratch/*")), "scratch was left behind"


@pytest.mark.long
@pytest.mark.slow
def test_killed_in_the_final_phase_ends_with_the_same_bits(scenery: Scenery, step: Step) -> None:
    data = scenery.images(train=64)
    final = {**RECIPES["dinov2"]["training"]["final_phase"], "epochs": 4}
    path = scenery.recipe("dinov2", epochs=1, final_phase=final, workers=1)  # 8 steps and 32
    whole, resumed = scenery.root / "whole", scenery.root / "resumed"
    done = step("pretrain", *scenery.pretrain_arguments(path, data, whole))
    assert done.returncode == 0, done.stderr
    arguments = scenery.pretrain_arguments(path, data, resumed)
    kill_at(scenery, arguments, random.randint(10, 25))
    done = step("pretrain", *arguments)
    assert done.returncode == 0, done.stderr
    assert verify(resumed).digest == verify(whole).digest
    config = json.loads((resumed / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 40, 40]


@pytest.mark.long
@pytest.mark.slow
def test_shards_of_killed_processes_end_with_the_same_bits(scenery: Scenery, step: Step) -> None:
    data = scenery.images(train=64)
    changes = {"epochs": 5, "strategy": "fsdp", "max_batch_per_device": 2}  # 40 steps
    whole, resumed = scenery.root / "whole", scenery.root / "resumed"
    _, arguments = scenery.training("dino", data, whole, **changes)
    done = step("pretrain", *arguments, processes=2)
    assert done.returncode == 0, done.stderr

    _, arguments = scenery.training("dino", data, resumed, **changes)
    launcher = _start(scenery, arguments, processes=2)
    deadline, last = time.monotonic() + 300, random.randint(5, 30)
    while _lines(scenery) < last and launcher.poll() is None:
        assert time.monotonic() < deadline, "the run did not get to the step in time"
        time.sleep(0.002)
    workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    for process in (launcher.pid, *map(int, workers)):
        os.kill(process, signal.SIGKILL)
    assert launcher.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert len(workers) == 2
    assert not resumed.exists(), "a half-made artifact was published"
    checkpoints = list(scenery.root.glob(".scratch/*/shards-*"))
    assert checkpoints, "no checkpoint was left"
    for checkpoint in checkpoints:
        assert len(list(checkpoint.glob("*.safetensors"))) == 2, "a process wrote no shards"
    done = step("pretrain", *arguments, processes=2)
    assert done.returncode == 0, done.stderr
    assert verify(resumed).digest == verify(whole).digest
    assert (resumed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert not list(scenery.root.glob(".scratch/*")), "scratch was left behind"


@pytest.mark.parametrize("workers", [0, 2])
def test_sigterm_leaves_a_checkpoint(workers: int, scenery: Scenery) -> None:
    data = scenery.images(train=64)
    # Never by the clock, so that only the signal can have written it.
    path = scenery.recipe("mae", epochs=2000, checkpoint_seconds=1e6, workers=workers)
    process = _start(scenery, scenery.pretrain_arguments(path, data, scenery.root / "out"))
    while _lines(scenery) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    for _ in range(2):  # as Slurm does at a time limit: the loader's processes too
        os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=300) == 128 + signal.SIGTERM
    assert list(scenery.root.glob(".scratch/*/checkpoint.pt"))


def test_checkpoint_of_another_recipe_is_refused(scenery: Scenery, step: Step) -> None:
    data = scenery.images(train=64)
    arguments = scenery.pretrain_arguments(
        scenery.recipe("mae", epochs=40), data, scenery.root / "out"
    )
    kill_at(scenery, arguments, 5)
    (checkpoint,) = scenery.root.glob(".scratch/*/checkpoint.pt")
    other = scenery.pretrain_arguments(scenery.recipe("dino"), data, scenery.root / "dino")
    done = step("pretrain", *other, "--checkpoint", checkpoint)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {checkpoint}: a checkpoint of another recipe")
    assert "remedy:" in line
    assert not (scenery.root / "dino").exists()


def test_random_publishes_an_untrained_backbone(scenery: Scenery, step: Step) -> None:
    data = scenery.images()
    out = scenery.root / "out"
    arguments = scenery.pretrain_arguments(scenery.params / "recipes/test/random.yaml", data, out)
    assert step("pretrain", *arguments).returncode == 0
    manifest = read_manifest(out, "pretrain")
    assert manifest.facts["images_seen"] == 0
    assert manifest.facts["kind"] == "Random"
    assert isinstance(manifest.inputs["data"], str)


def test_half_an_artifact_is_not_read(scenery: Scenery, step: Step, tmp_path: Path) -> None:
    data = scenery.images()
    (data / "manifest.json").unlink()
    done = step(
        "pretrain",
        *scenery.pretrain_arguments(scenery.recipe("mae"), data, tmp_path / "out"),
    )
    assert done.returncode == 2
    assert "not a whole artifact" in done.stderr
