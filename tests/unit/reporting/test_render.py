from __future__ import annotations

from pathlib import Path

import pytest

from steps.reporting.render import write_report
from tests.unit.reporting.synthetic import Synthetic, build

PICTURES = "pictures"
FILES = {
    "README.md",
    "curves.csv",
    "curves.png",
    "decisions.parquet",
    "images.parquet",
    "pictures.json",
    "ranking.png",
    "records.jsonl",
    "report.json",
    "results.csv",
}


def test_same_records_give_the_same_bytes(single: Synthetic, tmp_path: Path) -> None:
    write_report(single.source(), tmp_path / "a")
    write_report(single.source(), tmp_path / "b")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {*FILES, PICTURES}
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_older_files_are_replaced_and_engines_get_every_file(tmp_path: Path) -> None:
    out = tmp_path / "report"
    write_report(build(tmp_path / "older").source(), out)
    older = {name: (out / name).read_bytes() for name in FILES}
    (out / PICTURES / "mae-reconstructions.png").write_text("old")
    untrained = build(tmp_path / "newer", methods=("random",), tasks=("knn",))
    write_report(untrained.source(), out)
    assert {path.name for path in out.iterdir()} == {*FILES, PICTURES}
    assert "curves.png" not in (out / "README.md").read_text()
    same = {name for name, content in older.items() if (out / name).read_bytes() == content}
    assert not same & {"README.md", "results.csv", "records.jsonl", "ranking.png"}, same
    assert list((out / PICTURES).iterdir()) == []


def test_a_failed_write_leaves_the_older_file_whole(
    single: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report"
    write_report(single.source(), out)
    older = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full_disk(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_report(single.source(), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == older
