"""What packing saves: crops of both sizes as one set of tokens, against a pass for each size.

    python -m benchmarks.multicrop [--backbone vit_s16 …] [--method dino …] [--rounds 7]

Forward and backward pass of the student's backbone, and the whole step as the training loop makes
it (teacher, heads, losses, clipping, optimiser, moving average; no data loading). Both take turns
in one process, on one thread, and seconds are those of the process on its core, so that a busy
machine hits neither side: the median of the rounds, and for ``ratio`` the median over the rounds of
plain / packed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.lightly import MANY_CROPS, PROGRESS, SETTINGS, Case, Ours
from benchmarks.result import Result
from steps.engine.devices import keep_freed_memory
from steps.methods.dino import DINO
from steps.methods.dinov2 import DINOv2
from steps.methods.ibot import IBOT
from steps.models import last_block
from steps.models.dinov2_vit import mask_token

ROUNDS = 7
LOCAL = {"vit_s16": (8,), "vit_pico": (2, 4, 8)}
"""Local crops beside two global ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--method", nargs="+", choices=MANY_CROPS, default=list(MANY_CROPS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    result = Result("multicrop", [sys.executable, "-m", "benchmarks.multicrop", *sys.argv[1:]])
    for backbone in arguments.backbone:
        for local in LOCAL[backbone]:
            for method in arguments.method:
                result.add(**row(Case(method, backbone, local=local), backbone, arguments.rounds))
                print(result.rows[-1], flush=True)
    print(result.write())


def row(case: Case, backbone: str, rounds: int) -> dict[str, Any]:
    """Both ways of a method."""
    step = Ours(case)
    measured: dict[str, float] = {}
    for part, run in (("student", lambda: student_pass(step)), ("step", step)):
        plain, together = measure(run, rounds)
        measured[f"{part}_plain_ms"] = round(statistics.median(plain) * 1000, 1)
        measured[f"{part}_packed_ms"] = round(statistics.median(together) * 1000, 1)
        ratios = [one / other for one, other in zip(plain, together, strict=True)]
        measured[f"{part}_ratio"] = round(statistics.median(ratios), 3)
    sides = case.sides
    crops = " + ".join(f"{sides.count(side)} x {side}" for side in dict.fromkeys(sides))
    return {
        "method": case.method,
        "backbone": backbone,
        "images": case.images,
        "crops": crops,
        **measured,
    }


def student_pass(step: Ours) -> None:
    """Forward and backward pass of the student's backbone over all crops."""
    step.method.zero_grad(set_to_none=True)
    sum(output.square().mean() for output in student(step)).backward()


def student(step: Ours) -> list[Tensor]:
    """What the losses read of the student's backbone."""
    method, views, draws = step.method, step.batch.views, step.draws
    if isinstance(method, DINO):
        return [method.student.classes(views, draws.get("keep"))]
    if isinstance(method, IBOT):
        mask = method.mask(draws, PROGRESS)
        return list(
            method.student.multicrop(
                views, mask.shape[1], mask, method.mask_token, keep=draws.get("keep")
            )
        )
    assert isinstance(method, DINOv2)
    gates = None
    if "gates_global" in draws:
        gates = torch.cat([draws["gates_global"], draws["gates_local"]], dim=1)
    token = mask_token(method.student.backbone)
    return list(method.student.multicrop(views, 2, draws.get("mask"), token, gates=gates))


def measure(run: Callable[[], None], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds on the core of each round, plain and packed; a first round is left out."""
    seconds: tuple[list[float], list[float]] = ([], [])
    pack = last_block.can_pack
    for _ in range(rounds + 1):
        for may, own in zip((lambda vit: False, pack), seconds, strict=True):
            with mock.patch.object(last_block, "can_pack", may):
                started = time.process_time()
                run()
                own.append(time.process_time() - started)
    return seconds[0][1:], seconds[1][1:]


if __name__ == "__main__":
    main()
