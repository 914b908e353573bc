"""What a grid of linear classifiers costs beside a single one, backbone's pass included.

    python -m benchmarks.probes [--backbone vit_pico …] [--batch-size 64] [--classes 100]

A training step of the protocol ``linear_dinov2`` with all its classifiers against one of them, on
one thread, by turns; seconds are those of the process on its core. ``--small``: of seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.result import Result
from steps.core.schedules import Progress
from steps.evaluation.probes import (
    Head,
    Probes,
    build_optimizer,
    grid,
    read_backbone,
    set_rates,
    train_step,
    width,
)
from steps.models.backbones import BackboneModel, create_backbone
from steps.params.backbone import Backbone
from steps.params.load import load
from steps.params.protocols import Probe

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS = 7


class Step:
    """A training step of some classifiers."""

    def __init__(self, backbone: BackboneModel, heads: list[Head], classes: int) -> None:
        dim = backbone.num_features
        self.backbone = backbone
        self.probes = Probes(heads, {one.reads: width(dim, one.reads) for one in heads}, classes)
        self.optimizer = build_optimizer(self.probes, "sgd", 256, momentum=0.9, weight_decay=0.0)

    def __call__(self, images: Tensor, labels: Tensor, protocol: Probe) -> float:
        """Seconds on the core."""
        started = time.process_time()
        set_rates(self.optimizer, Progress(1, 10, 100), protocol.schedule)
        with torch.no_grad():
            features = read_backbone(self.backbone, images, self.probes.reads)
        train_step(self.probes, self.optimizer, features, labels)
        return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", nargs="+", default=["vit_pico", "vit_s16"])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--small", action="store_true", help="vit_pico alone; writes no file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    protocol = load(REPOSITORY / "params/protocols/linear_dinov2.yaml", Probe)
    heads = grid(protocol.blocks, protocol.poolings, protocol.lr)
    result = Result("probes", [sys.executable, "-m", "benchmarks.probes", *sys.argv[1:]])
    for name in ["vit_pico"] if arguments.small else arguments.backbone:
        one, many = measure(name, heads, arguments.batch_size, arguments.classes, protocol)
        result.add(
            backbone=name,
            batch_size=arguments.batch_size,
            classes=arguments.classes,
            heads=len(heads),
            one_head_ms=round(one * 1000, 1),
            grid_ms=round(many * 1000, 1),
            ratio=round(many / one, 2),
        )
    print("\n".join(map(str, result.rows)) if arguments.small else result.write())


def measure(
    name: str, heads: list[Head], batch: int, classes: int, protocol: Probe
) -> tuple[float, float]:
    """Median seconds of a step with the first head alone, and with all."""
    backbone = create_backbone(load(REPOSITORY / f"params/backbones/{name}.yaml", Backbone)).eval()
    steps = (Step(backbone, heads[:1], classes), Step(backbone, heads, classes))
    size = backbone.patch_embed.img_size[0]
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % classes
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS + 1):
        for step, row in zip(steps, seconds, strict=True):
            row.append(step(images, labels, protocol))
    return statistics.median(seconds[0][1:]), statistics.median(seconds[1][1:])


if __name__ == "__main__":
    main()
