"""On a GPU: every method and tokenizer in float32 and bfloat16, resumed to the bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from steps.artifacts import read_manifest
from steps.evaluation.linear import cached_probe, logistic_probe
from steps.models import last_block
from steps.params.protocols import Linear, LogReg
from tests.pipeline.runs import Run, run_all
from tests.pipeline.test_bf16 import FIRST, MEAN
from tests.scenery import BACKBONE, RUNS, Scenery

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


HEADS = {**BACKBONE, "model_args": {"embed_dim": 64, "depth": 2, "num_heads": 2}}
"""Heads of 32 channels: the kernel for sequences of any length takes them."""
DRAWN_THERE = {"tokenizer-dalle"}
"""Its noise is drawn on the device: other numbers on another one."""
KINDS = ("fp32-cpu", "fp32", "fp32-again", "bf16", "bf16-again")


def _lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


@pytest.mark.parametrize("name", RUNS)
def test_a_gpu_trains_as_the_cpu_does(name: str, scenery: Scenery) -> None:
    """In float32 with the CPU's losses; in either precision with the same bits twice, once killed
    in between."""
    scenery.write("backbones/vit_test.yaml", HEADS)
    data = scenery.images(train=80)

    def run(kind: str, stop: int | None = None) -> Run:
        out = scenery.root / kind / "out"
        changes = {"epochs": 1.2, "checkpoint_seconds": 1e6, "precision": kind.partition("-")[0]}
        node, arguments = scenery.training(name, data, out, **changes)
        params = Path(arguments[1])
        arguments[1] = str(shutil.copy(params, params.with_stem(f"{params.stem}-{kind}")))
        return Run(str(out.parent), node, arguments, stop)

    run_all([run("fp32-cpu")], scenery.root)
    runs = [run("fp32"), run("fp32-again", stop=5), run("fp32-again")]
    runs += [run("bf16"), run("bf16-again", stop=5), run("bf16-again")]
    run_all(runs, scenery.root, CUDA_VISIBLE_DEVICES="0")

    outs = {kind: scenery.root / kind / "out" for kind in KINDS}
    cpu, gpu, bf16 = (_lines(outs[kind]) for kind in ("fp32-cpu", "fp32", "bf16"))
    assert "cpu" not in read_manifest(outs["fp32"]).device
    losses = [[line["loss"] for line in lines] for lines in (cpu, gpu, bf16)]
    if name not in DRAWN_THERE:
        assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-5)
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[2][0] == pytest.approx(losses[1][0], rel=FIRST)
    assert sum(losses[2]) == pytest.approx(sum(losses[1]), rel=MEAN)
    for precision in ("fp32", "bf16"):
        digests = {read_manifest(outs[kind]).digest for kind in (precision, f"{precision}-again")}
        assert len(digests) == 1, f"{precision} runs differ"


def test_attention_over_sequences_of_any_length_is_that_of_each_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(0)
    packed = last_block.PackedCrops(((2, 37), (3, 10)))
    tokens = torch.randn(2 * 37 + 3 * 10, 3, 4, 64, generator=generator).bfloat16().cuda()
    weights = torch.randn(len(tokens), 4 * 64, generator=generator).cuda()

    def attended() -> tuple[Tensor, Tensor]:
        inputs = tokens.clone().requires_grad_()
        output = last_block.attend(*inputs.unbind(1), packed)
        (gradient,) = torch.autograd.grad((output.float() * weights).sum(), inputs)
        return output.detach(), gradient

    if not last_block._has_kernel(tokens[:, 0]):
        pytest.skip("a GPU that FlashAttention does not run on")
    torch.use_deterministic_algorithms(True)
    try:
        found, again = attended(), attended()
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(last_block, "_has_kernel", lambda values: False)
    for mine, same, plain in zip(found, again, attended(), strict=True):
        assert torch.equal(mine, same)
        torch.testing.assert_close(mine, plain, rtol=2e-2, atol=2e-2)


def test_linear_probes_on_a_gpu_agree_with_the_cpu() -> None:
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (400,), generator=draws)
    features = torch.randn(400, 16, generator=draws) + torch.eye(16)[labels]
    lr = Linear(kind="cached", poolings=["cls"], epochs=10, batch_size=64, lr=[0.1, 1.0])
    c = LogReg(kind="logreg", poolings=["cls"], c=[0.1, 1.0], max_iterations=200, tolerance=1e-9)
    for fit, protocol in ((cached_probe, lr), (logistic_probe, c)):
        found = [
            fit(features.to(device), labels.to(device), features.to(device), protocol, 5, 0)
            for device in ("cpu", "cuda")
        ]
        assert found[0][1] == found[1][1]
        torch.testing.assert_close(found[1][0].cpu(), found[0][0], rtol=1e-3, atol=1e-3)
