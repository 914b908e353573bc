"""Training steps on a GPU, of ImageNet's recipes, with images that are in memory already.

    python -m benchmarks.gpu [mae_l16 dino_s16 …]

Each case takes some steps as the training loop makes them (copy, normalisation, losses, clipping,
optimiser, moving average; no decoding): as its recipe says, deterministic, in bfloat16; without
determinism; and, where crops have two sizes, with a pass a size in place of packed crops. The
milliseconds of a step are the median by the GPU's clock. Draws are made once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.fabric import Fabric

from benchmarks.result import Result
from steps.core.schedules import Progress
from steps.data.views import normalise
from steps.engine.devices import launch
from steps.engine.optimizers import build_optimizer, clip_gradients, set_rates
from steps.engine.watch import flops_per_image
from steps.methods import Batch, MethodContext, backbone_for, build_method
from steps.models import last_block
from steps.models.backbones import create_backbone, depth
from steps.params.backbone import Backbone
from steps.params.load import load
from steps.params.recipe import Recipe
from steps.params.views import sides

PARAMS = Path(__file__).resolve().parents[1] / "params"
CASES = {
    "simclr_s16": ("simclr_vit", "vit_s16", 256),
    "mocov3_s16": ("mocov3", "vit_s16", 256),
    "dino_s16": ("dino", "vit_s16", 128),
    "ibot_s16": ("ibot", "vit_s16", 128),
    "dinov2_s16": ("dinov2", "vit_s16", 128),
    "dinov2_l16": ("dinov2", "vit_l16", 64),
    "mae_s16": ("mae", "vit_s16", 256),
    "mae_l16": ("mae", "vit_l16", 256),
    "droppos_s16": ("droppos", "vit_s16", 256),
    "mp3_s16": ("mp3", "vit_s16", 256),
    "dilemma_s16": ("dilemma", "vit_s16", 256),
    "supervised_s16": ("supervised", "vit_s16", 256),
}
"""Recipe, backbone and images of a step."""
PROGRESS = Progress(600, 10, 1000)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARMUP, STEPS = 3, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", nargs="*", choices=[*CASES, []], default=list(CASES))
    arguments = parser.parse_args()
    fabric = launch("bf16", deterministic=True)
    if fabric.device.type != "cuda":
        sys.exit("a GPU is needed")
    result = Result("gpu", [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:]])
    for name in arguments.case:
        for variant in ("as trained", "not deterministic", "a pass a size"):
            measured = row(name, variant, fabric)
            if measured:
                result.add(case=name, variant=variant, **measured)
                print(result.rows[-1], flush=True)
    print(result.write())


def row(name: str, variant: str, fabric: Fabric) -> dict[str, Any]:
    """One case one way; nothing where the way is not another for it."""
    recipe_name, backbone_name, images = CASES[name]
    recipe = load(PARAMS / f"recipes/imagenet/{recipe_name}.yaml", Recipe)
    backbone = load(PARAMS / f"backbones/{backbone_name}.yaml", Backbone)
    assert recipe.training is not None
    all_sides = sides(recipe.training.views, backbone.image_size)
    apart = variant == "a pass a size"
    if apart and len(set(all_sides)) == 1:
        return {}
    torch.use_deterministic_algorithms(variant != "not deterministic")
    can_pack = (lambda vit: False) if apart else last_block.can_pack
    with mock.patch.object(last_block, "can_pack", can_pack):
        step, flops = build(recipe, backbone, all_sides, images, fabric)
        for _ in range(WARMUP):
            loss = step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        times, host = [], []
        for _ in range(STEPS):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            started = time.perf_counter()
            begin.record()
            loss = step()
            end.record()
            host.append(1000 * (time.perf_counter() - started))
            end.synchronize()
            times.append(begin.elapsed_time(end))
    milliseconds = statistics.median(times)
    return {
        "images": images,
        "ms": round(milliseconds, 1),
        "host_ms": round(statistics.median(host), 1),
        "images_per_second": round(1000 * images / milliseconds),
        "tflops_per_second": round(flops * images / milliseconds / 1e9, 1),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "loss": round(float(loss), 4),
    }


def build(
    recipe: Recipe, backbone: Backbone, all_sides: tuple[int, ...], images: int, fabric: Fabric
) -> tuple[Callable[[], torch.Tensor], float]:
    """A step as the training loop makes it, and its FLOPs an image."""
    training = recipe.training
    assert training is not None
    torch.manual_seed(0)
    vit = create_backbone(backbone_for(recipe.method, backbone))
    around = MethodContext(views=len(all_sides), sides=all_sides, num_classes=1000)
    method = build_method(recipe.method, vit, around).to(fabric.device).train()
    optimizer = build_optimizer(method, training.optimizer, depth(vit), 1e-4)
    views = [
        torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8).pin_memory()
        for side in all_sides
    ]
    labels = torch.randint(0, 1000, (images,)).pin_memory()
    draws = {
        draw: values.contiguous().pin_memory()
        for draw, values in method.sample(images, torch.Generator().manual_seed(0)).items()
    }

    def batch(rows: slice) -> tuple[Batch, dict[str, torch.Tensor]]:
        on_device = [
            normalise(view[rows].to(fabric.device, non_blocking=True), MEAN, STD) for view in views
        ]
        chosen = {
            name: draw[rows].to(fabric.device, non_blocking=True) for name, draw in draws.items()
        }
        return Batch(on_device, labels[rows].to(fabric.device, non_blocking=True)), chosen

    def step() -> torch.Tensor:
        set_rates(optimizer, 1e-4, 0.05, method.with_zero_lr(PROGRESS))
        method.before_step(PROGRESS)
        with fabric.autocast():
            loss = method(*batch(slice(None)), PROGRESS)["loss"]
        loss.backward()
        if (clip := training.clip_grad) is not None:
            for part in method.submodules() if clip.scope == "submodule" else [method]:
                clip_gradients(part.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(PROGRESS)
        return loss.detach()

    with fabric.autocast():
        flops = flops_per_image(method, *batch(slice(0, 2)), PROGRESS)
    return step, flops


if __name__ == "__main__":
    main()
