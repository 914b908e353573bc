"""Draw where a backbone looks, and what its patch tokens tell apart, on any images.

    python -m steps.visualize --backbone .../backbone --images photos --out pictures.png
    python -m steps.visualize --backbone timm:vit_small_patch16_224.dino --images photos \\
        --size 448 --each-head --out pictures.png

One row per image: the image, the class token's attention in the last block, the three main
components of the patch tokens of all these images as colours, and the same of objects only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from steps.artifacts.publish import draft_of, put, sweep, sync
from steps.command import UserError, place, run_step
from steps.command.machine import writing
from steps.data.names import escaped
from steps.data.views import centre_crop, to_tensor
from steps.diagnosis.layout import draw_any
from steps.engine.devices import claim_gpu
from steps.evaluation.embeddings import add_inputs, images_at, picture_of, read_transformer
from steps.params.base import Count, Size
from steps.params.load import option

PNG = b"\x89PNG\r\n\x1a\n"


def main() -> None:
    about, _, example = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_inputs(parser)
    parser.add_argument("--out", type=place, required=True, help="the PNG file to write")
    parser.add_argument("--size", type=option(Size), help="pixels a side; the backbone's own")
    parser.add_argument(
        "--count", type=option(Count), default=8, help="images to draw, evenly spaced"
    )
    parser.add_argument(
        "--each-head", action="store_true", help="each head's attention instead of their mean"
    )
    arguments = parser.parse_args()
    _check_place(arguments.out)
    items = images_at(arguments.images)
    chosen = torch.linspace(0, len(items) - 1, min(arguments.count, len(items))).round().long()
    claim_gpu()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone = read_transformer(arguments.backbone, arguments.size, device)
    images = []
    for item in (items[index] for index in chosen.unique().tolist()):
        try:
            view = centre_crop(picture_of(item), backbone.size, crop_fraction=1.0)
        except Exception as error:  # a damaged file makes Pillow's decoders raise anything
            raise UserError(
                f"{arguments.images}: {escaped(item.id)}",
                item.problem or str(error),
                remedy="remove or repair it",
            ) from error
        images.append(to_tensor(view))
    picture = draw_any(backbone, torch.stack(images), arguments.each_head)
    with writing(arguments.out), draft_of(arguments.out) as draft:
        draft.write_bytes(picture)
        sync(draft)
        put(draft, arguments.out)
    print(f"{arguments.out}: {len(images)} of {len(items)} images")


def _check_place(out: Path) -> None:
    """Refuse a place that is not for a picture.

    Raises:
        UserError: the name is not that of a PNG file, or something else stands there.
    """
    if out.suffix != ".png":
        raise UserError(f"--out {out}", "not the name of a PNG file", allowed="NAME.png")
    there = out.is_symlink() or out.exists()
    if there and (out.is_symlink() or not out.is_file() or out.read_bytes()[: len(PNG)] != PNG):
        raise UserError(
            str(out),
            "stands there already",
            allowed="nothing, or a PNG file, which is replaced",
            remedy="give another --out, or remove it if it is of no use",
        )
    sweep(out)


if __name__ == "__main__":
    run_step(main)
