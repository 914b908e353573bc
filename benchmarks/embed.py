"""Embed a folder, against decoding alone and the forward pass alone, one after the other.

    python -m benchmarks.embed [--images 10000] [--backbone vit_nano] [--workers 2]

Each round embeds the images as ``steps.embed`` does, decodes them with as many processes and no
forward pass, and passes as many decoded images through the backbone. ``ratio`` is the rate of the
command over that of its parts in turn: above 1 where decoding and forward pass overlap. Memory is
the peak of the command's process.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.result import Result
from steps.artifacts.manifest import peak_memory_mib
from steps.data.sources.source import Item
from steps.evaluation.embeddings import (
    Embedder,
    batches,
    images_at,
    write_embeddings,
)
from steps.models.backbones import create_backbone
from steps.models.features import frozen_features
from steps.params.backbone import Backbone
from steps.params.load import load

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS = 5
FILES = 500
"""Different files; the list names them as often as is needed."""
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--backbone", default="vit_nano")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    embedder = embedder_of(arguments.backbone)
    result = Result("embed", [sys.executable, "-m", "benchmarks.embed", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        items = photos(Path(folder), arguments.images)
        out = Path(folder) / "out.parquet"
        options = {"batch_size": BATCH, "workers": arguments.workers}
        times: dict[str, list[float]] = {"command": [], "decode": [], "forward": []}
        for _ in range(ROUNDS):
            times["command"].append(
                seconds(
                    lambda: write_embeddings(
                        out, embedder, items, **options, on_bad="fail", where=folder
                    )
                )
            )
            times["decode"].append(
                seconds(lambda: [None for _ in batches(items, embedder.view, **options)])
            )
            times["forward"].append(seconds(lambda: forward(embedder, len(items))))
    ratios = [
        (decode + alone) / whole for whole, decode, alone in zip(*times.values(), strict=True)
    ]
    middle = {name: statistics.median(values) for name, values in times.items()}
    result.add(
        images=len(items),
        backbone=arguments.backbone,
        size=embedder.size,
        workers=arguments.workers,
        **{f"{name}_images_per_s": round(len(items) / each, 1) for name, each in middle.items()},
        ratio=round(statistics.median(ratios), 2),
        ratios=" ".join(f"{ratio:.2f}" for ratio in ratios),
        peak_mib=round(peak_memory_mib()),
    )
    print(result.write())


def embedder_of(name: str) -> Embedder:
    """A backbone of params with random weights."""
    backbone = load(REPOSITORY / f"params/backbones/{name}.yaml", Backbone)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create_backbone(backbone).eval().to(device)

    def features(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = frozen_features(model, images, ("cls", "mean"))
        return found["cls"], found["mean"]

    resampling = Image.Resampling.BICUBIC
    side = backbone.image_size
    return Embedder(name, features, side, [0.5] * 3, [0.25] * 3, 1.0, resampling, device)


def photos(folder: Path, count: int) -> list[Item]:
    """A list of JPEG files of 500 x 375 px, as large as ImageNet's."""
    rng = np.random.default_rng(0)
    for index in range(min(FILES, count)):
        coarse = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        image.save(folder / f"{index}.jpg", quality=90)
    lines = [f"{index % FILES}.jpg" for index in range(count)]
    (folder / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    return images_at(str(folder / "list.txt"))


def forward(embedder: Embedder, count: int) -> None:
    """The backbone on images that need no decoding."""
    images = torch.randint(256, (BATCH, 3, embedder.size, embedder.size), dtype=torch.uint8)
    for start in range(0, count, BATCH):
        embedder.embed(images[: count - start])


def seconds(work: Callable[[], object]) -> float:
    """Wall time of some work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
