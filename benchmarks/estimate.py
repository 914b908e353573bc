"""Estimated time of an experiment on ImageNet-1K: arithmetic on params, and a measured decoding.

    python -m benchmarks.estimate

Prints the two tables of docs/imagenet.md. A forward pass of n tokens through L blocks of width d is
taken as F(n) = L (24 n d^2 + 4 n^2 d) FLOPs, two for a multiply-add: the products of the blocks,
and nothing of embeddings, norms and heads. What is trained costs 3 F, what is only read F. Hours
are FLOPs over an assumed rate. The CPU cores that decode and augment for one GPU at that rate
follow from the seconds of a core that ``benchmarks.data`` measured on photographs of COCO.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from steps.params.load import load
from steps.params.recipe import Recipe

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES = 1_281_167
"""Of the training set."""
RATE = 125e12
"""Assumed FLOPs a second of one GPU: 40 % of the 312e12 that an A100's data sheet gives in bf16."""
DETECTION_SECONDS = 0.36
"""An image of training on an A100, as ViTDet's authors give it (vitdet_cascade_100ep.yaml)."""
MEASURED = REPOSITORY / "benchmarks/results/2026-11-24-data.json"
"""Seconds of one core to read, decode and augment an image."""
WHOLE, QUARTER, LOCAL = 197, 50, 37
"""Tokens of 224 px, of a quarter of its patches, of 96 px; in patches of 16 px."""


@dataclass(frozen=True)
class Size:
    """A vision transformer."""

    width: int
    depth: int

    def forward(self, tokens: int) -> float:
        """FLOPs of a forward pass."""
        d, n = self.width, tokens
        return self.depth * (24 * n * d**2 + 4 * n**2 * d)


@dataclass(frozen=True)
class Passes:
    """What one image goes through, in tokens of each pass."""

    trained: tuple[int, ...]
    read: tuple[int, ...] = ()
    head: tuple[Size, int] | None = None
    """A decoder, or further blocks, with their tokens; trained."""

    def flops(self, size: Size) -> float:
        """Of an image."""
        total = 3 * sum(map(size.forward, self.trained)) + sum(map(size.forward, self.read))
        return total + (3 * self.head[0].forward(self.head[1]) if self.head else 0)


VIT_B = Size(768, 12)
PASSES = {
    "supervised": Passes((WHOLE,)),
    "simclr_vit": Passes((WHOLE,) * 2),
    "mocov3": Passes((WHOLE,) * 2, (WHOLE,) * 2),
    "dino": Passes((WHOLE,) * 2 + (LOCAL,) * 10, (WHOLE,) * 2),
    "ibot": Passes((WHOLE,) * 2 + (LOCAL,) * 10, (WHOLE,) * 2),
    "dinov2": Passes((WHOLE,) * 2 + (LOCAL,) * 8, (WHOLE,) * 2),
    "mae": Passes((QUARTER,), head=(Size(512, 8), WHOLE)),
    "beit": Passes((WHOLE,)),
    "beit2": Passes((WHOLE,), (WHOLE,), head=(Size(768, 2), WHOLE)),
    "droppos": Passes((QUARTER,), head=(Size(512, 2), QUARTER)),
    "mp3": Passes((WHOLE,)),
    "dilemma": Passes((QUARTER,) * 2, (WHOLE,) * 2),
}


def pretraining(size: Size = VIT_B) -> str:
    """A row a recipe of the regime."""
    lines = ["| Recipe | Epochs | GFLOPs per image | GPU hours | CPU cores |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    seconds = decoding_seconds()
    for name, passes in PASSES.items():
        training = load(REPOSITORY / f"params/recipes/imagenet/{name}.yaml", Recipe).training
        assert training is not None
        flops = passes.flops(size)
        lines.append(
            f"| `{name}` | {training.epochs:g} | {flops / 1e9:.0f} | "
            f"{hours(training.epochs * IMAGES * flops):,.0f} | "
            f"{cores(flops, sum(view.count for view in training.views), seconds)} |"
        )
    return "\n".join(lines) + "\n"


def downstream(size: Size = VIT_B) -> str:
    """A row a protocol, for one backbone."""
    frozen = size.forward(WHOLE)
    figures = {
        "`features`, then `knn`, `linear`, `logreg`": hours((IMAGES + 50_000) * frozen),
        "`linear_mae`": hours(90 * IMAGES * frozen),
        "`linear_dino`": hours(100 * IMAGES * frozen),
        "`linear_dinov2`": hours(12_500 * 1024 * frozen),
        "`geometry`": hours(3 * 50_000 * frozen),
        # Images of COCO 2017, seen six times and once, as 32 x 32 patches and a class token.
        "`segment_512`": hours((6 * 118_287 + 5_000) * size.forward(32 * 32 + 1)),
        "`finetune_mae`": hours(100 * IMAGES * 3 * frozen),
        "`vitdet_mask_rcnn_100ep`, `vitdet_cascade_100ep`, each": 184_000
        * 64
        * DETECTION_SECONDS
        / 3600,
        "`multiscale_cascade_1x`": 88_000 * 16 * DETECTION_SECONDS / 3600,
    }
    lines = ["| Protocol | GPU hours |", "| --- | ---: |"]
    lines += [f"| {name} | {value:,.1f} |" for name, value in figures.items()]
    return "\n".join(lines) + "\n"


def decoding_seconds() -> dict[str, float]:
    """Seconds of a core per image, by the views of ``benchmarks.data``."""
    rows = json.loads(MEASURED.read_bytes())["rows"]
    return {row["views"]: row["ms_an_image"] / 1e3 for row in rows if row["side"] == "ours"}


def cores(flops: float, views: int, seconds: dict[str, float]) -> str:
    """Cores that keep one GPU busy at the assumed rate.

    Args:
        flops: of an image.
        views: of an image.
        seconds: as measured; a single view has those of two, an upper bound.
    """
    measured = seconds["two views" if views <= 2 else "2 + 8 crops"]
    return f"{'≤ ' if views == 1 else ''}{RATE / flops * measured:.0f}"


def hours(flops: float) -> float:
    """Of one GPU at the assumed rate."""
    return flops / RATE / 3600


if __name__ == "__main__":
    print(pretraining())
    print(downstream())
