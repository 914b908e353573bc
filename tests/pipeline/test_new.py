"""Params of a user's images, through the command: every format, both readings, bad input."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from steps.command import UserError
from steps.data.sources import open_source
from steps.params.checks import load_plan
from tests.own_images import RNG, classes, coco, counts, jpeg, made, put, refused, tars, text_of
from tests.pages import block_run_by
from tests.processes import REPOSITORY, environment
from tests.project import Project
from workflow import estimate, new
from workflow.own_sets import group_of


def parquet(folder: Path, count: int = 80) -> None:
    for split, images in (("train", count), ("validation", 20), ("test", 20)):
        rows = [{"bytes": jpeg(), "path": f"{i}.jpg"} for i in range(images)]
        table = pa.table({"image": rows, "label": [i % 3 for i in range(images)]})
        (folder / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"data/{split}-00000-of-00001.parquet")


# --- Every format


def bands(folder: Path, kind: str, channels: int = 4, count: int = 160) -> None:
    for index in range(count):
        pixels = RNG.integers(0, 4096, (channels, 60, 70), dtype=np.uint16)
        path = folder / f"{'ab'[index % 2]}/{index}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "npy":
            np.save(path, pixels)
        elif kind == "png":
            Image.fromarray(pixels[0]).save(path)
        else:
            tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="separate")


@pytest.mark.parametrize(("kind", "channels"), [("tif", 4), ("npy", 4), ("png", 1)])
def test_images_of_other_channels(
    home: Path, capsys: pytest.CaptureFixture[str], kind: str, channels: int
) -> None:
    bands(home / "data/fields", kind, channels)
    plan = made("data/fields", "--format", "folder")
    assert plan.datasets["mine"].form == (channels, 16)
    assert plan.experiment.methods == ["random", "supervised", "mae", "simclr_bands"]
    assert plan.experiment.tasks.keys() == {"knn", "linear", "finetune"}
    said = text_of(home / "params/datasets/mine.yaml")
    assert f"The first image has {channels} channel" in said
    assert counts(plan) == (128, 32)
    assert "_bands change no colours" in text_of(home / "params/experiments/mine.yaml")
    assert "\nAbout " in capsys.readouterr().out


def test_images_of_other_channels_without_labels(home: Path) -> None:
    bands(home / "data/fields", "npy", 5)
    plan = made("data/fields", "--format", "images")
    assert plan.datasets["mine"].form == (5, 16)
    assert plan.experiment.tasks == {"geometry": ["geometry_bands"]}


def test_images_of_several_forms(home: Path) -> None:
    bands(home / "data/fields", "tif", 4, count=4)
    bands(home / "data/fields", "npy", 3, count=4)
    message = refused("data/fields", "--format", "folder")
    assert "a/0.tif: 4 channels; channels is 3 in the dataset's params" in message
    assert "allowed: 3 channels of 16 bits in each, as in the first" in message


def test_a_tree_without_labels(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(home / "data/photos", [f"{i}.jpg" for i in range(160)], side=480)
    plan = made("data/photos")
    assert plan.experiment.methods == ["random", "mae", "simclr"]
    assert plan.experiment.tasks == {"geometry": ["geometry"]}
    assert plan.experiment.budget is not None
    assert plan.experiment.budget.images == 25_000
    assert counts(plan) == (128, 32)
    assert plan.datasets["mine"].resize_short_side == 160
    said = capsys.readouterr().out
    assert said.endswith("uv run snakemake report --config experiment=mine\n")
    assert "minutes on 2 CPU cores" in said
    text = text_of(plan.file)
    assert "an object of 40 px becomes one of 5.3 px. With --tiles 160 images are cut" in text
    assert "No GPU was found" in text
    lines = plan.file.read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) <= 13


def test_large_images_are_cut_if_asked_to(home: Path) -> None:
    put(home / "data/photos", [f"{i}.jpg" for i in range(40)], side=320)
    plan = made("data/photos", "--tiles", "160")
    assert plan.datasets["mine"].model_dump()["tiles"] == {"side": 160, "overlap": 0}
    text = text_of(Path("params/datasets/mine.yaml"))
    assert "data/photos --tiles 160" in text
    assert "336 x 320 px becomes 6 tiles of 160 px (32 whole images to train, 8" in text
    # A batch is filled by tiles.
    assert "simclr" in plan.experiment.methods
    chosen = text_of(plan.file)
    assert "Tiles of 160 x 160 px are shrunk by their short side: an object of 40 px" in chosen


def test_labelled_images_are_not_cut(home: Path) -> None:
    classes(home / "data/scans")
    with pytest.raises(UserError, match=r"--tiles 32: 2 class folders.*need not be one of its par"):
        made("data/scans", "--format", "folder", "--tiles", "32")
    assert not Path("params/datasets/mine.yaml").exists()


def test_class_folders_of_both_splits(home: Path) -> None:
    for split in ("train", "val", "test"):
        classes(home / "data/pets" / split)
    plan = made("data/pets")
    assert plan.experiment.methods == ["random", "supervised", "mae"]
    assert "its batch of 128 is more than the 80 training images" in text_of(plan.file)
    assert plan.experiment.tasks["finetune"] == ["finetune_small"]
    assert counts(plan) == (80, 80)
    text = text_of(plan.dataset_file("mine"))
    assert "test/ is not read" in text
    assert "2 classes; cat has 50% of the images" in text


def test_two_readings_of_a_tree(home: Path) -> None:
    classes(home / "data/pets")
    line = refused("data/pets")
    assert "2 class folders (cat 40, dog 40); or as 80 images without labels" in line
    assert "allowed: --format folder or --format images" in line
    new.main(["labelled", "data/pets", "--format", "folder"])
    new.main(["unlabelled", "data/pets", "--format", "images"])
    labelled, unlabelled = load_plan("labelled"), load_plan("unlabelled")
    assert list(labelled.experiment.tasks) == ["knn", "linear", "finetune"]
    assert list(unlabelled.experiment.tasks) == ["geometry"]
    assert counts(labelled, "labelled") == (64, 16)
    assert "group: '^(.*)/'" in text_of(unlabelled.dataset_file("unlabelled"))


def test_images_and_class_folders_at_one_level(home: Path) -> None:
    classes(home / "data/pets")
    put(home / "data/pets", ["stray.jpg"])
    put(home / "data/mixed", ["train/a/1.jpg", "val/a/1.jpg", "stray.jpg"])
    assert "2 class folders (train 1, val 1), and 1 image beside them" in refused("data/mixed")
    assert "and 1 image beside them; or as 81 images" in refused("data/pets")
    line = refused("data/pets", "--format", "folder")
    assert "1 image beside the class folders, such as stray.jpg" in line
    assert counts(made("data/pets", "--format", "images")) == (65, 16)


def test_a_table_with_patients_in_its_names(home: Path) -> None:
    names = [f"patient{i // 8:02}_{i}.jpg" for i in range(160)]
    put(home / "data/scans/files", names)
    lines = [f"{name};{'ill' if i % 5 else 'well'};{i}" for i, name in enumerate(names)]
    (home / "data/scans/labels.csv").write_text("\n".join(["file;diagnosis;age", *lines]))
    plan = made("data/scans")
    dataset = plan.datasets["mine"]
    assert (dataset.image_column, dataset.label_column) == ("file", "diagnosis")
    assert (dataset.images, dataset.delimiter) == ("scans/files", ";")
    assert dataset.val.group == r"(?i)(patient[-_ ]?\d+)"
    source = open_source(dataset)
    patients = [{name[:9] for name in source.names(split)} for split in ("train", "val")]
    assert not patients[0] & patients[1]
    assert "whole patients at a time (20, by their names)" in text_of(plan.dataset_file("mine"))


def test_a_table_of_several_labels(home: Path) -> None:
    put(home / "data/chest", [f"{i}.jpg" for i in range(80)])
    cells = ["Mass", "Mass|Edema", "No Finding", "Edema"]
    rows = "".join(f"{i}.jpg,{cells[i % 4]},{i}\n" for i in range(80))
    (home / "data/chest/labels.csv").write_text(f"Image Index,Finding Labels,Age\n{rows}")
    plan = made("data/chest")
    dataset = plan.datasets["mine"]
    assert (dataset.label_separator, dataset.no_label) == ("|", "No Finding")
    assert open_source(dataset).classes == ["Edema", "Mass"]
    assert {*plan.experiment.tasks} == {"knn", "linear", "finetune"}
    assert "supervised" not in plan.experiment.methods
    assert "A cell with | holds several labels." in text_of(plan.dataset_file("mine"))


def test_a_table_of_columns_of_0_and_1(home: Path) -> None:
    put(home / "data/chest", [f"{i}.jpg" for i in range(80)])
    rows = "".join(f"{i}.jpg,{i % 2},{int(i % 3 == 0)},scan{i}\n" for i in range(80))
    (home / "data/chest/labels.csv").write_text(f"image,Mass,Edema,Name\n{rows}")
    assert "--label-column Mass or --label-column Edema" in refused("data/chest")
    plan = made("data/chest", "--label-column", "Mass", "--label-column", "Edema")
    dataset = plan.datasets["mine"]
    assert dataset.label_columns == ["Mass", "Edema"]
    assert open_source(dataset).classes == ["Mass", "Edema"]
    text = text_of(plan.dataset_file("mine"))
    assert "several labels each, Mass, Edema" in text
    assert "Columns that are not read: Name." in text


def test_a_table_of_numbers(home: Path) -> None:
    put(home / "data/bones", [f"{i}.jpg" for i in range(80)])
    rows = "".join(f"{i}.jpg,{i / 4}\n" for i in range(80))
    (home / "data/bones/ages.csv").write_text(f"image,age\n{rows}")
    plan = made("data/bones")
    assert plan.datasets["mine"].number_column == "age"
    assert plan.experiment.tasks["finetune"] == ["finetune_numbers"]
    text = text_of(plan.dataset_file("mine"))
    assert "with a number each, age" in text


def test_whole_numbers_are_classes_and_the_file_says_so(home: Path) -> None:
    put(home / "data/bones", [f"{i}.jpg" for i in range(80)])
    rows = "".join(f"{i}.jpg,{i // 3}\n" for i in range(80))
    (home / "data/bones/ages.csv").write_text(f"image,age\n{rows}")
    plan = made("data/bones")
    assert plan.datasets["mine"].target == "class"
    said = "replace label_column by number_column: age"
    assert said in text_of(plan.dataset_file("mine"))


def test_a_table_for_each_split(home: Path) -> None:
    put(home / "data/t", [f"{i}.jpg" for i in range(120)])
    for split, own in (("train", range(90)), ("val", range(90, 120))):
        rows = "".join(f"{i}.jpg,{i % 2}\n" for i in own)
        (home / f"data/t/{split}.csv").write_text(f"image,label\n{rows}")
    assert counts(made("data/t")) == (90, 30)


def test_a_table_of_other_things(home: Path) -> None:
    put(home / "data/t", [f"{i}.jpg" for i in range(80)])
    (home / "data/t/cameras.csv").write_text("name,lens\na,b\n")
    plan = made("data/t")
    assert plan.datasets["mine"].format == "images"
    assert "no column names images: cameras.csv" in text_of(plan.dataset_file("mine"))


def test_a_list(home: Path) -> None:
    put(home / "data/photos", [f"{i}.jpg" for i in range(100)])
    (home / "data/some.txt").write_text("\n".join(f"photos/{i}.jpg" for i in range(80)))
    plan = made("data/some.txt")
    assert plan.datasets["mine"].train == "some.txt"
    assert counts(plan) == (64, 16)


def test_parquet(home: Path) -> None:
    parquet(home / "data/hub")
    plan = made("data/hub")
    assert plan.datasets["mine"].train == "hub/data/train-00000-of-00001.parquet"
    assert counts(plan) == (80, 20)
    assert "linear" in plan.experiment.tasks
    assert "Not read: test-00000-of-00001.parquet." in text_of(plan.dataset_file("mine"))


@pytest.mark.parametrize(("ending", "kind"), [("cls", "webdataset"), (None, "images")])
def test_tars(home: Path, ending: str | None, kind: str) -> None:
    tars(home / "data/shards", ending)
    plan = made("data/shards")
    assert plan.datasets["mine"].format == kind
    assert plan.datasets["mine"].train == "shards/train-*.tar"
    assert counts(plan) == (80, 20)


def test_captions_or_images_in_tars(home: Path) -> None:
    tars(home / "data/shards", "txt")
    assert "--format webdataset or --format images" in refused("data/shards")
    plan = made("data/shards", "--format", "webdataset")
    assert plan.datasets["mine"].caption == "txt"
    assert "add the method clip" in text_of(plan.file)


def test_boxes_without_masks(home: Path) -> None:
    coco(home / "data/smears", empty=3)
    plan = made("data/smears")
    assert plan.experiment.detection_dataset == "mine_boxes"
    assert plan.experiment.tasks == {"geometry": ["geometry"], "detect": ["mask_rcnn_small"]}
    assert not plan.datasets["mine_boxes"].masks
    assert "3 of 240 boxes have no area" in text_of(plan.dataset_file("mine_boxes"))
    assert "detect trains for only 24 steps (3 epochs)" in text_of(plan.file)
    # The images that are held out are the same in both sets, by seed and name.
    sources = [open_source(plan.datasets[name]) for name in ("mine", "mine_boxes")]
    assert sources[0].names("val") == sources[1].names("val")


def test_masks_and_labelled_crops(home: Path) -> None:
    coco(home / "data/smears", masks=True)
    classes(home / "data/crops")
    smears = home / "data/smears"
    plan = made(
        *(str(smears / "annotations.json"), str(smears / "images"), "data/crops"),
        *("--format", "folder"),
    )
    assert plan.experiment.methods == ["random", "mae"]
    assert plan.experiment.evaluate_on == ["mine_labels"]
    assert list(plan.experiment.tasks) == [
        *("knn", "linear", "finetune"),
        *("detect", "segment", "layout"),
    ]
    assert plan.datasets["mine"].format == "images"
    assert plan.datasets["mine"].train == "smears/images"
    assert plan.datasets["mine_labels"].train == "crops"
    assert plan.datasets["mine_boxes"].train.images == "smears/images"
    assert "To pretrain on its images, set dataset: mine_labels." in text_of(plan.file)


def test_boxes_beside_other_sets_of_the_same_names(home: Path) -> None:
    coco(home / "data/smears/first")
    coco(home / "data/smears/second")
    for each in ("annotations.json", "images"):
        (home / f"data/smears/first/{each}").rename(home / f"data/smears/{each}")
    plan = made("data/smears/annotations.json", "data/smears/images")
    assert plan.datasets["mine_boxes"].train.images == "smears/images"
    line = refused("data/smears/annotations.json", name="other")
    assert "images and in " in line
    assert "remedy: give that folder as a further PATH" in line


def test_boxes_of_splits_whose_images_have_the_same_names(home: Path) -> None:
    for split, count in (("train", 80), ("val", 20)):
        coco(home / split, count)
        (home / "data/smears/annotations").mkdir(parents=True, exist_ok=True)
        (home / split / "images").rename(home / f"data/smears/{split}2017")
        file = home / f"data/smears/annotations/instances_{split}2017.json"
        (home / split / "annotations.json").rename(file)
    boxes = made("data/smears").datasets["mine_boxes"]
    assert boxes.train.images == "smears/train2017"
    assert boxes.val.images == "smears/val2017"


def test_labelled_images_many_more_than_scenes(home: Path) -> None:
    coco(home / "data/smears", count=8)
    classes(home / "data/cells")
    plan = made("data/smears", "data/cells", "--format", "folder")
    assert plan.experiment.evaluate_on is None
    assert plan.datasets["mine"].train == "cells"
    assert "supervised" in plan.experiment.methods


def test_labels_beside_images_without(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(home / "data/photos", [f"{i}.jpg" for i in range(160)])
    put(home / "data/told", [f"{i}.jpg" for i in range(40)])
    rows = "".join(f"{i}.jpg,{i % 2}\n" for i in range(40))
    (home / "data/told/labels.csv").write_text(f"image,label\n{rows}")
    plan = made("data/photos", "data/told")
    assert (plan.experiment.dataset, plan.experiment.evaluate_on) == ("mine", ["mine_labels"])
    assert plan.experiment.methods == ["random", "mae", "simclr"]
    assert list(plan.experiment.tasks) == ["knn", "linear"]
    assert (counts(plan), counts(plan, "mine_labels")) == ((128, 32), (32, 8))
    assert "minutes on 2 CPU cores" in capsys.readouterr().out


# --- Device, time


def test_the_regime_follows_device_and_images(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(new, "gpu_name", lambda: "A GPU")
    put(home / "data/tiny", [f"{i}.jpg" for i in range(1300)], side=24)
    plan = made("data/tiny")
    assert (plan.experiment.regime, plan.experiment.backbones) == ("cifar10", ["vit_pico_32"])
    assert "time is not estimated" in capsys.readouterr().out
    new.main(["other", "data/tiny", "--regime", "small", "--backbone", "vit_nano"])
    other = load_plan("other").experiment
    assert (other.regime, other.backbones) == ("small", ["vit_nano"])


def test_few_small_images_on_a_gpu(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "gpu_name", lambda: "A GPU")
    put(home / "data/tiny", [f"{i}.jpg" for i in range(160)], side=24)
    plan = made("data/tiny")
    assert plan.experiment.regime == "small"
    assert "128 training images are fewer than a batch of 1,024" in text_of(plan.file)
    line = refused("data/tiny", "--regime", "cifar10", name="other")
    assert "allowed: 1,024 training images or more, or --regime small" in line


def test_tasks_whose_batch_is_too_large_are_left_out_by_name(home: Path) -> None:
    coco(home / "data/scenes", 15, masks=True)
    classes(home / "data/crops", each=80)
    scenes = ["data/scenes/annotations.json", "data/scenes/images"]
    plan = made(*scenes, "data/crops", "--format", "folder")
    assert list(plan.experiment.tasks) == ["knn", "linear", "finetune", "detect", "layout"]
    said = "segment is left out: its batch of 16 is more than the 12 training images."
    assert said in text_of(plan.file)
    classes(home / "data/few", each=25)
    new.main(["few", "data/few", "--format", "folder"])
    plan = load_plan("few")
    assert list(plan.experiment.tasks) == ["knn", "linear"]
    said = "finetune is left out: its batch of 64 is more than the 40 training images."
    assert said in text_of(plan.file)


def test_the_estimate_is_the_quickstarts_time() -> None:
    plan = load_plan("quickstart", REPOSITORY / "params")
    sizes = {"shapes": estimate.Size(5000, 4000), "shapes_scenes": estimate.Size(500, 100)}
    seconds = estimate.estimated_seconds(plan, sizes)
    assert seconds == pytest.approx(23.2 * 60, rel=0.02)


def test_groups_in_names() -> None:
    assert group_of(["a/slide_7/1.jpg", "a/slide_7/2.jpg", "b/slide_9/1.jpg"]) == (
        r"(?i)(slide[-_ ]?\d+)",
        "slide",
        2,
    )
    assert group_of(["case-ab-1.jpg", "case-cd-1.jpg", "case-ab-2.jpg"]) is not None
    assert group_of(["patient1.jpg", "patient2.jpg"]) is None
    assert group_of(["patient1_1.jpg", "other.jpg", "patient1_2.jpg"]) is None


# --- Bad input: one line, nothing written


def test_nothing_to_read(home: Path) -> None:
    (home / "data/empty").mkdir()
    (home / "data/notes").mkdir()
    (home / "data/notes/a.md").write_text("text")
    assert "an empty folder" in refused("data/empty")
    assert "no image, only other files: 1 .md" in refused("data/notes")
    assert "no such file or folder" in refused("data/lost")
    assert "a .md file" in refused("data/notes/a.md")
    put(home / "data/few", ["a.jpg", "b.jpg", "c.jpg"])
    assert "2 training images, fewer than a batch" in refused("data/few")


def test_an_unreadable_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home / "data/photos", ["a.jpg"])
    said = [("", "unreadable folder (Permission denied)")]
    monkeypatch.setattr("workflow.readings.walk", lambda folder: said)
    assert "photos: unreadable folder (Permission denied)" in refused("data/photos")


def test_a_damaged_image(home: Path) -> None:
    put(home / "data/photos", [f"{i}.jpg" for i in range(80)])
    (home / "data/photos/0.jpg").write_bytes(b"\xff\xd8\xff")
    assert "photos: 0.jpg: " in refused("data/photos")


def semantic(folder: Path, count: int = 80, value: int = 1, mode: str = "L") -> None:
    """Images of 64 x 48 px, and masks of the values 0, ``value`` and 255."""
    put(folder / "images", [f"{i}.jpg" for i in range(count)])
    (folder / "masks").mkdir()
    for i in range(count):
        pixels = np.zeros((48, 64), np.uint8)
        pixels[:20], pixels[20:22] = value, 255
        Image.fromarray(pixels).convert(mode).save(folder / f"masks/{i}.png")


def test_semantic_masks(home: Path) -> None:
    semantic(home / "data/street")
    plan = made("data/street")
    assert plan.experiment.tasks == {"geometry": ["geometry"], "segment": ["segment"]}
    masks = plan.datasets["mine_masks"]
    assert masks.classes == ["background", "class 1"]
    assert (masks.train.images, masks.train.masks) == ("street/images", "street/masks")
    assert masks.val.share == 0.2
    assert plan.datasets["mine"].train == "street/images"
    assert "Classes are the values of 80 masks" in text_of(plan.dataset_file("mine_masks"))
    assert len(open_source(masks).names("val")) == 16


def test_classes_whose_names_are_those_of_masks(home: Path) -> None:
    for name in ("mask", "no_mask"):
        for i in range(80):
            path = home / f"data/faces/{name}/{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RNG.integers(0, 9, (32, 32), np.uint8)).save(path)
    line = refused("data/faces")
    assert "80 images with masks (mask); or as 2 class folders (mask 80, no_mask 80)" in line
    assert made("data/faces", "--format", "folder").experiment.tasks.keys() >= {"knn"}
    new.main(["masks", "data/faces", "--format", "masks"])
    assert load_plan("masks").datasets["masks_masks"].train.masks == "faces/mask"
    Image.new("RGB", (32, 32)).save(home / "data/faces/mask/0.png")
    assert "folders that are classes are read with --format folder" in refused(
        "data/faces", name="b"
    )


def test_semantic_masks_in_splits_with_gaps(home: Path) -> None:
    for split, count in (("training", 80), ("validation", 9)):
        semantic(home / "data/ade", count, value=7)
        for kind in ("images", "masks"):
            (home / f"data/ade/{kind}").rename(home / f"data/{split}-{kind}")
    for split in ("training", "validation"):
        for kind, name in (("images", "images"), ("masks", "annotations")):
            (home / f"data/ade/{name}").mkdir(exist_ok=True)
            (home / f"data/{split}-{kind}").rename(home / f"data/ade/{name}/{split}")
    masks = made("data/ade").datasets["mine_masks"]
    assert masks.train.masks == "ade/annotations/training"
    assert masks.val.images == "ade/images/validation"
    assert masks.class_values == [0, 7]


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda folder: (folder / "masks/3.png").unlink(), "3.jpg: its mask "),
        (
            lambda folder: Image.new("RGB", (64, 48)).save(folder / "masks/0.png"),
            "masks/0.png: a mask of colours (RGB)",
        ),
        (
            lambda folder: [p.rename(p.with_name(f"m{p.name}")) for p in folder.glob("masks/*")],
            "and none of them has an image's name",
        ),
        (
            lambda folder: [p.rename(folder / p.name) for p in folder.glob("images/*")],
            "not in a folder of images and a folder of masks",
        ),
        (
            lambda folder: [
                Image.new("L", (64, 48), 255 * (p.stem == "3")).save(p)
                for p in folder.glob("masks/*")
            ],
            "describe the set by hand with values: [0, 255] and ignore: []",
        ),
        (
            lambda folder: [Image.new("L", (64, 48)).save(p) for p in folder.glob("masks/*")],
            "masks with 1 values",
        ),
    ],
)
def test_bad_semantic_masks(home: Path, spoil: Any, line: str) -> None:
    semantic(home / "data/street")
    spoil(home / "data/street")
    assert line in refused("data/street")


@pytest.mark.parametrize(
    ("table", "arguments", "line"),
    [
        ("image,label\n{}lost.jpg,a\n", (), "lost.jpg: no such file"),
        ("image,label\n{}0.jpg,\n", (), "line 82 of t.csv has no label"),
        ("image,kind\n{}", ("--label-column", "label"), "no such column in"),
        ("name,label\n", (), "no line below the column names"),
        ("image,one,two\n{}", (), "--label-column one or --label-column two"),
        (
            "image,one,two\n{}79.jpg,2,1\n",
            ("--label-column", "one", "--label-column", "two"),
            "one of 2 columns, and its cells hold 2",
        ),
        ("image\n{}", (), "no column of labels"),
        ("image,label\nx.jpg,a\ny.jpg,b\n", (), "no column names image files"),
    ],
)
def test_bad_tables(home: Path, table: str, arguments: tuple[str, ...], line: str) -> None:
    put(home / "data/t", [f"{i}.jpg" for i in range(80)])
    columns = table.split("\n")[0].count(",")
    rows = "".join(f"{i}.jpg{f',{i % 2}' * columns}\n" for i in range(80))
    (home / "data/t/t.csv").write_text(table.format(rows))
    assert line in refused("data/t/t.csv", *arguments)


def test_bad_coco(home: Path) -> None:
    coco(home / "data/smears")
    file = home / "data/smears/annotations.json"
    shutil.copy(file, file.with_name("again.json"))
    assert "2 files in COCO's format" in refused("data/smears")
    shutil.rmtree(home / "data/smears/images")
    assert "are in no folder near it" in refused(str(file))
    file.write_text("{}")
    assert "no list 'images' of objects" in refused(str(file))


def test_more_sets_than_an_experiment_reads(home: Path) -> None:
    classes(home / "data/pets")
    classes(home / "data/crops")
    line = refused("data/pets", "data/crops", "--format", "folder")
    assert "2 class folders (cat 40, dog 40); 2 class folders (cat 40, dog 40)" in line
    assert "allowed: images without labels, one set with labels, and one with boxes" in line


def test_options_and_names(home: Path) -> None:
    put(home / "data/photos", [f"{i}.jpg" for i in range(80)])
    assert "can only be read as" in refused("data/photos", "--format", "coco")
    assert "no such folder of recipes | allowed: cifar10" in refused(
        "data/photos", "--regime", "large"
    )
    assert "no such params file" in refused("data/photos", "--backbone", "vit_giant")
    assert "NAME" in refused("data/photos", name="a b")
    assert "no folder of params" in refused("data/photos", "--params", "elsewhere")
    made("data/photos")
    assert "mine.yaml: exists, and nothing is overwritten" in refused("data/photos")


def test_the_command_that_it_prints(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home / "my data/photos", [f"{i}.jpg" for i in range(80)])
    monkeypatch.setenv("PRETEXT_DATA", str(home / "my data"))
    new.main(["12", "my data/photos"])
    run = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(run)[-2:] == ['experiment="12"', f"data_root={home}/my data"]
    assert load_plan("12").datasets["12"].train == "photos"


def test_nothing_is_left_if_a_file_appears(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home / "data/photos", [f"{i}.jpg" for i in range(80)])
    monkeypatch.setattr(new, "_time", lambda *_: Path("params/experiments/mine.yaml").touch() or "")
    with pytest.raises(UserError, match="nothing is overwritten"):
        new.main(["mine", "data/photos"])
    assert Path("params/experiments/mine.yaml").read_text() == ""
    assert not Path("params/datasets/mine.yaml").exists()
    assert not list(Path("params").rglob(".*"))


# --- The command, and the engine after it


@pytest.mark.slow
def test_the_commands_of_the_page(home: Path) -> None:
    for split in ("train", "val"):
        classes(home / "data/mine" / split, each=80)
    script = block_run_by("pipeline/test_new.py::test_the_commands_of_the_page").content
    write, run = script.strip().split("\n")
    done = subprocess.run(
        [sys.executable, *write.removeprefix("uv run python ").split()],
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == run
    planned = Project(home).snakemake_plans("--config", "experiment=mine")
    assert "results/data/mine" in planned
    assert any(path.startswith("results/pretrained/mine/small/vit_pico/mae") for path in planned)
