"""On a GPU: the same losses as on the CPU in float32, and training in bf16."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from steps.artifacts import read_manifest
from steps.models import packed
from tests.scenery import Scenery

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
Step = Callable[..., subprocess.CompletedProcess[str]]


def _losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").open()]


@pytest.mark.parametrize("recipe", ["mae", "dino", "supervised"])
def test_gpu_equals_cpu_in_float32(recipe: str, scenery: Scenery, step: Step) -> None:
    data, path = scenery.images(train=80), scenery.recipe(recipe)
    outs = {device: scenery.root / device for device in ("cpu", "gpu", "again")}
    for device, out in outs.items():
        env = {"CUDA_VISIBLE_DEVICES": "" if device == "cpu" else "0"}
        done = step("pretrain", *scenery.pretrain_arguments(path, data, out), env=env)
        assert done.returncode == 0, done.stderr
    assert "cpu" not in read_manifest(outs["gpu"]).device
    assert _losses(outs["gpu"]) == pytest.approx(_losses(outs["cpu"]), rel=1e-3)
    assert read_manifest(outs["gpu"]).digest == read_manifest(outs["again"]).digest


@pytest.mark.parametrize("recipe", ["mae", "dino", "supervised"])
def test_bf16_trains(recipe: str, scenery: Scenery, step: Step) -> None:
    data, path = scenery.images(train=80), scenery.recipe(recipe, precision="bf16")
    out = scenery.root / "out"
    env = {"CUDA_VISIBLE_DEVICES": "0"}
    done = step("pretrain", *scenery.pretrain_arguments(path, data, out), env=env)
    assert done.returncode == 0, done.stderr
    assert len(_losses(out)) == 20


def test_attention_over_sequences_of_any_length_is_that_of_each_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    layout = packed.Layout(((2, 37), (3, 10)))
    tokens = torch.randn(2 * 37 + 3 * 10, 3, 4, 64, generator=generator).bfloat16().cuda()
    weights = torch.randn(len(tokens), 4 * 64, generator=generator).cuda()

    def attended() -> tuple[Tensor, Tensor]:
        inputs = tokens.clone().requires_grad_()
        output = packed.attend(*inputs.unbind(1), layout)
        (gradient,) = torch.autograd.grad((output.float() * weights).sum(), inputs)
        return output.detach(), gradient

    if not packed._has_kernel(tokens[:, 0]):
        pytest.skip("a GPU that FlashAttention does not run on")
    torch.use_deterministic_algorithms(True)
    try:
        found, again = attended(), attended()
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(packed, "_has_kernel", lambda values: False)
    for mine, same, plain in zip(found, again, attended(), strict=True):
        assert torch.equal(mine, same)
        torch.testing.assert_close(mine, plain, rtol=2e-2, atol=2e-2)
