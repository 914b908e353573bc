"""Decisions: bytes that repeat, files that are held to their record, places that are not taken."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from steps.artifacts import read_records, write_records
from steps.artifacts.decisions import (
    Decisions,
    is_decisions,
    of_classes,
    of_confusion,
    of_detections,
    of_values,
    read_decisions,
)
from steps.artifacts.publish import check_places
from steps.command import UserError
from tests.faults.test_places import record
from tests.unit.reporting.synthetic import build

IDS = ["val/a", "val/b"]
BOXES = np.array([[1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]])
EXAMPLES: dict[str, Decisions] = {
    "classes": of_classes(
        IDS, np.array([1, 0]), np.array([[1, 2, 0], [2, 1, 0]]), np.array([0.5, 0.25], np.float32)
    ),
    "values": of_values(IDS, {"text_R@1": [100.0, None], "image_R@1": [0.0, 100.0]}),
    "confusion": of_confusion(IDS, np.arange(8).reshape(2, 2, 2)),
    "detections": of_detections([7, 9], [1, 4], [0.5, 0.25], BOXES, ["0a", "1b"]),
    "boxes": of_detections([7, 9], [1, 4], [0.5, 0.25], BOXES, None),
    "nothing found": of_detections([], [], [], np.empty((0, 4)), []),
}


def written(path: Path, decisions: Decisions) -> str:
    content = decisions.encoded()
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", EXAMPLES)
def test_decisions_survive_their_file(name: str, tmp_path: Path) -> None:
    decisions, path = EXAMPLES[name], tmp_path / "knn.parquet"
    digest = written(path, decisions)
    back = read_decisions(path, digest)
    assert back.kind == decisions.kind
    assert back.table.to_pydict() == decisions.table.to_pydict()
    assert decisions.encoded() == path.read_bytes()
    assert is_decisions(path)


def _foreign(path: Path) -> None:
    parquet.write_table(pa.table({"id": ["mine"]}), path)


def _other_columns(path: Path) -> None:
    table = pa.table({"id": ["a"], "label": pa.array([1], pa.int64())})
    parquet.write_table(table.replace_schema_metadata({"kind": "classes"}), path)


FILES = {
    "a user's table": _foreign,
    "other columns": _other_columns,
    "text": lambda path: path.write_text("mine"),
    "nothing in it": lambda path: path.touch(),
    "a torn file": lambda path: path.write_bytes(EXAMPLES["classes"].encoded()[:-20]),
}


@pytest.mark.parametrize("name", FILES)
def test_what_holds_no_decisions_is_neither_read_nor_replaced(name: str, tmp_path: Path) -> None:
    path = tmp_path / "knn.parquet"
    FILES[name](path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"knn\.parquet: (not a Parquet file|kind '.*' with the)"):
        read_decisions(path)
    options = Namespace(out=tmp_path / "knn.json")
    with pytest.raises(UserError, match=r"knn\.parquet: a file that holds no decisions"):
        check_places(options, "knn", record=True, decisions=True)
    assert path.read_bytes() == before
    check_places(options, "geometry", record=True)


def test_places_of_decisions(tmp_path: Path) -> None:
    out = tmp_path / "knn.json"
    check_places(Namespace(out=out), "knn", record=True, decisions=True)
    written(tmp_path / "knn.parquet", EXAMPLES["values"])
    check_places(Namespace(out=out), "knn", record=True, decisions=True)
    with pytest.raises(UserError, match=r"knn\.parquet: the name of its decisions"):
        check_places(
            Namespace(out=tmp_path / "sub/knn.parquet"), "knn", record=True, decisions=True
        )
    (tmp_path / "linear.parquet").mkdir()
    with pytest.raises(UserError, match=r"linear\.parquet: a folder"):
        check_places(Namespace(out=tmp_path / "linear.json"), "linear", record=True, decisions=True)


def test_a_record_names_its_decisions(tmp_path: Path) -> None:
    made = build(tmp_path, methods=("mae",), tasks=("knn",))
    out = tmp_path / "knn.json"
    records, _ = read_records(made.file("mae", "knn"))
    for decisions in (EXAMPLES["classes"], EXAMPLES["values"]):
        write_records(
            out, records, node="knn", params={}, inputs={}, started=0.0, decisions=decisions
        )
        back, manifest = read_records(out)
        assert back == records
        path = out.with_suffix(".parquet")
        assert read_decisions(path, manifest.facts["decisions"]).kind == decisions.kind
    path.write_bytes(EXAMPLES["confusion"].encoded())
    with pytest.raises(UserError, match=r"decisions of the digest .* was made of"):
        read_decisions(path, manifest.facts["decisions"])
    path.unlink()
    with pytest.raises(UserError, match=r"missing, but its record needs it .* again"):
        read_decisions(path, manifest.facts["decisions"])


def test_a_place_that_was_taken_meanwhile_keeps_what_it_has(tmp_path: Path) -> None:
    out = record(tmp_path / "knn.json")
    before = out.read_bytes()
    records, _ = read_records(out)
    (tmp_path / "knn.parquet").write_text("mine")
    with pytest.raises(UserError, match="holds no decisions"):
        write_records(
            out,
            records,
            node="knn",
            params={},
            inputs={},
            started=0.0,
            decisions=EXAMPLES["classes"],
        )
    assert out.read_bytes() == before
    assert (tmp_path / "knn.parquet").read_text() == "mine"
