"""Params of a user's tables: which column and folder hold the images, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from steps.params.checks import load_plan
from tests.own_images import counts, made, put, refused, text_of
from workflow import new

NAMES = [f"{i:03}.jpg" for i in range(80)]


def table(path: Path, names: Sequence[str] = NAMES, head: str = "id,label", line: str = "") -> None:
    """A table with a line for each name, in ``line`` as {0}, and the label as {1}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [(line or "{0},{1}").format(name, "ab"[i % 2]) for i, name in enumerate(names)]
    path.write_text("\n".join([*([head] if head else []), *lines]) + "\n")


@pytest.mark.parametrize("path", ["data/scans/train.csv", "data/scans"])
def test_images_are_those_of_the_tables_split(home: Path, path: str) -> None:
    for split in ("test", "train"):
        put(home / "data/scans" / split, NAMES)
    table(home / "data/scans/train.csv")
    assert made(path, "--format", "csv").datasets["mine"].images == "scans/train"


def test_tables_in_the_folders_of_their_images(home: Path) -> None:
    for split, names in (("train", NAMES), ("val", NAMES[:20])):
        put(home / "data/scans" / split, names)
        table(home / "data/scans" / split / "labels.csv", names)
    plan = made("data/scans")
    assert plan.datasets["mine"].images is None
    assert counts(plan) == (80, 20)


def test_one_folder_that_cannot_serve_both_tables(home: Path) -> None:
    for split, names in (("train", NAMES), ("val", NAMES[:20])):
        put(home / "data/scans" / split, names)
        table(home / f"data/scans/{split}.csv", names)
    line = refused("data/scans")
    assert "val.csv: its images are in" in line
    assert "remedy: move each table into the folder of its images" in line


def test_folders_of_the_same_names(home: Path) -> None:
    for folder in ("large", "small"):
        put(home / "data/scans" / folder, NAMES)
    table(home / "data/scans/labels.csv")
    assert "write paths from the table's folder, such as large/000.jpg" in refused("data/scans")
    (home / "data/scans/small/040.jpg").unlink()
    assert made("data/scans/labels.csv").datasets["mine"].images == "scans/large"


def test_columns_of_images(home: Path) -> None:
    for folder in ("a", "b"):
        put(home / "data/scans" / folder, NAMES)
    file = home / "data/scans/labels.csv"
    table(file, head="mask,image,label", line="b/{0},a/{0},{1}")
    assert made(str(file)).datasets["mine"].image_column == "image"
    table(file, head="left,right,label", line="b/{0},a/{0},{1}")
    line = refused(str(file), name="other")
    assert "allowed: --image-column left or --image-column right" in line
    assert "no column 'mask' for" in refused(str(file), "--image-column", "mask", name="other")


def test_other_files_are_no_images(home: Path) -> None:
    put(home / "data/scans", NAMES)
    for name in NAMES:
        (home / f"data/scans/{name}.xml").write_text("<a/>")
    table(home / "data/scans/labels.csv", head="note,scan,label", line="{0}.xml,{0},{1}")
    assert made("data/scans").datasets["mine"].image_column == "scan"


def test_a_table_without_column_names(home: Path) -> None:
    put(home / "data/scans", NAMES)
    table(home / "data/scans/labels.csv", head="")
    assert "its first line names an image, 000.jpg" in refused("data/scans/labels.csv")
    assert "its first line names an image, 000.jpg" in refused("data/scans")


def test_cells_of_labels_that_are_written_with_a_point(home: Path) -> None:
    put(home / "data/scans", NAMES)
    lines = [f"{name},{i % 2}.0,{i % 3 % 2}" for i, name in enumerate(NAMES)]
    (home / "data/scans/labels.csv").write_text("\n".join(["image,one,two", *lines]))
    plan = made("data/scans", "--label-column", "one", "--label-column", "two")
    assert plan.datasets["mine"].label_columns == ["one", "two"]


def test_other_tables_below_a_folder(home: Path) -> None:
    for split in ("train", "val"):
        put(home / "data/pets" / split, [f"{name}/{i}.jpg" for name in "ab" for i in range(40)])
    (home / "data/pets/empty.csv").touch()
    (home / "data/pets/notes.csv").write_bytes("na\xefve,x\n1,2\n".encode("latin1"))
    plan = made("data/pets")
    note = "Not read, since no column names images: empty.csv, notes.csv."
    assert note in text_of(plan.dataset_file("mine"))
    assert "no line below the column names" in refused("data/pets/empty.csv", name="other")
    put(home / "data/scans", NAMES)
    table(home / "data/scans/labels.csv")
    (home / "data/scans/empty.csv").touch()
    new.main(["scans", "data/scans"])
    assert load_plan("scans").datasets["scans"].format == "csv"


def test_a_missing_number(home: Path) -> None:
    put(home / "data/scans", NAMES)
    lines = [f"{name},{'NA' if i == 3 else i % 30 + 0.5}" for i, name in enumerate(NAMES)]
    (home / "data/scans/labels.csv").write_text("\n".join(["image,age", *lines]))
    assert "003.jpg: line 5 of labels.csv has 'NA', and not a number" in refused("data/scans")
