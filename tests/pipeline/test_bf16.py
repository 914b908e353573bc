"""Training in bfloat16: every method and tokenizer, alone and in processes, resumed to the bit.

No GPU is needed: autocast does the same on a CPU.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from steps.artifacts import read_manifest
from tests.pipeline.runs import Run, run_all
from tests.scenery import RUNS, Scenery

FIRST = 0.01
"""Relative distance of the first loss from float32's."""
MEAN = 0.02
"""The same of the mean of all losses: the weights have moved another way."""
STEPS = 12


class Sessions:
    """Runs of the same recipes, each kind in a folder of its own."""

    def __init__(self, scenery: Scenery) -> None:
        self.scenery = scenery
        self.data = scenery.images(train=80)

    def out(self, name: str, kind: str) -> Path:
        return self.scenery.root / f"{name}-{kind}" / "out"

    def run(self, name: str, kind: str, stop: int | None = None, **training: object) -> Run:
        """One of ``RUNS``, in the precision that its kind begins with."""
        precision = kind.partition("-")[0]
        changes = {"epochs": STEPS / 10, "checkpoint_seconds": 1e6, "precision": precision}
        out = self.out(name, kind)
        node, arguments = self.scenery.training(name, self.data, out, **{**changes, **training})
        # The next run's params are written to the same file.
        params = Path(arguments[1])
        arguments[1] = str(shutil.copy(params, params.with_stem(f"{params.stem}-{kind}")))
        return Run(str(out.parent), node, arguments, stop)

    def losses(self, name: str, kind: str) -> list[float]:
        lines = (self.out(name, kind) / "metrics.jsonl").open()
        return [json.loads(line)["loss"] for line in lines]

    def digest(self, name: str, kind: str) -> str:
        return read_manifest(self.out(name, kind)).digest

    def close(self, name: str, kind: str) -> None:
        """Check the losses of a kind against those in float32."""
        ours, exact = self.losses(name, kind), self.losses(name, "fp32")
        assert len(ours) == len(exact) >= STEPS, name
        assert ours[0] == pytest.approx(exact[0], rel=FIRST), name
        assert sum(ours) == pytest.approx(sum(exact), rel=MEAN), name
        assert ours != exact, f"{name}: nothing was computed in bfloat16"


@pytest.mark.slow
def test_both_precisions_train_and_resume_to_the_bit(scenery: Scenery) -> None:
    made = Sessions(scenery)
    runs = []
    for name in RUNS:
        for precision in ("fp32", "bf16"):
            again = f"{precision}-again"
            runs += [made.run(name, precision)]
            runs += [made.run(name, again, stop=5), made.run(name, again)]
    run_all(runs, scenery.root)
    for name in RUNS:
        made.close(name, "bf16")
        for precision in ("fp32", "bf16"):
            assert made.digest(name, precision) == made.digest(name, f"{precision}-again"), name


@pytest.mark.slow
def test_bf16_trains_in_processes(scenery: Scenery) -> None:
    made, strategies = Sessions(scenery), ("ddp", "fsdp")
    run_all([made.run(name, "fp32") for name in RUNS], scenery.root)
    runs = []
    for strategy in strategies:
        runs += [made.run(name, f"bf16-{strategy}", strategy=strategy) for name in RUNS]
        again = f"bf16-{strategy}-again"
        runs += [made.run("dino", again, stop=5, strategy=strategy)]
        runs += [made.run("dino", again, strategy=strategy)]
    run_all(runs, scenery.root, processes=2)
    for strategy in strategies:
        for name in RUNS:
            made.close(name, f"bf16-{strategy}")
        digests = {made.digest("dino", f"bf16-{strategy}{ending}") for ending in ("", "-again")}
        assert len(digests) == 1, strategy


def test_fp32_multiplies_in_float32_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from steps.engine.devices import launch

    matmul = torch.get_float32_matmul_precision()
    kept = (torch.backends.cudnn.allow_tf32, torch.are_deterministic_algorithms_enabled())
    try:
        launch("fp32", deterministic=True)
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
        launch("bf16", deterministic=True)
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = kept[0]
        torch.use_deterministic_algorithms(kept[1])
