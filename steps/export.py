"""Export a backbone for timm, transformers, ONNX or TorchScript, checked against its own outputs.

    python -m steps.export --backbone .../backbone --to transformers --out exported \\
        --records .../knn/knn.json .../linear.json
    python -m steps.export --backbone .../backbone --to onnx --size free --images photos \\
        --out exported

The folder also has a model card, README.md. transformers and ONNX need packages of their own:
uv sync --group transformers, uv sync --group onnx.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from steps.artifacts import publish, read_manifest
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.core.seeds import generator
from steps.data.names import escaped
from steps.data.views import centre_crop, normalise, to_tensor
from steps.evaluation.embeddings import check_artifact, images_at, picture_of
from steps.exporting.card import card, read_scores
from steps.exporting.write import TARGETS, Exportable, check, write
from steps.params.base import Size
from steps.params.load import option

CHECKED = 10


def main() -> None:
    about, _, example = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=example, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", type=Path, required=True, help="a backbone artifact")
    parser.add_argument("--to", choices=TARGETS, required=True)
    parser.add_argument(
        "--size",
        type=option(Size | Literal["free"]),
        help="of onnx and torchscript: pixels a side, or free; the backbone's own",
    )
    parser.add_argument("--images", help="what the self-check looks at; noise if not given")
    parser.add_argument(
        "--records", type=Path, nargs="+", default=[], help="record files of scores for the card"
    )
    parser.add_argument("--out", type=place, required=True, help="the folder to write")
    arguments = parser.parse_args()
    check_places(arguments, "export")
    check_artifact(arguments.backbone)
    if arguments.size is not None and arguments.to in ("timm", "transformers"):
        raise UserError(
            f"--size {arguments.size}",
            f"{arguments.to} resizes positions itself",
            allowed="--size with onnx or torchscript",
            remedy="leave it out",
        )
    backbone = Exportable.read(arguments.backbone)
    manifest = read_manifest(arguments.backbone, "pretrain")
    records = read_scores(arguments.records, manifest.digest, arguments.backbone)
    images = Images(arguments.images, backbone)
    params = {"to": arguments.to, "size": arguments.size}
    with publish(
        arguments.out,
        node="export",
        params=params,
        inputs={"backbone": arguments.backbone},
        seed=manifest.seed,
    ) as draft:
        written = write(backbone, arguments.to, draft.path, arguments.size)
        checked = check(backbone, written, images, images.said)
        text = card(
            manifest=manifest,
            form=written.form,
            usage=written.usage.replace("DIR", str(arguments.out)),
            inputs=backbone.said(written.sizes[0][0]),
            records=records,
            check=checked,
        )
        (draft.path / "README.md").write_text(text, encoding="utf-8")
        draft.facts |= {"difference": checked.difference, "bound": checked.bound}
    print(
        f"{arguments.out}: {written.form}; largest difference of an output on {images.said}: "
        f"{checked.difference:.2g} (bound {checked.bound:.2g})"
    )


class Images:
    """Ten images for the self-check: those of a path, else noise."""

    def __init__(self, path: str | None, backbone: Exportable) -> None:
        self._backbone = backbone
        self._pictures = []
        self.said = f"{CHECKED} images of seeded noise"
        if path is None:
            return
        for item in itertools.islice(images_at(path), CHECKED):
            try:
                self._pictures.append(picture_of(item))
            except Exception as error:  # a damaged file makes Pillow's decoders raise anything
                raise UserError(
                    escaped(item.id), f"{item.problem or error}", remedy="remove or repair it"
                ) from error
        self.said = f"{len(self._pictures)} images of {path}"

    def __call__(self, size: tuple[int, int]) -> Tensor:
        """(10, 3, H, W), normalised."""
        height, width = size
        if self._pictures:
            side = max(size)
            whole = [to_tensor(centre_crop(each, side, 1.0)) for each in self._pictures]
            pixels = torch.stack(whole)[:, :, :height, :width]
        else:
            draw = generator(0, "export")
            shape = (CHECKED, 3, height, width)
            pixels = torch.randint(256, shape, generator=draw, dtype=torch.uint8)
        return normalise(pixels, self._backbone.mean, self._backbone.std).contiguous()


if __name__ == "__main__":
    run_step(main)
