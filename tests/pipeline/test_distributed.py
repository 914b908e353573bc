"""Processes, DDP or FSDP, train to what one trains to, and a run goes on in another layout."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.pipeline.runs import Run, run_all
from tests.scenery import RUNS, Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]

LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "one": (1, {"strategy": "ddp", "max_batch_per_device": 8}),
    # The two processes accumulate over two micro-batches.
    "ddp": (2, {"strategy": "ddp", "max_batch_per_device": 2}),
    "fsdp": (2, {"strategy": "fsdp", "max_batch_per_device": 2}),
}
"""How many processes, and the changes to a recipe's training."""


def _compare(out: Path, one: Path, name: str, steps: int) -> None:
    """What was logged at each step, and the artifact."""
    ours, theirs = (
        [json.loads(line) for line in (folder / "metrics.jsonl").open()] for folder in (out, one)
    )
    assert len(ours) == len(theirs) == steps
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for key, value in other.items():
            # A small difference of two losses is as exact as they are.
            least = 1e-5 * abs(other["loss"]) if key == "kl" else 1e-7
            close = pytest.approx(value, rel=1e-5, abs=least)
            assert mine[key] == close, (name, mine["step"], key)
    mine, other = (load_file(folder / "model.safetensors") for folder in (out, one))
    assert mine.keys() == other.keys()
    for key, tensor in other.items():
        assert (mine[key] - tensor).abs().max() < 1e-4, (name, key)


@pytest.mark.slow
def test_processes_equal_one(scenery: Scenery) -> None:
    """Every recipe: all optimisers, ways of clipping, averages, heads held still, phases."""
    data = scenery.images(train=80)
    names = [(name, "vit_test") for name in RUNS]
    names += [("simclr", "resnet_test"), ("supervised", "resnet_test")]
    runs: dict[str, list[Run]] = {}
    for layout, (_, training) in LAYOUTS.items():
        for name, backbone in names:
            scenery.backbone_name = backbone
            out = scenery.root / f"{name}-{backbone}-{layout}"
            changes = {**training, "checkpoint_seconds": 1e6}
            # Batch norm needs a process's batch together. DILEMMA's, of 8 rows, makes the rounding
            # of FSDP's sums in another order as large as what is compared.
            if backbone == "resnet_test" or (name, layout) == ("dilemma", "fsdp"):
                changes["max_batch_per_device"] = 8
            node, arguments = scenery.training(name, data, out, **changes)
            params = Path(arguments[1])
            own = params.with_stem(f"{params.stem}-{backbone}-{layout}")
            arguments[1] = str(shutil.copy(params, own))
            runs.setdefault(layout, []).append(Run(str(scenery.root), node, arguments))
    run_all(runs["one"], scenery.root)
    run_all(runs["ddp"] + runs["fsdp"], scenery.root, processes=2)
    for (name, backbone), layout in itertools.product(names, ("ddp", "fsdp")):
        one, out = (scenery.root / f"{name}-{backbone}-{each}" for each in ("one", layout))
        _compare(out, one, f"{name} {layout}", steps=20)


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["dino"], pytest.param(["mae", "simclr"], marks=pytest.mark.long)]
)
def test_a_run_goes_on_in_another_layout(names: list[str], scenery: Scenery) -> None:
    data = scenery.images(train=80)
    sceneries = {layout: Scenery(scenery.root / layout) for layout in LAYOUTS}

    def run(name: str, layout: str, folder: str, stop: int | None = None) -> Run:
        out = scenery.root / folder / "out"
        changes = {**LAYOUTS[layout][1], "epochs": 1.2, "checkpoint_seconds": 1e6}
        node, arguments = sceneries[layout].training(name, data, out, **changes)
        return Run(str(out.parent), node, arguments, stop)

    def go(layouts: list[str], runs: list[Run]) -> None:
        (processes,) = {LAYOUTS[layout][0] for layout in layouts}
        run_all(runs, scenery.root, processes)

    whole = [run(name, "one", f"{name}-whole") for name in names]
    go(["one"], whole + [run(name, "one", f"{name}-one", stop=5) for name in names])
    several = ["ddp", "fsdp"]
    pairs = itertools.product(names, several)
    go(several, [run(name, layout, f"{name}-{layout}", stop=5) for name, layout in pairs])
    ways = list(itertools.permutations(LAYOUTS, 2))
    for name, (source, target) in itertools.product(names, ways):
        start = scenery.root / f"{name}-{source}"
        assert not (start / "out").exists()
        shutil.copytree(start, scenery.root / f"{name}-{source}-{target}")
    for targets in (["one"], several):
        go(
            targets,
            [
                run(name, target, f"{name}-{source}-{target}")
                for name in names
                for source, target in ways
                if target in targets
            ],
        )
    for name, (source, target) in itertools.product(names, ways):
        folder = scenery.root / f"{name}-{source}-{target}"
        _compare(folder / "out", scenery.root / f"{name}-whole/out", folder.name, steps=12)
        assert not list(folder.glob(".scratch/*")), "scratch was left behind"


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
