"""Images as users have them: unlabelled trees, lists, tars, tables, and no validation split."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.data.shards import Images
from steps.data.sources import Item, Source, open_source
from steps.params.dataset import CsvDataset, FolderDataset, ImagesDataset
from steps.params.sets import HeldOut
from steps.prepare import main as prepare

HELD = HeldOut(share=0.25)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETEXT_DATA", str(tmp_path))
    return tmp_path


def png(value: int) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (8, 6), (value % 256, value // 256, 7))
    image.putpixel((0, 0), (9, 99, 199))  # no channel of one value
    image.save(file, "PNG")
    return file.getvalue()


def put(root: Path, names: Sequence[str]) -> None:
    for value, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(value))


def items(source: Source, split: str) -> list[Item]:
    return list(source.items(split, range(len(source.labels(split)))))


def test_a_tree_of_any_depth(root: Path) -> None:
    names = ["a.png", "b/c.JPG", "b/d/e/f.webp", "z/1.tif"]
    put(root / "photos", [*names, "b/.hidden/x.png", "notes.txt", "b/LICENSE"])
    source = open_source(ImagesDataset(format="images", train="photos", val="photos"))
    assert source.names("train") == sorted(names, key=lambda name: name.split("/"))
    assert source.kind == "images"
    assert source.classes == []
    assert source.left_out("train") == {".txt": 1, "without an ending": 1}
    assert [item.read() for item in items(source, "val")] == [png(value) for value in range(4)]


def test_a_list_names_files_from_its_own_folder(root: Path) -> None:
    put(root / "x", ["1.png", "deep/2.png"])
    (root / "x/all.txt").write_text("\ufeff# two\n1.png\n\ndeep/2.png\nlost.png\n", "utf-8")
    source = open_source(ImagesDataset(format="images", train="x/all.txt", val="x"))
    found = items(source, "train")
    assert [(item.id, item.problem) for item in found] == [
        ("1.png", None),
        ("deep/2.png", None),
        ("lost.png", "no such file"),
    ]
    assert found[1].read() == png(1)


def test_images_in_tars(root: Path) -> None:
    for shard, values in (("a", (1, 2)), ("b", (3,))):
        with tarfile.open(root / f"{shard}.tar", "w") as archive:
            for value in values:
                for name, data in ((f"d/{value}.png", png(value)), (f"d/{value}.json", b"{}")):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    source = open_source(ImagesDataset(format="images", train="*.tar", val="b.tar"))
    assert source.names("train") == ["a/d/1.png", "a/d/2.png", "b/d/3.png"]
    assert [item.read() for item in items(source, "train")] == [png(1), png(2), png(3)]
    assert source.left_out("train") == {".json": 3}


def _tar(values: Sequence[int]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for value in values:
            member = tarfile.TarInfo(f"{value}.png")
            member.size = len(png(value))
            archive.addfile(member, io.BytesIO(png(value)))
    return file.getvalue()


def test_tars_joined_to_one_file_are_read_to_their_end(root: Path) -> None:
    (root / "a.tar").write_bytes(_tar([1, 2]) + _tar([3]))
    source = open_source(ImagesDataset(format="images", train="a.tar", val="a.tar"))
    assert [item.read() for item in items(source, "train")] == [png(1), png(2), png(3)]


@pytest.mark.parametrize("name", ["b[1].tar", "B.TAR"])
def test_a_tar_by_its_name(root: Path, name: str) -> None:
    (root / name).write_bytes(_tar([1, 2]))
    source = open_source(ImagesDataset(format="images", train=name, val=HELD))
    assert len(source.names("train")) == 1


@pytest.mark.parametrize("length", [512 + 100, 1024, 1024 + 512])
def test_a_tar_that_is_cut_is_refused(root: Path, length: int) -> None:
    (root / "a.tar").write_bytes(_tar([1, 2])[:length])
    with pytest.raises(UserError, match=r"a\.tar: not readable as an uncompressed tar file"):
        open_source(ImagesDataset(format="images", train="a.tar", val=HELD))


def test_several_places_keep_their_names_apart(root: Path) -> None:
    put(root, ["one/1.png", "two/1.png"])
    source = open_source(ImagesDataset(format="images", train=["one", "two"], val="one"))
    assert source.names("train") == ["one/1.png", "two/1.png"]


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("lost", "no file matches"),
        ("empty", "an empty folder"),
        ("texts", "no image, other files: {'.md': 1}"),
        ("texts/a.md", "neither a folder, a list nor a tar file"),
        ("broken.tar", "not readable as an uncompressed tar file"),
        ("empty.txt", "no image"),
    ],
)
def test_places_without_images(root: Path, place: str, found: str) -> None:
    (root / "empty").mkdir()
    (root / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    (root / "texts").mkdir()
    (root / "texts/a.md").write_text("text", encoding="utf-8")
    (root / "broken.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(UserError) as raised:
        open_source(ImagesDataset(format="images", train=place, val=HELD))
    assert found in str(raised.value)
    assert str(root / place) in str(raised.value)


def test_a_held_out_part_is_drawn_by_name(root: Path) -> None:
    names = [f"{name}/{index:02d}.png" for name in "ab" for index in range(20)]
    put(root / "train", names)
    dataset = FolderDataset(format="folder", train="train", val=HELD)
    source = open_source(dataset)
    assert [source.labels("val").count(label) for label in (0, 1)] == [5, 5]
    assert sorted([*source.names("train"), *source.names("val")]) == names
    chosen = set(source.names("val"))
    assert {item.id for item in items(source, "val")} == chosen
    # A new image changes at most which one of its own class is the last to be taken.
    put(root / "train", ["a/99.png"])
    again = set(open_source(dataset).names("val"))
    assert len(chosen ^ again) <= 2
    assert {name for name in chosen ^ again if name.startswith("b")} == set()
    other = FolderDataset(format="folder", train="train", val=HeldOut(share=0.25, seed=1))
    assert set(open_source(other).names("val")) != again


def test_whole_groups_are_held_out(root: Path) -> None:
    names = [f"patient{index // 4:02d}_{index % 4}.png" for index in range(80)]
    put(root / "train", names)
    held = HeldOut(share=0.2, group=r"patient(\d+)_")
    source = open_source(ImagesDataset(format="images", train="train", val=held))
    patients = {split: {name[7:9] for name in source.names(split)} for split in ("train", "val")}
    assert len(source.names("val")) == 16
    assert not patients["train"] & patients["val"]


def test_every_class_keeps_an_image_in_train(root: Path) -> None:
    folders = [f"train/{'rare' if p == 2 else 'ab'[p % 2]}/p{p}" for p in range(8)]
    put(root, [f"{folder}_{i}.png" for folder in folders for i in range(2)])
    for seed in range(5):
        held = HeldOut(share=0.4, seed=seed, group=r"p(\d)_")
        source = open_source(FolderDataset(format="folder", train="train", val=held))
        assert {*source.labels("train")} == {0, 1, 2}
        assert len(source.labels("val")) == 6


def test_a_label_of_one_image_stays_in_train(root: Path) -> None:
    put(root, [f"{i}.png" for i in range(20)])
    lines = [f"{i}.png,{'x|' if i % 2 else ''}y{i if i < 12 else ''}" for i in range(20)]
    described = table(root, "\n".join(["image,label", *lines]), label_separator="|")
    source = open_source(described.model_copy(update={"val": HeldOut(share=0.4)}))
    assert len({label for each in source.classes_of("train") for label in each}) == 14
    assert [name for name in source.names("val") if int(name[:-4]) < 12] == []
    assert len(source.names("val")) == 7


@pytest.mark.parametrize(
    ("group", "found"),
    [
        ("slide", "finds no group in the name"),
        ("png", "1 groups, of which none can be held out"),
    ],
)
def test_groups_that_cannot_be_held_out(root: Path, group: str, found: str) -> None:
    put(root / "train", [f"{index}.png" for index in range(5)])
    dataset = ImagesDataset(format="images", train="train", val=HeldOut(share=0.5, group=group))
    with pytest.raises(UserError, match=found):
        open_source(dataset)


def test_a_pattern_of_groups_is_checked_before_any_image() -> None:
    with pytest.raises(ValueError, match="regular expression"):
        HeldOut(share=0.5, group="(")


def table(root: Path, text: str, **keys: Any) -> CsvDataset:
    (root / "t").mkdir(exist_ok=True)
    (root / "t/labels.csv").write_text(text, encoding="utf-8")
    put(root / "t", ["1.png", "2.png", "3.png"])
    return CsvDataset(format="csv", train="t/labels.csv", val="t/labels.csv", **keys)


def test_a_table_of_images_and_labels(root: Path) -> None:
    source = open_source(table(root, "\ufeffimage,label,x\n1.png,10,a\n2.png,9,b\n3.png,10,c\n"))
    assert source.classes == ["9", "10"]
    assert [(item.id, item.label, item.problem) for item in items(source, "train")] == [
        ("1.png", 1, None),
        ("2.png", 0, None),
        ("3.png", 1, None),
    ]
    assert items(source, "val")[0].read() == png(0)


def test_a_table_says_what_is_wrong_with_a_line(root: Path) -> None:
    text = "file;kind\n1.png;cat\nlost.png;cat\n2.png;\n;dog\n3.png;fox\n"
    keys = {"image_column": "file", "label_column": "kind", "delimiter": ";"}
    source = open_source(table(root, text, classes=["cat", "dog"], **keys))
    assert [(item.id, item.problem) for item in items(source, "train")] == [
        ("1.png", None),
        ("lost.png", "no such file"),
        ("2.png", "line 4 of labels.csv has no label"),
        ("line 5", "line 5 names no image"),
        ("3.png", "its label 'fox' is none of the classes"),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("file,label\n1.png,a\n", "no column 'image'"),
        ("image,label,label\n1.png,a,b\n", "two columns 'label'"),
        ("", "no column 'image'"),
        ("image,label\n1.png,\n", "no label in column 'label'"),
        ('image,label\n"1.png,a\n', "unreadable"),
    ],
)
def test_tables_that_cannot_be_read(root: Path, text: str, found: str) -> None:
    with pytest.raises(UserError) as raised:
        open_source(table(root, text))
    assert found in str(raised.value)
    assert "labels.csv" in str(raised.value)


def told(source: Source) -> list[tuple[Any, ...]]:
    return [(item.labels, item.number, item.problem) for item in items(source, "train")]


def test_a_table_of_several_labels_in_one_cell(root: Path) -> None:
    text = "image,label\n1.png,Mass|Edema\n2.png,No Finding\n3.png, Mass \n"
    dataset = table(root, text, label_separator="|", no_label="No Finding")
    source = open_source(dataset)
    assert (source.kind, source.classes) == ("multilabel", ["Edema", "Mass"])
    assert (dataset.target, dataset.has_labels) == ("classes", False)
    assert told(source) == [((0, 1), None, None), ((), None, None), ((1,), None, None)]


def test_a_table_of_a_column_per_label(root: Path) -> None:
    text = "image,Mass,Edema\n1.png,1.0,-1.0\n2.png,0,\n3.png,1,1\n"
    columns = {"label_columns": ["Edema", "Mass"]}
    source = open_source(table(root, text, **columns, label_cells={"": 0, "-1.0": 1}))
    assert source.classes == ["Edema", "Mass"]
    assert [labels for labels, _, _ in told(source)] == [(0, 1), (), (0, 1)]
    remedy = "and not 1 or 0; say in label_cells what it counts as"
    assert [problem for _, _, problem in told(open_source(table(root, text, **columns)))] == [
        f"line 2 of labels.csv has '-1.0' in column 'Edema', {remedy}",
        f"line 3 of labels.csv has an empty cell in column 'Edema', {remedy}",
        None,
    ]


def test_a_table_of_numbers(root: Path) -> None:
    text = "image,age\n1.png,-1.5e2\n2.png,\n3.png,old\n1.png,nan\nlost.png,3\n"
    source = open_source(table(root, text, number_column="age"))
    assert (source.kind, source.classes) == ("regression", [])
    assert told(source) == [
        (None, -150.0, None),
        (None, None, "line 3 of labels.csv has no number"),
        (None, None, "line 4 of labels.csv has 'old', and not a number"),
        (None, None, "line 5 of labels.csv has nan, not finite"),
        (None, 3.0, "no such file"),
    ]


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("", "line 3 of labels.csv has no label"),
        ("a||b", "line 3 of labels.csv has an empty label"),
    ],
)
def test_labels_that_are_empty(root: Path, label: str, problem: str) -> None:
    source = open_source(
        table(root, f"image,label\n1.png,a|b\n2.png,{label}\n", label_separator="|")
    )
    assert [found for _, _, found in told(source)] == [None, problem]


def test_a_column_of_a_label_is_absent(root: Path) -> None:
    with pytest.raises(
        UserError, match=r"no column 'Mass' \| allowed: image, mass .*label_columns"
    ):
        open_source(table(root, "image,mass\n1.png,1\n", label_columns=["Mass"]))


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"number_column": "a", "label_separator": "|"}, "contradict each other"),
        ({"number_column": "a", "label_column": "b"}, "label_column has no effect"),
        ({"number_column": "a", "classes": ["b"]}, "classes has no effect"),
        ({"no_label": "none"}, "set label_separator"),
        ({"label_cells": {"": 0}}, "only for label_columns"),
        ({"label_columns": ["a", "a"]}, "names a column twice"),
    ],
)
def test_keys_of_a_table_that_contradict_each_other(keys: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        CsvDataset(format="csv", train="t.csv", val="v.csv", **keys)


def test_params_of_a_table_of_classes_are_as_before() -> None:
    keys = {*CsvDataset(format="csv", train="t.csv", val="v.csv").resolved()}
    assert not keys & {"label_separator", "no_label", "label_columns", "label_cells"}
    assert "number_column" not in keys


def test_several_labels_and_numbers_are_prepared(root: Path) -> None:
    rows = "".join(f"{index + 1}.png,{'ab'[index % 2]},{index / 3}\n" for index in range(3))
    (root / "t").mkdir()
    put(root / "t", ["1.png", "2.png", "3.png"])
    (root / "t/t.csv").write_text(f"image,kind,age\n{rows}", encoding="utf-8")
    common = "format: csv, train: t/t.csv, val: t/t.csv, max_in_both: null"
    for name, further in {
        "several": "label_column: kind, label_separator: '+'",
        "numbers": "number_column: age",
    }.items():
        params = root / f"{name}.yaml"
        params.write_text(f"{{{common}, {further}}}", encoding="utf-8")
        prepare(["--dataset", str(params), "--out", str(root / name)])
    facts = read_manifest(root / "several").facts
    assert facts["splits"]["train"] == {"images": 3, "per_class": [2, 1]}
    assert Images(root / "several", "val").targets.tolist() == [[1, 0], [0, 1], [1, 0]]
    facts = read_manifest(root / "numbers").facts
    assert facts["splits"]["train"] == {"images": 3, "numbers": [0.0, 2 / 3]}
    images = Images(root / "numbers", "val")
    assert images.targets.tolist() == [0, 1 / 3, 2 / 3]
    assert (images.target, images.has_labels) == ("number", False)
    (root / "t/t.csv").write_text("image,age\n1.png,4\n2.png,4\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"every number of split train is 4 .*different numbers"):
        prepare(["--dataset", str(root / "numbers.yaml"), "--out", str(root / "same")])
    assert not (root / "same").exists()


def test_an_unlabelled_tree_is_prepared(root: Path) -> None:
    put(root / "photos", [f"{index}.png" for index in range(12)])
    (root / "photos/readme.md").write_text("text", encoding="utf-8")
    params = root / "mine.yaml"
    params.write_text("{format: images, train: photos, val: {share: 0.25}}", encoding="utf-8")
    prepare(["--dataset", str(params), "--out", str(root / "out")])
    facts = read_manifest(root / "out").facts
    assert facts["kind"] == "images"
    assert facts["splits"] == {
        "train": {"images": 9, "left_out": {".md": 1}},
        "val": {"images": 3},
    }
    assert len(Images(root / "out", "train")) == 9
