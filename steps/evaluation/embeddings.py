"""Embeddings of the images of any folder, list or tar files, streamed to a Parquet file."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import glob
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from steps.artifacts.manifest import MANIFEST, read_manifest
from steps.command import UserError
from steps.core.finite import check_rows
from steps.data.decoding import decode
from steps.data.loader import Loader
from steps.data.names import escaped, is_text
from steps.data.sources.images import ImagesSource
from steps.data.sources.source import ABSENT, FOLDER, Item, image_names, kind_of
from steps.data.views import RESAMPLING, centre_crop, normalise, to_tensor
from steps.evaluation.frozen import FrozenBackbone, sized
from steps.models.backbones import Transformer, image_size, load_backbone, normalisation
from steps.models.features import frozen_features
from steps.params.dataset import ImagesDataset
from steps.params.sets import GROUND, MAX_PIXELS, RGB

log = logging.getLogger(__name__)
TIMM = "timm:"
COLUMNS = ("class_token", "mean_token")
MARK = b"pretext.backbone"
"""Key of the file's metadata that tells embeddings of ours from any other Parquet file."""
ROWS = 1024
"""Images in a row group: what is held in memory at a time."""
_SAY_EVERY = 10.0


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that takes any images through any backbone."""
    parser.add_argument(
        "--backbone",
        required=True,
        help=f"a backbone artifact, or {TIMM}NAME of a pretrained model or {TIMM}FOLDER of one",
    )
    parser.add_argument(
        "--images",
        required=True,
        help="a folder of any depth, a .txt list of files, or a quoted glob of tar files",
    )


# --- The backbone: an artifact, or a model of timm


@dataclass(frozen=True)
class Embedder:
    """A frozen backbone and the images that it expects."""

    name: str
    features: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Normalised images (B, 3, S, S) to class tokens and mean tokens, each (B, D)."""
    size: int
    mean: Sequence[float]
    std: Sequence[float]
    crop_fraction: float
    resampling: Image.Resampling
    device: torch.device

    def view(self, image: Image.Image) -> Image.Image:
        """The part of an image that the backbone sees, as evaluations cut it."""
        return centre_crop(image, self.size, self.crop_fraction, self.resampling)

    @torch.inference_mode()
    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (B, 3, S, S) to class tokens and mean tokens, each (B, D) float32 on the CPU."""
        found = self.features(normalise(images.to(self.device), self.mean, self.std))
        return found[0].float().cpu(), found[1].float().cpu()


def read_embedder(name: str, size: int | None, device: torch.device) -> Embedder:
    """The backbone that ``--backbone`` names.

    Args:
        name: a backbone artifact, or ``timm:`` and a model's name or folder.
        size: side of the images; None: the backbone's own.
        device: where it computes.

    Raises:
        UserError: there is no such backbone, or it does not take the size.
    """
    if name.startswith(TIMM):
        return _of_timm(name, size, device)
    path = Path(name)
    check_artifact(path)
    backbone = load_backbone(path)
    side = size or image_size(backbone)
    if isinstance(backbone, Transformer):
        backbone = sized(backbone, path, side, f"--size {side}")
    backbone = backbone.to(device)
    mean, std = normalisation(path)

    def features(images: Tensor) -> tuple[Tensor, Tensor]:
        found = frozen_features(backbone, images, ("cls", "mean"))
        return found["cls"], found["mean"]

    digest = read_manifest(path, "pretrain").digest
    return Embedder(digest, features, side, mean, std, 1.0, Image.Resampling.BICUBIC, device)


def read_transformer(name: str, size: int | None, device: torch.device) -> FrozenBackbone:
    """The vision transformer that ``--backbone`` names, for pictures of what it attends to.

    Args:
        name, size, device: as for :func:`read_embedder`.

    Raises:
        UserError: there is no such backbone, it has no class token that attends to patches, or it
            does not take the size.
    """
    if name.startswith(TIMM):
        model = _pretrained(name, {} if size is None else {"img_size": size}).eval()
        config = timm.data.resolve_model_data_config(model)
        own = size or max(config["input_size"][-2:])
        backbone = FrozenBackbone(model, config["mean"], config["std"], own)
    else:
        check_artifact(Path(name))
        backbone = FrozenBackbone.load(Path(name))
    if not isinstance(backbone.model, Transformer) or backbone.model.cls_token is None:
        raise UserError(
            f"--backbone {name}",
            f"a {type(backbone.model).__name__} without a class token that attends to patches",
            allowed="a vision transformer with a class token",
        )
    if size is not None and not name.startswith(TIMM):
        model = sized(backbone.model, Path(name), size, f"--size {size}")
        backbone = dataclasses.replace(backbone, model=model, size=size)
    return backbone.to(device)


def check_artifact(path: Path) -> None:
    """Refuse a folder that no step of ours wrote, or a backbone for other than photographs.

    Raises:
        UserError: with both ways to name a backbone, or with its channels.
    """
    if (path / MANIFEST).is_file():
        channels = read_manifest(path, "pretrain").facts.get("channels", RGB[0])
        if channels != RGB[0]:
            raise UserError(
                f"--backbone {path}",
                f"takes images of {channels} channels",
                allowed="three channels, as in photographs",
                remedy="read features of a prepared set by python -m steps.features, or load "
                f"timm.create_model('local-dir:{path}', pretrained=True)",
            )
        return
    folder = path.is_dir()
    raise UserError(
        f"--backbone {path}",
        f"a folder without {MANIFEST}, so no backbone artifact" if folder else "no such folder",
        allowed="a folder that steps.pretrain or steps.import wrote",
        remedy="make one of official weights with python -m steps.import",
    )


def _of_timm(name: str, size: int | None, device: torch.device) -> Embedder:
    """A pretrained model of timm, by name or from a folder as timm's ``local-dir:`` reads it."""
    model = _pretrained(name, {} if size is None else {"img_size": size}).eval().to(device)
    config = timm.data.resolve_model_data_config(model)
    side = size or max(config["input_size"][-2:])
    if config["input_size"][0] != 3:
        raise UserError(
            f"--backbone {name}", f"takes {config['input_size'][0]} channels", allowed="3 channels"
        )

    def features(images: Tensor) -> tuple[Tensor, Tensor]:
        found = model.forward_features(images)
        pooled = model.forward_head(found, pre_logits=True)
        if found.ndim != 3:
            return pooled, pooled
        mean = found[:, getattr(model, "num_prefix_tokens", 0) :].mean(dim=1)
        has_class = getattr(model, "cls_token", None) is not None
        return (found[:, 0] if has_class else pooled), mean

    resampling = RESAMPLING.get(config["interpolation"], Image.Resampling.BICUBIC)
    fraction = config["crop_pct"]
    found = Embedder(
        name, features, side, config["mean"], config["std"], fraction, resampling, device
    )
    try:
        found.embed(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    except (AssertionError, RuntimeError, AttributeError, TypeError) as error:
        raise UserError(
            f"--backbone {name}",
            f"gives no features of images of {side} px ({_first_line(error)})",
            allowed="a classification model of timm, at a size that it takes",
        ) from error
    return found


def _pretrained(name: str, options: dict[str, Any]) -> Any:
    wanted = name.removeprefix(TIMM)
    local = Path(wanted).exists()
    if local:
        folder = Path(wanted) if Path(wanted).is_dir() else Path(wanted).parent
        wanted = f"local-dir:{folder}"
    elif ":" not in wanted and not timm.is_model(wanted):
        near = difflib.get_close_matches(wanted, timm.list_models(), n=3)
        raise UserError(
            f"--backbone {name}",
            "timm has no such model, and there is no such folder",
            allowed=", ".join(near) or "a name that timm.list_models() gives, or a folder",
        )
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # five tries a file
    try:
        return timm.create_model(wanted, pretrained=True, num_classes=0, **options)
    except TypeError as error:
        if "img_size" not in options:
            raise
        del options["img_size"]
        if "img_size" not in str(error):
            raise
        return _pretrained(name, options)  # a convolutional network takes any size
    except Exception as error:  # of the hub's client, which has many kinds
        if local:
            remedy = "give a folder with config.json and weights, as timm's local-dir: reads it"
        else:
            remedy = (
                "connect to the network once, or fetch the model's folder elsewhere and give "
                "timm:FOLDER"
            )
        raise UserError(
            f"--backbone {name}",
            f"timm cannot load its weights ({_first_line(error)})",
            allowed="a folder, a model in the hub's cache, or a network",
            remedy=remedy,
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


# --- The images


def images_at(path: str) -> list[Item]:
    """Every image at a path: a folder of any depth, a list of files, or a glob of tar files.

    Files that are no images by their names are passed over, and the log says so.

    Raises:
        UserError: there is none.
    """
    whole = Path(path).absolute()
    kind = kind_of(whole)
    absent = kind == ABSENT and not glob.glob(str(whole))
    if absent or (kind == FOLDER and os.access(whole, os.R_OK) and not os.listdir(whole)):
        raise UserError(
            f"--images {path}",
            "nothing there" if absent else "an empty folder",
            allowed="a folder of images, a .txt list of image files, or tar files of images; an "
            f"image ends in {image_names()}",
        )
    source = ImagesSource(
        ImagesDataset.model_construct(format="images", train=str(whole), val=str(whole))
    )
    items = list(source.items("train", range(len(source.names("train")))))
    wrong = source.problems("train")
    if left_out := dict(source.left_out("train")):
        log.warning("files that are no images by their names: %s", left_out)
    return items + [Item(one.item, bytes, problem=one.problem) for one in wrong]


def picture_of(item: Item) -> Image.Image:
    """An image, decoded and upright.

    Raises:
        Exception: anything that a damaged file makes Pillow's decoders raise.
    """
    return decode(item.read(), GROUND, MAX_PIXELS).rgb


class _Views(Dataset[tuple[Tensor | None, str]]):
    """The view of each image, or in words why there is none."""

    def __init__(self, items: Sequence[Item], view: Callable[[Image.Image], Image.Image]) -> None:
        self.items, self.view = items, view

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor | None, str]:
        item = self.items[index]
        if item.problem is not None:
            return None, item.problem
        if not is_text(item.id):
            return None, "a name that is not UTF-8"
        try:
            return to_tensor(self.view(picture_of(item))), ""
        except Exception as error:  # a damaged file makes Pillow's decoders raise anything
            return None, _first_line(error)


Batch = tuple[Tensor | None, list[str]]
"""Views (b, 3, S, S) of the images that could be read, and for each image why not, or nothing."""


def batches(
    items: Sequence[Item],
    view: Callable[[Image.Image], Image.Image],
    *,
    batch_size: int,
    workers: int,
) -> Iterator[Batch]:
    """Views of images in order; ``workers`` processes decode, or this one if 0."""
    return iter(
        Loader(
            _Views(items, view),
            batch_size,
            num_workers=workers,
            collate_fn=_together,
            worker_init_fn=None if torch.cuda.is_available() else _give_way,
            pin_memory=torch.cuda.is_available(),
        )
    )


def _give_way(worker: int) -> None:
    """Decode where the forward pass leaves a core free."""
    # The threads of a matrix product wait for the last of them: one without a core stops them all.
    os.nice(19)


def _together(found: list[tuple[Tensor | None, str]]) -> Batch:
    whole = [view for view, _ in found if view is not None]
    return (torch.stack(whole) if whole else None), [why for _, why in found]


# --- Write them


def write_embeddings(
    path: Path,
    embedder: Embedder,
    items: Sequence[Item],
    *,
    batch_size: int,
    workers: int,
    on_bad: Literal["fail", "skip"],
    where: str,
) -> list[int]:
    """Write name, class token and mean token of each image, in the order of the items.

    Args:
        path: the file.
        embedder: the backbone.
        items: the images.
        batch_size: images at a time.
        workers: processes that decode; 0: this one.
        on_bad: a damaged image ends the command, or is named and left out.
        where: names the place of the images in errors.

    Returns:
        Indices of the images written.

    Raises:
        UserError: an image is damaged, or none is left, or a feature is not finite.
    """
    vector = pa.list_(pa.float32())
    schema = pa.schema(
        [("name", pa.string()), *((column, vector) for column in COLUMNS)],
        metadata={
            MARK: embedder.name,
            "size": str(embedder.size),
            "mean": str(list(embedder.mean)),
            "std": str(list(embedder.std)),
            "crop_fraction": str(embedder.crop_fraction),
        },
    )
    kept: list[int] = []
    held: list[tuple[list[str], tuple[Tensor, Tensor]]] = []
    left_out = done = 0
    started = said = time.monotonic()
    # Before the writer, so that the processes that decode inherit none of its threads' locks.
    views = batches(items, embedder.view, batch_size=batch_size, workers=workers)
    with pq.ParquetWriter(path, schema) as writer:
        for images, reasons in views:
            here = []
            for index, why in enumerate(reasons, start=done):
                if not why:
                    here.append(index)
                elif on_bad == "fail":
                    raise UserError(
                        f"{where}: {escaped(items[index].id)}",
                        why,
                        remedy="remove or repair it, or leave such images out with --on-bad skip",
                    )
                else:
                    left_out += 1
                    log.warning("left out: %s: %s", escaped(items[index].id), why)
            done += len(reasons)
            if images is not None:
                found = embedder.embed(images)
                for column, rows in zip(COLUMNS, found, strict=True):
                    check_rows(rows, f"{column}s of the images", len(kept))
                kept += here
                held.append(([items[index].id for index in here], found))
            if sum(len(names) for names, _ in held) >= ROWS:
                writer.write_table(_table(held, schema))
                held = []
            if (now := time.monotonic()) - said > _SAY_EVERY:
                rate = done / (now - started)
                left = (len(items) - done) / rate
                log.info(
                    "%d of %d images, %.1f a second, %.0f s left", done, len(items), rate, left
                )
                said = now
        if not kept:
            raise UserError(
                where,
                f"none of {len(items)} images can be read",
                remedy="see the reason of each above",
            )
        if held:
            writer.write_table(_table(held, schema))
    seconds = time.monotonic() - started
    log.info("%d images, %.1f a second; %d left out", len(kept), done / seconds, left_out)
    return kept


def _table(held: Sequence[tuple[list[str], tuple[Tensor, Tensor]]], schema: Any) -> Any:
    names = [name for some, _ in held for name in some]
    columns = [torch.cat([found[column] for _, found in held]) for column in range(len(COLUMNS))]
    lists = []
    for rows in columns:
        starts = pa.array(range(0, rows.numel() + 1, rows.shape[1]), pa.int32())
        lists.append(pa.ListArray.from_arrays(starts, pa.array(rows.numpy().ravel())))
    return pa.Table.from_arrays([pa.array(names, pa.string()), *lists], schema=schema)


def read_rows(path: Path, column: str = COLUMNS[0]) -> Iterator[Tensor]:
    """Embeddings (n, D) of one row group at a time."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        (chunk,) = file.read_row_group(group, columns=[column]).column(column).chunks
        rows = torch.from_numpy(chunk.flatten().to_numpy(zero_copy_only=False).copy())
        yield rows.view(len(chunk), -1)


def is_embeddings(path: Path) -> bool:
    """True for a file that ``write_embeddings`` wrote."""
    try:
        return MARK in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False
