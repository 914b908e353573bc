"""A training step of ours against the same method composed of lightly's modules.

    uv run --with lightly==1.6.0 python -m benchmarks.lightly [--backbone vit_s16 …] [--method …]

Forward and backward pass, clipping, optimiser and moving average; no data loading. Both sides have
the same backbone, head sizes, crops, batch, masks and AdamW; each goes its own way from there:
theirs as the package's documentation composes a step, ours as the training loop does, with what it
tells the C library about freed memory (``steps.engine.devices``). Each side is a process of its
own, on one thread, and they take turns; seconds are those of a process on its core, so that a busy
machine hits neither side: the median of the rounds. ``ratio_same_memory`` is against their step in
a process that was told the same about freed memory.

FLOPs are counted on both sides (a multiply-add is two); they differ where ours leaves out what no
loss reads, and where a reference implementation, which ours is held to, computes what lightly
leaves out (iBOT's centre is of all patches, theirs of the masked ones). mocov3 compares networks
and symmetry, with lightly's NT-Xent for a loss; dinov2 is centred, since lightly has no
Sinkhorn-Knopp. supervised is against a plain timm loop. ``--small``: of seconds, writes no file.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.result import Result
from steps.core.schedules import Progress
from steps.engine.devices import keep_freed_memory
from steps.engine.optimizers import build_optimizer, clip_gradients, set_rates
from steps.methods import Batch, MethodContext, backbone_for, build_method
from steps.models.backbones import create_backbone, depth
from steps.params.backbone import Backbone
from steps.params.load import load
from steps.params.methods import MethodParams
from steps.params.recipe import Optimizer, Recipe, Training

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

    def __init__(
        self, method: str, backbone: str, shrink: int = 1, local: int | None = None
    ) -> None:
        """The method of a recipe.

        Args:
            method: its name.
            backbone: a key of ``SETTINGS``.
            shrink: divides the number of images.
            local: local crops of an image; None: as many as the recipe has.
        """
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
            for _ in range(view.count if local is None or not small else local)
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
        around = MethodContext(len(case.sides), tuple(case.sides), num_classes=CLASSES)
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
        set_rates(self.optimizer, LR, DECAY, self.method.with_zero_lr(PROGRESS))
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


class Side:
    """One side in a process of its own, which ends with the context."""

    def __init__(self, *case: Any, theirs: bool = False, keeps: bool = False) -> None:
        """A side.

        Args:
            case: what a ``Case`` is made of.
            theirs: whose step.
            keeps: whether freed memory stays with the process.
        """
        context = multiprocessing.get_context("spawn")
        self.connection, far = context.Pipe()
        self.process = context.Process(target=_serve, args=(far, case, theirs, keeps), daemon=True)
        self.process.start()
        far.close()

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.connection.close()
        self.process.join()

    def flops(self) -> float:
        """Of a step's loss and its gradient."""
        return self._ask("flops")

    def seconds(self) -> float:
        """On the core, of one step."""
        return self._ask("seconds")

    def _ask(self, what: str) -> float:
        self.connection.send(what)
        answer: float = self.connection.recv()
        return answer


def _serve(connection: Connection, case: tuple[Any, ...], theirs: bool, keeps: bool) -> None:
    """Answer what the other end asks until it closes."""
    torch.set_num_threads(1)
    if keeps:
        keep_freed_memory()
    made = Case(*case)
    step = Theirs(made, Ours(made).draws) if theirs else Ours(made)
    while True:
        try:
            what = connection.recv()
        except EOFError:
            return
        if what == "flops":
            connection.send(count(step.loss))
        else:
            started = time.process_time()
            step()
            connection.send(time.process_time() - started)


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
    result = Result("lightly", [sys.executable, "-m", "benchmarks.lightly", *sys.argv[1:]])
    for backbone in ["vit_pico"] if arguments.small else arguments.backbone:
        for method in arguments.method:
            shrink = 8 if arguments.small else 1
            result.add(**row(method, backbone, shrink, arguments.rounds))
            print(result.rows[-1], flush=True)
    result.rows.append(summary(result.rows))
    print(result.rows[-1] if arguments.small else result.write())


def row(method: str, backbone: str, shrink: int, rounds: int) -> dict[str, Any]:
    """Both sides of a method."""
    case = Case(method, backbone, shrink)
    with (
        Side(method, backbone, shrink, keeps=True) as ours,
        Side(method, backbone, shrink, theirs=True) as theirs,
        Side(method, backbone, shrink, theirs=True, keeps=True) as keeping,
    ):
        flops = [side.flops() for side in (ours, theirs)]
        seconds = measure([side.seconds for side in (ours, theirs, keeping)], rounds)
    return {
        "method": method,
        "backbone": backbone,
        "against": "timm" if method == "supervised" else "lightly",
        "images": case.images,
        "crops": " ".join(map(str, case.sides)),
        "ours_ms": round(seconds[0] * 1000, 1),
        "theirs_ms": round(seconds[1] * 1000, 1),
        "ratio": round(seconds[1] / seconds[0], 3),
        "ratio_same_memory": round(seconds[2] / seconds[0], 3),
        "ours_images_per_second": round(case.images / seconds[0], 1),
        "theirs_images_per_second": round(case.images / seconds[1], 1),
        "ours_gflop": round(flops[0] / 1e9, 2),
        "theirs_gflop": round(flops[1] / 1e9, 2),
    }


def measure(sides: Sequence[Callable[[], float]], rounds: int) -> list[float]:
    """The median of the seconds that each side says a step took, by turns.

    A first round is left out.
    """
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds + 1):
        for side, own in zip(sides, seconds, strict=True):
            own.append(side())
    return [statistics.median(own[1:]) for own in seconds]


def count(loss: Callable[[], Tensor]) -> float:
    """FLOPs of a forward and backward pass, attention as plain matrix products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss().backward()
    return float(counter.get_total_flops())


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A last row: the geometric means of the ratios, the other cells empty."""
    means = {
        key: round(statistics.geometric_mean(row[key] for row in rows), 3)
        for key in ("ratio", "ratio_same_memory")
    }
    return {**dict.fromkeys(rows[0], ""), "method": "geometric mean", **means}


if __name__ == "__main__":
    main()
