"""Images a second of decoding and views, on one core, against torchvision composed as a user would.

    python -m benchmarks.data [--images data/coco100/images] [--count 100]

Two regimes of published views: SimCLR's two (``params/recipes/imagenet/simclr.yaml``) and DINOv2's
two and eight. The other side is ``torchvision.transforms.v2``: random resized crop, flip, colour
jitter, grayscale, blur and solarisation with the same parameters, on Pillow images and on tensors;
ours with the recipe's views as they are, and with ``engine: tensor``. All take turns on each image
in one process, and seconds are those of the process on its core, so that a busy machine hits no
side more. Without ``--images`` they are drawn. ``--small``: of seconds, writes no file.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from benchmarks.result import Result
from steps.data.views import make_views
from steps.params.load import load
from steps.params.recipe import Recipe
from steps.params.views import View

REPOSITORY = Path(__file__).resolve().parents[1]
REGIMES = {"two views": "simclr", "2 + 8 crops": "dinov2"}
SIDE = 224
ROUNDS = 5
Side = Callable[[bytes], list[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, help="a folder with *.jpg")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--small", action="store_true", help="a few images, one round; no file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(arguments.images.rglob("*.jpg")) if arguments.images else []
    if arguments.images and not files:
        sys.exit(f"{arguments.images}: no *.jpg there")
    count = 4 if arguments.small else arguments.count
    jpegs = [path.read_bytes() for path in files[:count]] or [drawn(seed) for seed in range(count)]
    rounds = 1 if arguments.small else arguments.rounds
    result = Result("data", [sys.executable, "-m", "benchmarks.data", *sys.argv[1:]])
    for regime, recipe in REGIMES.items():
        for row in rows(regime, views_of(recipe), jpegs, rounds):
            result.add(**row)
    print("\n".join(map(str, result.rows)) if arguments.small else result.write())


def views_of(recipe: str) -> list[View]:
    """The published views of a method."""
    training = load(REPOSITORY / f"params/recipes/imagenet/{recipe}.yaml", Recipe).training
    assert training is not None
    return list(training.views)


def rows(regime: str, views: list[View], jpegs: list[bytes], rounds: int) -> list[dict[str, Any]]:
    """A row a side; the ratio is to the faster of torchvision's."""
    sides: dict[str, Side] = {
        "torchvision, Pillow images": torchvision_side(views, tensors=False),
        "torchvision, tensors": torchvision_side(views, tensors=True),
        "ours": our_side(views),
        "ours, engine: tensor": our_side(
            [view.model_copy(update={"engine": "tensor"}) for view in views]
        ),
    }
    seconds = measure(sides, jpegs, rounds)
    rival = min(value for name, value in seconds.items() if name.startswith("torchvision"))
    return [
        {
            "views": regime,
            "side": name,
            "images": len(jpegs),
            "ms_an_image": round(value * 1000, 2),
            "images_per_second": round(1 / value, 1),
            "ratio_to_faster_torchvision": round(rival / value, 2),
        }
        for name, value in seconds.items()
    ]


def measure(sides: dict[str, Side], jpegs: list[bytes], rounds: int) -> dict[str, float]:
    """Seconds on the core an image of each side: the median of rounds over all images."""
    totals: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(rounds + 1):
        torch.manual_seed(index)
        spent = dict.fromkeys(sides, 0.0)
        for jpeg in jpegs:
            for name, side in sides.items():
                started = time.process_time()
                side(jpeg)
                spent[name] += time.process_time() - started
        for name, value in spent.items():
            totals[name].append(value / len(jpegs))
    return {name: statistics.median(own[1:] or own) for name, own in totals.items()}


def our_side(views: list[View]) -> Side:
    """Decoding as a prepared set does it, and a recipe's views."""
    rng = np.random.default_rng(0)

    def side(jpeg: bytes) -> list[Tensor]:
        return make_views(Image.open(io.BytesIO(jpeg)).convert("RGB"), views, SIDE, rng)

    return side


def torchvision_side(views: list[View], *, tensors: bool) -> Side:
    """The same views composed of torchvision's transforms, to uint8 tensors like ours."""
    pipelines = [composed(view) for view in views for _ in range(view.count)]
    to_image = v2.ToImage()

    def side(jpeg: bytes) -> list[Tensor]:
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        source = to_image(image) if tensors else image
        made = [pipeline(source) for pipeline in pipelines]
        return made if tensors else [to_image(view) for view in made]

    return side


def composed(view: View) -> v2.Compose:
    """A view in torchvision's words, in the usual order."""
    side = view.size or SIDE
    mode = InterpolationMode(view.interpolation)
    steps: list[Any] = [
        v2.RandomResizedCrop(side, tuple(view.area), tuple(view.aspect), mode),
        v2.RandomHorizontalFlip(view.flip),
    ]
    if (jitter := view.jitter) is not None:
        strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        steps.append(v2.RandomApply([v2.ColorJitter(*strengths)], jitter.probability))
    if view.grayscale:
        steps.append(v2.RandomGrayscale(view.grayscale))
    if (blur := view.blur) is not None:
        assert blur.kernel is not None, "torchvision's blur has a kernel"
        taps = side // 10 // 2 * 2 + 1 if blur.kernel == "tenth" else blur.kernel
        gaussian = v2.GaussianBlur(taps, tuple(blur.sigma))
        steps.append(v2.RandomApply([gaussian], blur.probability))
    if view.solarize:
        steps.append(v2.RandomSolarize(view.solarize_threshold, view.solarize))
    return v2.Compose(steps)


def drawn(seed: int) -> bytes:
    """A JPEG of smooth noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(256, size=(12, 16, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


if __name__ == "__main__":
    main()
