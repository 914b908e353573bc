"""Draw what a pretraining learnt, on held-out images, from its artifact.

    python -m steps.diagnose --backbone .../backbone --data results/data/shapes --out DIR

mae: ``reconstructions.png``, a row an image: itself, what the encoder saw, the reconstruction.
droppos, mp3: ``position_error.png``, how far off each place of the image is told, and
``positions.png``, the errors on some images. The manifest's facts have the same in numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from steps.artifacts import publish, read_manifest
from steps.command import UserError, run_step
from steps.data.loader import EvaluationViews
from steps.data.views import normalise
from steps.diagnosis import positions, reconstructions
from steps.diagnosis.drawing import Batches, Drawing, Look
from steps.diagnosis.restore import restore
from steps.engine.seeds import generator
from steps.methods import Method
from steps.methods.droppos import DropPos
from steps.methods.mae import MAE
from steps.methods.method import Draws
from steps.methods.mp3 import MP3
from steps.models.backbones import normalisation

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset")
    parser.add_argument("--images", type=int, default=1000, help="how many to measure on, at most")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    method, seed = restore(arguments.backbone), read_manifest(arguments.backbone).seed
    look = Look(*normalisation(arguments.backbone))
    size = method.exported().patch_embed.img_size[0]
    views = EvaluationViews(arguments.data, "val", size, crop_fraction=1.0)
    with publish(
        arguments.out,
        node="diagnose",
        params={"images": arguments.images},
        inputs={"backbone": arguments.backbone, "data": arguments.data},
        seed=seed,
    ) as draft:
        batches = held_out(method, views, arguments.images, look, seed or 0)
        drawing = draw(method, batches, look)
        for name, content in drawing.pictures.items():
            (draft.path / name).write_bytes(content)
        draft.facts.update(drawing.facts)


def draw(method: Method, batches: Batches, look: Look) -> Drawing:
    """The pictures of a method.

    Raises:
        UserError: it has none.
    """
    match method:
        case MAE():
            return reconstructions.draw(method, batches, look)
        case DropPos() | MP3():
            return positions.draw(method, batches, look)
    raise UserError(
        f"method {type(method).__name__}", "has no pictures", allowed="mae, droppos, mp3"
    )


def held_out(
    method: Method, views: EvaluationViews, most: int, look: Look, seed: int
) -> Iterator[tuple[Tensor, Draws]]:
    """Evenly spaced images of a split, normalised, with the method's choices for them."""
    chosen = torch.linspace(0, len(views) - 1, min(most, len(views))).round().long().tolist()
    draws = method.sample(len(chosen), generator(seed, "diagnose"))
    for start in range(0, len(chosen), BATCH):
        rows = slice(start, start + BATCH)
        images = torch.stack([views[index][0] for index in chosen[rows]])
        part = {name: draw[rows] for name, draw in draws.items()}
        yield normalise(images, look.mean, look.std), part


if __name__ == "__main__":
    run_step(main)
