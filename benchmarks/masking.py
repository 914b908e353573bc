"""What masking saves: a training step at the published mask ratio against none, MAE and DropPos.

    python -m benchmarks.masking [--backbone vit_pico …] [--ratio 0.75] [--batch-size 16]

Forward and backward pass of the encoder alone, and of the whole method (decoder and loss too; for
DropPos also its pass over the whole image without gradient, which masking does not shorten), on one
thread. Both ratios take turns in one process, and seconds are those of the process on its core, so
that a busy machine hits neither side.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.result import Result
from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext, build_method
from steps.methods.droppos import DropPos
from steps.methods.mae import MAE
from steps.methods.method import Draws
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.load import load
from steps.params.recipe import Recipe

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS = 9
METHODS = ("mae", "droppos")
Masked = MAE | DropPos


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", nargs="+", default=["vit_pico"])
    parser.add_argument("--ratio", type=float, default=0.75)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = Result("masking", [sys.executable, "-m", "benchmarks.masking", *sys.argv[1:]])
    for backbone in arguments.backbone:
        for method in METHODS:
            methods = {ratio: build(method, backbone, ratio) for ratio in (0.0, arguments.ratio)}
            row: dict[str, float] = {}
            for part, step in (("encoder", encoder_step), ("step", whole_step)):
                none, masked = measure(step, list(methods.values()), arguments.batch_size)
                row[f"{part}_ms_at_0"] = round(none * 1000, 1)
                row[f"{part}_ms_at_{arguments.ratio}"] = round(masked * 1000, 1)
                row[f"{part}_ratio"] = round(none / masked, 2)
            result.add(method=method, backbone=backbone, batch_size=arguments.batch_size, **row)
    print(result.write())


def build(method: str, backbone: str, ratio: float) -> Masked:
    """The method of the small recipe at a mask ratio, initialised alike."""
    recipe = load(REPOSITORY / f"params/recipes/small/{method}.yaml", Recipe)
    params = recipe.method.model_copy(update={"mask_ratio": ratio})
    torch.manual_seed(0)
    vit = create_backbone(load(REPOSITORY / f"params/backbones/{backbone}.yaml", Backbone))
    built = build_method(params, vit, MethodContext(views=1))
    assert isinstance(built, Masked)
    return built


def measure(
    step: Callable[[Masked, Tensor, Draws], Tensor], methods: list[Masked], batch: int
) -> list[float]:
    """Median seconds on the core of each method's forward and backward pass, by turns."""
    seconds: list[list[float]] = [[] for _ in methods]
    size = methods[0].backbone.patch_embed.img_size[0]
    images = torch.randn(batch, 3, size, size)
    for _ in range(ROUNDS + 1):
        for method, row in zip(methods, seconds, strict=True):
            draws = method.sample(batch, torch.Generator().manual_seed(0))
            method.zero_grad(set_to_none=True)
            started = time.process_time()
            step(method, images, draws).backward()
            row.append(time.process_time() - started)
    return [statistics.median(row[1:]) for row in seconds]


def encoder_step(method: Masked, images: Tensor, draws: Draws) -> Tensor:
    """The encoder's pass with gradient, and a scalar of what it gives."""
    if isinstance(method, MAE):
        return method.encode(images, draws["noise"])[0].square().mean()
    return method.encode_visible(images, method.maskings(draws)).square().mean()


def whole_step(method: Masked, images: Tensor, draws: Draws) -> Tensor:
    """All that a training step computes. (MAE's loss is 0 / 0 where nothing was removed.)"""
    return method(Batch([images], torch.zeros(len(images))), draws, Progress(0, 1, 1))["loss"]


if __name__ == "__main__":
    main()
