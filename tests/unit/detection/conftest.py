"""A dataset of rectangles and discs and a backbone without training, both as steps publish them."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from steps.artifacts import publish
from steps.artifacts.manifest import MANIFEST, digest_file, digest_files
from steps.data.shards import ShardWriter
from steps.models.backbones import create_backbone, save_backbone
from steps.models.beit import as_beit
from steps.params.backbone import Backbone, BEiTBackbone
from steps.params.detection import Detection
from steps.params.load import validate

CLASSES = ("rectangle", "disc")


SMALL: dict[str, Any] = {
    "image_size": 64,
    "epochs": 2,
    "batch_size": 4,
    "backbone": {"window_size": 4, "global_blocks": 2, "drop_path": 0.1},
    "pyramid": {"channels": 8, "strides": [4, 8, 16]},
    "proposals": {
        "convs": 1,
        "anchor_scale": 4.0,
        "samples": 16,
        "train_before_nms": 50,
        "train_after_nms": 20,
        "test_before_nms": 50,
        "test_after_nms": 20,
    },
    "heads": {
        "box_convs": 1,
        "box_channels": 8,
        "box_fc": 16,
        "mask_convs": 1,
        "mask_channels": 8,
        "mask_roi": 7,
        "samples": 8,
    },
    "optimizer": {
        "lr": 1e-3,
        "weight_decay": 0.05,
        "layer_decay": 0.8,
        "warmup_iterations": 2,
        "decay": {"name": "cosine"},
    },
    "augmentation": {"scale_jitter": [0.5, 1.5]},
    "eval_batch_size": 2,
}


def make_scenes(
    folder: Path, *, train: int, val: int, sides: tuple[int, int] = (48, 72), seed: int = 0
) -> Path:
    """Publish a detection dataset; one image of the train split is empty, one box a crowd."""
    rng = np.random.default_rng(seed)
    splits: dict[str, Any] = {}
    with publish(folder, node="prepare", params={}, inputs={}) as draft:
        for split, count in (("train", train), ("val", val)):
            images: list[dict[str, Any]] = []
            boxes: list[dict[str, Any]] = []
            path = draft.path / f"{split}.arrow"
            with ShardWriter(path, labels=False, captions=False) as writer:
                for index in range(count):
                    width, height = (int(rng.integers(*sides)) for _ in "wh")
                    shapes = 0 if index == 1 and split == "train" else int(rng.integers(1, 4))
                    image, found = _draw(rng, width, height, shapes)
                    name = f"{split}-{index}"
                    writer.add(id=name, image=image, width=width, height=height)
                    size = {"width": width, "height": height}
                    images.append({"id": index + 1, "file_name": name, **size})
                    for box in found:
                        crowd = int(split == "train" and index == 2)
                        boxes.append(
                            {
                                "id": len(boxes) + 1,
                                "image_id": index + 1,
                                "iscrowd": crowd,
                                **box,
                            }
                        )
            content = {
                "images": images,
                "annotations": boxes,
                # Ids with gaps, as COCO has them.
                "categories": [{"id": 3 * k + 1, "name": n} for k, n in enumerate(CLASSES)],
            }
            (draft.path / f"{split}.json").write_text(json.dumps(content))
            splits[split] = {"images": count, "boxes": len(boxes)}
        draft.facts.update(
            dataset="scenes",
            kind="detection",
            classes=list(CLASSES),
            splits=splits,
            mean=[0.5, 0.5, 0.5],
            std=[0.25, 0.25, 0.25],
            problems=[],
            problem_share=0.0,
        )
    return folder


def _draw(
    rng: np.random.Generator, width: int, height: int, shapes: int
) -> tuple[bytes, list[dict[str, Any]]]:
    noise = rng.normal(110, 20, (height, width, 3)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(noise)
    pen = ImageDraw.Draw(image)
    found = []
    for _ in range(shapes):
        side = int(rng.integers(14, 30))
        left, top = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        kind = int(rng.integers(2))
        colour = tuple(int(value) for value in rng.integers(160, 255, 3))
        if kind:
            pen.ellipse((left, top, left + side, top + side), fill=colour)
            turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
            x, y = left + side / 2 * (1 + np.cos(turn)), top + side / 2 * (1 + np.sin(turn))
        else:
            pen.rectangle((left, top, left + side, top + side), fill=colour)
            x = np.array([left, left + side, left + side, left])
            y = np.array([top, top, top + side, top + side])
        found.append(
            {
                "category_id": 3 * kind + 1,
                "bbox": [left, top, side, side],
                "area": float(side * side) * (np.pi / 4 if kind else 1),
                "segmentation": [np.stack([x, y], axis=1).flatten().tolist()],
            }
        )
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue(), found


def make_backbone(
    folder: Path,
    *,
    seed: int = 0,
    beit: BEiTBackbone | None = None,
    architecture: str = "vit_tiny_patch16_224",
    **arguments: Any,
) -> Path:
    """Publish a small vision transformer as it is initialised, or a BEiT of its size."""
    sizes = {"embed_dim": 32, "depth": 4, "num_heads": 2} | arguments
    backbone = Backbone(
        scale="ViT-tiny",
        architecture=architecture,
        image_size=64,
        patch_size=8,
        model_args=sizes,
    )
    if beit is not None:
        backbone = as_beit(backbone, beit)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vit = create_backbone(backbone)
    with publish(folder, node="pretrain", params={}, inputs={}, seed=seed) as draft:
        save_backbone(vit, backbone, draft.path, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
        draft.facts.update(
            method="random",
            recipe="random",
            kind="Random",
            backbone="vit_tiny",
            scale="ViT-tiny",
            pretrain_dataset="shapes",
            epochs=0.0,
            images_seen=0,
            flops=0.0,
            device_seconds=0.0,
        )
    return folder


def seal(artifact: Path, **facts: Any) -> None:
    """Write a manifest anew for files that were changed, and for ``facts`` that are to be so."""
    path = artifact / MANIFEST
    content = json.loads(path.read_text())
    content["files"] = {name: digest_file(artifact / name) for name in content["files"]}
    content["digest"] = digest_files(content["files"])
    content["facts"].update(facts)
    path.write_text(json.dumps(content))


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detection dataset of 10 training and 4 validation images."""
    return make_scenes(tmp_path_factory.mktemp("data") / "scenes", train=10, val=4)


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone artifact: patches of 8, 64 pixels, width 32, depth 4."""
    return make_backbone(tmp_path_factory.mktemp("pretrained") / "backbone")


@pytest.fixture(scope="session")
def beit_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a BEiT."""
    return make_backbone(tmp_path_factory.mktemp("pretrained") / "beit", beit=BEiTBackbone())


@pytest.fixture
def small_values() -> dict[str, Any]:
    """A protocol of seconds, as YAML gives it."""
    return copy.deepcopy(SMALL)


@pytest.fixture
def small(small_values: dict[str, Any]) -> Callable[..., Detection]:
    """The protocol of seconds with changes."""

    def changed(**changes: Any) -> Detection:
        return validate({**small_values, **changes}, Detection, "small.yaml")

    return changed
