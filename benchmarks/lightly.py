"""A training step of ours against the same method composed of lightly's modules.

    uv run --with lightly==1.6.0 python -m benchmarks.lightly [--backbone vit_s16 …] [--method …]

Forward and backward pass, clipping, optimiser and moving average; no data loading. Both sides have
the same backbone, head sizes, crops, batch, masks and AdamW; each goes its own way from there:
theirs as the package's documentation composes a step, ours as the training loop does. On one
thread, by turns in one process, and seconds are those of the process on its core, so that a busy
machine hits neither side: the median of the rounds. FLOPs are counted on both sides (a multiply-add
is two); they differ where ours leaves out what no loss reads, and where a reference implementation,
which ours is held to, computes what lightly leaves out (iBOT's centre is of all patches, theirs of
the masked ones). mocov3 compares its networks and symmetry, with lightly's NT-Xent for a loss;
dinov2 is centred, since lightly has no Sinkhorn-Knopp. supervised is against a plain timm loop.
``--small``: of seconds, writes no file.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.result import Result
from steps.engine.optimizers import build_optimizer, clip_gradients, set_rates
from steps.engine.schedules import Progress
from steps.methods import Batch, Surroundings, backbone_for, build_method
from steps.models.backbones import create_backbone, depth
from steps.params.backbone import Backbone
from steps.params.load import load
from steps.params.methods import MethodParams
from steps.params.recipe import Recipe
from steps.params.training import Optimizer, Training

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS = 7
CLASSES = 100
LR, DECAY = 1e-4, 0.05
PROGRESS = Progress(step=600, steps_per_epoch=10, total_steps=1000)
"""Far enough for nothing to be frozen or held still."""


@dataclass(frozen=True)
class Setting:
    """What a backbone is measured at: the recipes, the crops' sides, and how many images."""

    regime: str
    side: int
    local: int
    images: int


SETTINGS = {
    "vit_s16": Setting("imagenet", 96, 48, 16),
    "vit_pico": Setting("small", 64, 32, 64),
}
METHODS = ("simclr", "mocov3", "dino", "ibot", "dinov2", "mae", "supervised")
MANY_CROPS = ("dino", "ibot", "dinov2")
"""Take a quarter of the images: each has many crops."""


class Case:
    """A method at a setting: what both sides are built from, and what both are fed."""

    def __init__(self, method: str, backbone: str, shrink: int = 1) -> None:
        setting = SETTINGS[backbone]
        self.method, self.setting = method, setting
        recipe = load(REPOSITORY / f"params/recipes/{setting.regime}/{method}.yaml", Recipe)
        assert recipe.training is not None
        self.training: Training = recipe.training
        self.params: MethodParams = recipe.method
        if method == "dinov2":
            self.params = self.params.model_copy(update={"centering": "centering"})
        if method == "supervised":
            plain = {"pooling": "cls", "mixup": 0.0, "cutmix": 0.0, "random_erasing": 0.0}
            self.params = self.params.model_copy(update=plain)
        arch = load(REPOSITORY / f"params/backbones/{backbone}.yaml", Backbone)
        self.backbone = backbone_for(
            self.params, arch.model_copy(update={"image_size": setting.side})
        )
        views = self.training.views
        smaller = [view.size is not None and view.size < (views[0].size or 224) for view in views]
        self.sides = [
            setting.local if small else setting.side
            for view, small in zip(views, smaller, strict=True)
            for _ in range(view.count)
        ]
        self.images = setting.images // (4 if method in MANY_CROPS else 1) // shrink
        generator = torch.Generator().manual_seed(0)
        self.views = [
            torch.randn(self.images, 3, side, side, generator=generator) for side in self.sides
        ]
        self.labels = torch.arange(self.images) % CLASSES


class Ours:
    """A step as the training loop makes it."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        around = Surroundings(len(case.sides), tuple(case.sides), num_classes=CLASSES)
        backbone = create_backbone(case.backbone)
        self.method = build_method(case.params, backbone, around)
        optimizer = Optimizer(name="adamw", lr=LR, weight_decay=DECAY)
        self.optimizer = build_optimizer(self.method, optimizer, depth(backbone), LR)
        self.clip = case.training.clip_grad
        self.batch = Batch(case.views, case.labels)
        self.draws = self.method.sample(case.images, torch.Generator().manual_seed(0))

    def loss(self) -> Tensor:
        """With what a method does ahead of it."""
        self.method.before_step(PROGRESS)
        return self.method(self.batch, self.draws, PROGRESS)["loss"]

    def __call__(self) -> None:
        set_rates(self.optimizer, LR, DECAY, self.method.held(PROGRESS))
        self.loss().backward()
        if (clip := self.clip) is not None:
            apart = self.method.submodules() if clip.scope == "submodule" else [self.method]
            for module in apart:
                clip_gradients(module.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(PROGRESS)


class Theirs:
    """A step as a user of lightly writes it."""

    def __init__(self, case: Case, draws: dict[str, Tensor]) -> None:
        from benchmarks.composed import COMPOSED

        torch.manual_seed(0)
        backbone = case.backbone
        vit = timm.create_model(
            backbone.architecture,
            num_classes=CLASSES if case.method == "supervised" else 0,
            img_size=backbone.image_size,
            patch_size=backbone.patch_size,
            dynamic_img_size=len(set(case.sides)) > 1,
            **backbone.model_args,
        )
        self.method = COMPOSED[case.method](vit, case.params)
        decayed, others = [], []
        for parameter in self.method.parameters():
            if parameter.requires_grad:
                (decayed if parameter.ndim > 1 else others).append(parameter)
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=DECAY)
        self.clip = case.training.clip_grad
        self.views, self.draws = case.views, {**draws, "labels": case.labels}

    def loss(self) -> Tensor:
        """Of the batch."""
        return self.method.loss(self.views, self.draws)

    def __call__(self) -> None:
        self.loss().backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.method.parameters(), self.clip.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.method.move()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--small", action="store_true", help="vit_pico, few images; no file")
    arguments = parser.parse_args()
    if importlib.util.find_spec("lightly") is None:
        sys.exit(
            "lightly is not installed, and Pretext does not need it otherwise: "
            "uv run --with lightly==1.6.0 python -m benchmarks.lightly"
        )
    torch.set_num_threads(1)
    result = Result("lightly", [sys.executable, "-m", "benchmarks.lightly", *sys.argv[1:]])
    for backbone in ["vit_pico"] if arguments.small else arguments.backbone:
        for method in arguments.method:
            case = Case(method, backbone, shrink=8 if arguments.small else 1)
            result.add(**row(case, backbone, arguments.rounds))
            print(result.rows[-1], flush=True)
    result.rows.append(summary(result.rows))
    print(result.rows[-1] if arguments.small else result.write())


def row(case: Case, backbone: str, rounds: int) -> dict[str, Any]:
    """Both sides of a method."""
    ours = Ours(case)
    theirs = Theirs(case, ours.draws)
    flops = [count(side.loss) for side in (ours, theirs)]
    seconds = measure([ours, theirs], rounds)
    return {
        "method": case.method,
        "backbone": backbone,
        "against": "timm" if case.method == "supervised" else "lightly",
        "images": case.images,
        "crops": " ".join(map(str, case.sides)),
        "ours_ms": round(seconds[0] * 1000, 1),
        "theirs_ms": round(seconds[1] * 1000, 1),
        "ratio": round(seconds[1] / seconds[0], 3),
        "ours_images_per_second": round(case.images / seconds[0], 1),
        "theirs_images_per_second": round(case.images / seconds[1], 1),
        "ours_gflop": round(flops[0] / 1e9, 2),
        "theirs_gflop": round(flops[1] / 1e9, 2),
    }


def measure(steps: list[Callable[[], None]], rounds: int) -> list[float]:
    """Median seconds on the core of each step, by turns; a first round is left out."""
    seconds: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds + 1):
        for step, own in zip(steps, seconds, strict=True):
            started = time.process_time()
            step()
            own.append(time.process_time() - started)
    return [statistics.median(own[1:]) for own in seconds]


def count(loss: Callable[[], Tensor]) -> float:
    """FLOPs of a forward and backward pass, attention as plain matrix products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss().backward()
    return float(counter.get_total_flops())


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A last row: the geometric mean of the ratios, the other cells empty."""
    ratio = statistics.geometric_mean(row["ratio"] for row in rows)
    return {**dict.fromkeys(rows[0], ""), "method": "geometric mean", "ratio": round(ratio, 3)}


if __name__ == "__main__":
    main()
