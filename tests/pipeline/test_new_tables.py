"""Params of a user's tables: which column and folder hold the images, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.own_images import counts, made, put, refused

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
    assert "no such column" in refused(str(file), "--image-column", "mask", name="other")


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
