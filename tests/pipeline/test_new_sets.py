"""Sets of a user that ``prepare`` would refuse: ``workflow.new`` says so, or avoids it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.data.sources import open_source
from steps.params.checks import load_plan
from tests.own_images import classes, coco, jpeg, made, put, refused, tars
from workflow import new


def parquet(path: Path, columns: dict[str, Any], count: int = 80) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": jpeg(), "path": None} for _ in range(count)]
    pq.write_table(pa.table({"image": rows, **columns}), path)


def test_an_empty_class_folder(home: Path) -> None:
    classes(home / "data/pets")
    (home / "data/pets/bird").mkdir()
    line = refused("data/pets", "--format", "folder")
    assert "pets: class 'bird' has no image to train" in line


def test_a_class_of_one_patient_stays_in_train(home: Path) -> None:
    for patient in range(10):
        name = {2: "rare"}.get(patient, "ab"[patient % 2])
        put(home / "data/scans" / name, [f"patient{patient}_{i}.jpg" for i in range(10)])
    plan = made("data/scans", "--format", "folder")
    assert {*open_source(plan.datasets["mine"]).labels("train")} == {0, 1, 2}


def test_labels_that_count_from_1(home: Path) -> None:
    parquet(home / "data/scans/train.parquet", {"label": [1 + i % 3 for i in range(80)]})
    assert open_source(made("data/scans").datasets["mine"]).classes == ["0", "1", "2", "3"]
    parquet(home / "data/gap/train.parquet", {"label": [1 + 2 * (i % 3) for i in range(80)]})
    assert "class '2' has no image to train, and 1 more" in refused("data/gap", name="other")


def test_labels_of_parquet_that_are_text(home: Path) -> None:
    words = ["cat", "dog"] * 40
    names = [f"{i}.jpg" for i in range(80)]
    parquet(home / "data/pets/train.parquet", {"kind": words, "file": names})
    source = open_source(made("data/pets").datasets["mine"])
    assert source.classes == ["cat", "dog"]
    assert {*source.labels("val")} == {0, 1}
    parquet(home / "data/said/train.parquet", {"text": names})
    new.main(["said", "data/said"])
    assert load_plan("said").datasets["said"].has_captions
    parquet(home / "data/alone/train.parquet", {})
    assert "remedy: unpack the images into a folder" in refused("data/alone", name="other")


def test_images_that_stand_twice(home: Path) -> None:
    put(home / "data/scans/deep", [f"{i}.jpg" for i in range(80)])
    lines = [f"deep/{i % 80}.jpg,{'ab'[i % 2]}" for i in range(83)]
    (home / "data/scans/labels.csv").write_text("\n".join(["image,label", *lines]))
    line = refused("data/scans/labels.csv")
    assert "labels.csv: deep/0.jpg: its name stands twice; and 2 more" in line
    line = refused("data/scans", "data/scans/deep", "--format", "images")
    assert "scans/deep/0.jpg: its name stands twice; and 79 more" in line


def test_boxes_without_area_in_the_smaller_split(home: Path) -> None:
    coco(home / "data/smears", 80)
    file = home / "data/smears/annotations.json"
    content = json.loads(file.read_text())
    boxes = content["annotations"] = content["annotations"][:80]
    file.write_text(json.dumps(content))
    images = open_source(made(str(file), "data/smears/images").datasets["mine_boxes"]).names("val")
    box = next(each for each in boxes if f"{each['image_id']:03}.jpg" in images)
    box["bbox"][2] = 0
    file.write_text(json.dumps(content))
    line = refused(str(file), "data/smears/images", name="other")
    assert f"boxes of val have no area, the first in {box['image_id']:03}.jpg" in line
    assert "allowed: 4% of a split" in line


def test_parquet_of_paths_without_images(home: Path) -> None:
    columns = {"label": [i % 2 for i in range(80)]}
    parquet(home / "data/scans/train.parquet", columns)
    table = pq.read_table(home / "data/scans/train.parquet")
    rows = [{"bytes": None, "path": f"{i}.jpg"} for i in range(80)]
    images = pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(table.set_column(0, "image", images), home / "data/scans/train.parquet")
    assert "train/0: the row holds no image bytes" in refused("data/scans")


def test_endings_in_capitals_and_numbers_in_names(home: Path) -> None:
    put(home / "data/scans", [f"{i}.jpg" for i in range(80)])
    lines = [f"{i}.jpg,{'ab'[i % 2]}" for i in range(80)]
    (home / "data/scans/L.CSV").write_text("\n".join(["image,label", *lines]))
    assert made("data/scans/L.CSV").datasets["mine"].format == "csv"
    tars(home / "data/shards", None)
    for shard in sorted((home / "data/shards").glob("*")):
        for split in ("train", "val"):
            name = shard.name.replace("train", split)
            shutil.copy(shard, shard.with_name(f"cifar10-{name}"))
        shard.unlink()
        shutil.copy(
            home / f"data/shards/cifar10-{shard.name}",
            home / f"data/shards/cifar10-{shard.name.replace('train', 'val')}",
        )
    new.main(["shards", "data/shards"])
    shards = load_plan("shards").datasets["shards"]
    assert (shards.train, shards.val) == (
        "shards/cifar10-train-*.tar",
        "shards/cifar10-val-*.tar",
    )
