"""Images as a user has them, and what ``workflow.new`` makes of them or refuses."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steps.command import UserError
from steps.data.sources import open_source
from steps.params.checks import load_plan
from steps.params.plan import Plan
from workflow import new

RNG = np.random.default_rng(0)


def jpeg(side: int = 48) -> bytes:
    file = io.BytesIO()
    pixels = RNG.integers(0, 255, (side, side + 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def put(folder: Path, names: Sequence[str], side: int = 48) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(side))


def classes(folder: Path, each: int = 40) -> None:
    put(folder, [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(each)])


def coco(folder: Path, count: int = 80, *, masks: bool = False, empty: int = 0) -> None:
    names = [f"{i:03}.jpg" for i in range(count)]
    put(folder / "images", names)
    boxes: list[dict[str, Any]] = []
    for i in range(3 * count):
        box = [4, 4, 0 if i < empty else 20, 16]
        boxes.append({"id": i, "image_id": i % count, "category_id": 1, "bbox": box, "iscrowd": 0})
        if masks:
            boxes[-1]["segmentation"] = [[4, 4, 24, 4, 24, 20, 4, 20]]
    content = {
        "images": [
            {"id": i, "file_name": name, "width": 64, "height": 48} for i, name in enumerate(names)
        ],
        "annotations": boxes,
        "categories": [{"id": 1, "name": "cell"}],
    }
    (folder / "annotations.json").write_text(json.dumps(content))


def tars(folder: Path, ending: str | None) -> None:
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"train-{shard:03}.tar", "w") as archive:
            for i in range(50):
                files = {f"{shard}{i:02}.jpg": jpeg()}
                if ending is not None:
                    files[f"{shard}{i:02}.{ending}"] = str(i % 2).encode()
                for name, data in files.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))


def made(*arguments: str) -> Plan:
    """The plan that the command writes."""
    new.main(["mine", *arguments])
    return load_plan("mine")


def refused(*arguments: str, name: str = "mine") -> str:
    """The line of a refusal, after which nothing is written."""
    before = sorted(Path("params").rglob("*"))
    with pytest.raises(UserError) as error:
        new.main([name, *arguments])
    assert sorted(Path("params").rglob("*")) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def text_of(path: Path) -> str:
    """A file with its comments in one line each."""
    return path.read_text().replace("\n# ", " ")


def counts(plan: Plan, name: str = "mine") -> tuple[int, int]:
    """Images of both splits, as ``prepare`` will read them."""
    source = open_source(plan.datasets[name])
    return len(source.labels("train")), len(source.labels("val"))
