"""Keep a trained detector, and find objects with it on any images."""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pycocotools import mask as rle
from safetensors.torch import load_file
from torch import nn

from steps.artifacts import publish, verify
from steps.artifacts.manifest import MANIFEST
from steps.command import UserError
from steps.data.annotations import read_annotations
from steps.data.names import escaped, is_text
from steps.data.sources.source import Item
from steps.detection.dataset import sample_of
from steps.detection.drawing import Objects, detect, overlay
from steps.detection.train import build_detector
from steps.evaluation.embeddings import picture_of
from steps.models.backbones import save_weights
from steps.params.detection import Detection
from steps.params.load import load

log = logging.getLogger("steps.detect")
DETECTOR, BACKBONE, PROTOCOL = "detector.safetensors", "backbone", "protocol.yaml"
TABLE, COCO = "predictions.parquet", "predictions.json"
_ROWS = 4096
"""Objects in a row group of the table."""
_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("class", pa.string()),
        ("score", pa.float32()),
        ("box", pa.list_(pa.float32())),
        ("mask", pa.string()),
    ]
)


def keep(model: nn.Module, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write a trained detector, with the protocol and the backbone that its architecture follows
    from.

    Args:
        model: the detector.
        options: of the command that trained it: ``protocol``, ``backbone`` and ``data``.
        folder: where to write.

    Returns:
        Facts for the manifest: the categories.
    """
    save_weights(model.state_dict(), folder / DETECTOR)
    # As written: a protocol that states its defaults may be refused.
    shutil.copyfile(options.protocol, folder / PROTOCOL)
    # Engines keep files of their own in a folder of results.
    shutil.copytree(options.backbone, folder / BACKBONE, ignore=shutil.ignore_patterns(".*"))
    content = read_annotations(options.data / "val.json")
    categories = [{"id": each["id"], "name": each["name"]} for each in content["categories"]]
    masks = bool(getattr(model, "roi_head").with_mask)  # noqa: B009 (nn.Module has no such field)
    return {"categories": categories, "masks": masks}


@dataclass(frozen=True)
class Detector:
    """A trained detector, on the device that it computes on."""

    folder: Path
    model: nn.Module
    params: Detection
    categories: list[dict[str, Any]]
    """COCO's, in the order of the model's labels."""
    masks: bool

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the model's labels."""
        return tuple(str(category["name"]) for category in self.categories)

    def find(self, item: Item, least: float) -> tuple[Any, Objects]:
        """An image, decoded, and the objects found with a score of at least ``least``.

        Raises:
            Exception: anything that a damaged file makes Pillow's decoders raise.
        """
        image = picture_of(item)
        sample = sample_of(np.asarray(image), self.params.image_size, self.params.short_side)
        return image, detect(self.model, sample, self.classes, least)


def load_detector(folder: Path) -> Detector:
    """A detector that a detection kept.

    Raises:
        UserError: the folder holds none, or other bytes than were written.
    """
    wanted = "the --pictures folder of a detection whose protocol says keep_detector: true"
    if not (folder / MANIFEST).is_file():
        raise UserError(f"--predict {folder}", "no detection's folder", allowed=wanted)
    manifest = verify(folder, "detect")
    if DETECTOR not in manifest.files:
        raise UserError(
            f"--predict {folder}",
            f"no {DETECTOR} in it",
            allowed=wanted,
            remedy="set keep_detector: true in the protocol and run the detection again",
        )
    params = load(folder / PROTOCOL, Detection)
    categories, masks = manifest.facts["categories"], manifest.facts["masks"]
    model = build_detector(
        params, backbone=folder / BACKBONE, classes=len(categories), seed=0, masks=masks
    )
    model.load_state_dict(load_file(folder / DETECTOR))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Detector(folder, model.to(device).eval(), params, categories, masks)


@dataclass
class Found:
    """Numbers of what was found."""

    images: int = 0
    objects: int = 0
    left_out: int = 0


def write_predictions(
    detector: Detector,
    items: Sequence[Item],
    out: Path,
    *,
    least: float | None,
    pictures: int,
    on_bad: Literal["fail", "skip"],
    where: str,
) -> Found:
    """Write the objects found on images: a Parquet file, a JSON file in COCO's layout, pictures.

    Args:
        detector: that finds them.
        items: the images.
        out: the folder, published whole.
        least: lowest score; None: that of the protocol's pictures.
        pictures: number of images to draw, evenly spaced.
        on_bad: a damaged image ends the command, or is named and left out.
        where: names the place of the images in errors.

    Raises:
        UserError: an image is damaged, or none is left.
    """
    score = detector.params.pictures.min_score if least is None else least
    drawn = {round(index) for index in np.linspace(0, len(items) - 1, min(pictures, len(items)))}
    found = Found()
    params = {"min_score": score, "images": where, "on_bad": on_bad}
    inputs = {"detector": detector.folder}
    with publish(out, node="predict", params=params, inputs=inputs) as draft:
        (draft.path / "pictures").mkdir()
        coco: dict[str, Any] = {
            "images": [],
            "categories": detector.categories,
            "annotations": [],
        }
        with pq.ParquetWriter(draft.path / TABLE, _columns(detector.masks)) as writer:
            rows: list[dict[str, Any]] = []
            due = 0
            for index, item in enumerate(items):
                due += index in drawn
                problem = item.problem or ("" if is_text(item.id) else "a name that is not UTF-8")
                try:
                    image, objects = (None, None) if problem else detector.find(item, score)
                except UserError:
                    raise
                except Exception as error:  # a damaged file makes Pillow's decoders raise anything
                    image, objects, problem = None, None, str(error) or type(error).__name__
                if image is None or objects is None:
                    _left_out(found, item, problem, on_bad, where)
                    continue
                found.images += 1
                _add_to_coco(coco, item, image.size, objects, detector, index + 1)
                rows += list(_rows(item, objects, detector))
                if len(rows) >= _ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, _columns(detector.masks)))
                    rows = []
                if due:  # this one, or one before it that was damaged
                    due -= 1
                    overlay(image, objects).save(draft.path / "pictures" / _file(index, item))
            writer.write_table(pa.Table.from_pylist(rows, _columns(detector.masks)))
        if not found.images:
            raise UserError(f"--images {where}", "no image is left", allowed="whole images")
        found.objects = len(coco["annotations"])
        (draft.path / COCO).write_text(json.dumps(coco), encoding="utf-8")
        draft.facts.update(vars(found))
    return found


def _left_out(found: Found, item: Item, problem: str, on_bad: str, where: str) -> None:
    """Count and name a damaged image, or end the command."""
    if on_bad == "fail":
        raise UserError(
            f"{where}: {escaped(item.id)}",
            problem,
            remedy="remove or repair it, or leave such images out with --on-bad skip",
        )
    found.left_out += 1
    log.warning("left out: %s: %s", escaped(item.id), problem)


def _columns(masks: bool) -> Any:
    """The table's schema, without masks of a detector that finds none."""
    return _SCHEMA if masks else _SCHEMA.remove(_SCHEMA.get_field_index("mask"))


def _rows(item: Item, objects: Objects, detector: Detector) -> Iterator[dict[str, Any]]:
    """Rows of the table, the best score first."""
    for index in _by_score(objects):
        row = {
            "name": item.id,
            "class": detector.classes[int(objects.labels[index])],
            "score": _scores(objects)[index],
            "box": _box(objects, index),
        }
        yield {**row, "mask": _lengths(objects, index)["counts"]} if detector.masks else row


def _add_to_coco(
    coco: dict[str, Any],
    item: Item,
    size: tuple[int, int],
    objects: Objects,
    detector: Detector,
    number: int,
) -> None:
    """Add an image and its objects, as COCO's instances files have them, with scores."""
    width, height = size
    coco["images"].append({"id": number, "file_name": item.id, "width": width, "height": height})
    for index in _by_score(objects):
        box = _box(objects, index)
        entry = {
            "id": len(coco["annotations"]) + 1,
            "image_id": number,
            "category_id": detector.categories[int(objects.labels[index])]["id"],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": float(_scores(objects)[index]),
        }
        if detector.masks:
            entry["segmentation"] = _lengths(objects, index)
        coco["annotations"].append(entry)


def _by_score(objects: Objects) -> list[int]:
    return [int(index) for index in np.argsort(-_scores(objects), kind="stable")]


def _scores(objects: Objects) -> Any:
    assert objects.scores is not None
    return objects.scores


def _box(objects: Objects, index: int) -> list[float]:
    """Left, top, width and height in pixels of the image."""
    left, top, right, bottom = map(float, objects.boxes[index])
    return [left, top, right - left, bottom - top]


def _lengths(objects: Objects, index: int) -> dict[str, Any]:
    """COCO's run lengths of a mask."""
    assert objects.masks is not None
    found = rle.encode(np.asfortranarray(objects.masks[index].astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def _file(index: int, item: Item) -> str:
    """Name of a picture: that of the image, after its number, in characters that all disks hold."""
    stem = re.sub(r"[^\w.-]+", "_", str(PurePosixPath(item.id).with_suffix("")))[-80:]
    return f"{index + 1:05d}_{stem}.png"
