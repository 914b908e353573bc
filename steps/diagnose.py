"""Draw what a pretraining or a tokenizer learnt, on held-out images, from its artifact.

    python -m steps.diagnose --backbone .../backbone --data results/data/shapes --out DIR
    python -m steps.diagnose --tokenizer .../dalle --data results/data/shapes --out DIR

mae: ``reconstructions.png``, one row per image: image, what the encoder saw, reconstruction.
droppos, mp3: ``position_error.png``, how far off each place of the image is told, and
``positions.png``, the errors on some images. beit, beit2 (also with ``--tokenizer``):
``tokens.png``, one row per image: the image, what the encoder saw, its tokens, those predicted.
A tokenizer: ``codebook.png``, how often each code is used, ``codes.png``, what the commonest stand
for, and ``reconstructions.png`` of one that decodes. The manifest's facts have it in numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from steps.artifacts import publish, read_manifest
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.core.seeds import generator
from steps.data.loader import EvaluationViews, dataset_facts
from steps.data.views import normalise
from steps.diagnosis import codebook, positions, reconstructions, tokens
from steps.diagnosis.restore import restore
from steps.diagnosis.sheet import Denormaliser, Drawing
from steps.methods import Method
from steps.methods.beit import BEiT
from steps.methods.beit2 import BEiT2
from steps.methods.droppos import DropPos
from steps.methods.mae import MAE
from steps.methods.method import Draws
from steps.methods.mp3 import MP3
from steps.models.backbones import CONFIG, normalisation
from steps.models.teacher import pixels_of
from steps.params.base import Size
from steps.params.load import option
from steps.params.sets import RGB
from steps.tokenizers import load_tokenizer

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", type=Path, help="what a pretraining made")
    parser.add_argument(
        "--tokenizer", type=Path, help="the one behind the backbone, or alone to be drawn itself"
    )
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset")
    parser.add_argument(
        "--images", type=option(Size), default=1000, help="how many to measure on, at most"
    )
    parser.add_argument("--out", type=place, required=True)
    arguments = parser.parse_args()
    inputs = {role: getattr(arguments, role) for role in ("backbone", "tokenizer", "data")}
    inputs = {role: path for role, path in inputs.items() if path is not None}
    if len(inputs) == 1:
        parser.error("give --backbone, --tokenizer, or both")
    check_places(arguments, "diagnose")
    drawn = arguments.backbone or arguments.tokenizer
    with publish(
        arguments.out,
        node="diagnose",
        params={"images": arguments.images},
        inputs=inputs,
        seed=read_manifest(drawn).seed,
    ) as draft:
        if arguments.backbone is None:
            drawing = draw_tokenizer(arguments)
        else:
            drawing = draw_method(arguments)
        for name, content in drawing.pictures.items():
            (draft.path / name).write_bytes(content)
        draft.facts.update(drawing.facts)


def draw_tokenizer(arguments: argparse.Namespace) -> Drawing:
    """The pictures of a tokenizer."""
    mean, std = pixels_of(dataset_facts(arguments.data).channels)
    tokenizer = load_tokenizer(arguments.tokenizer, mean=mean, std=std).network
    side = json.loads((arguments.tokenizer / CONFIG).read_bytes())["tokenizer"]["image_size"]
    views = EvaluationViews(arguments.data, "val", side, crop_fraction=1.0)
    data = dataset_facts(arguments.data)
    look = Denormaliser(*pixels_of(data.channels), rgb=data.is_rgb)
    return codebook.draw(tokenizer, held_out_images(views, arguments.images, look), look)


def draw_method(arguments: argparse.Namespace) -> Drawing:
    """The pictures of a method.

    Raises:
        UserError: it has none.
    """
    method = restore(arguments.backbone, arguments.tokenizer)
    manifest = read_manifest(arguments.backbone)
    seed, channels = manifest.seed or 0, manifest.facts.get("channels", RGB[0])
    data = dataset_facts(arguments.data)
    if data.channels != channels:
        raise UserError(
            f"--data {arguments.data}",
            f"images of {data.channels} channels, and {arguments.backbone} takes {channels}",
            allowed=f"a set of {channels} channels",
        )
    look, side = (
        Denormaliser(*normalisation(arguments.backbone), rgb=data.is_rgb),
        method.export_backbone().patch_embed.img_size[0],
    )
    views = EvaluationViews(arguments.data, "val", side, crop_fraction=1.0)
    batches = held_out(method, views, arguments.images, look, seed)
    match method:
        case MAE():
            return reconstructions.draw(method, batches, look)
        case DropPos() | MP3():
            return positions.draw(method, batches, look)
        case BEiT() | BEiT2():
            patches = side // method.export_backbone().patch_embed.patch_size[0]
            second = patches * method.tokenizer.token_pixels
            views = EvaluationViews(arguments.data, "val", second, crop_fraction=1.0)
            images = held_out_images(views, arguments.images, look)
            return tokens.draw(method, batches, images, look)
    raise UserError(
        f"method {type(method).__name__}",
        "has no pictures",
        allowed="mae, droppos, mp3, beit, beit2",
    )


def held_out(
    method: Method, views: EvaluationViews, most: int, look: Denormaliser, seed: int
) -> Iterator[tuple[Tensor, Draws]]:
    """Evenly spaced images of a split, normalised, with the method's choices for them."""
    draws = method.sample(min(most, len(views)), generator(seed, "diagnose"))
    start = 0
    for images in held_out_images(views, most, look):
        rows = slice(start, start + len(images))
        yield images, {name: draw[rows] for name, draw in draws.items()}
        start += len(images)


def held_out_images(views: EvaluationViews, most: int, look: Denormaliser) -> Iterator[Tensor]:
    """Evenly spaced images of a split, normalised."""
    chosen = torch.linspace(0, len(views) - 1, min(most, len(views))).round().long()
    for part in chosen.split(BATCH):
        images = torch.stack([views[index][0] for index in part.tolist()])
        yield normalise(images, look.mean, look.std)


if __name__ == "__main__":
    run_step(main)
