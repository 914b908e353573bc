"""Reports of seeds that ran apart make the report that all seeds together would have made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

from steps import report
from steps.command import UserError
from steps.reporting.check import check_report
from steps.reporting.collect import collect
from steps.reporting.merge import merge_reports
from steps.reporting.pictures import pictures_json, read_pictures
from steps.reporting.render import write_report
from tests.unit.reporting.made_decisions import decided
from tests.unit.reporting.synthetic import Synthetic, build

PRINTED = "reports/made_up"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Three methods on two backbones, three seeds, and a task that one method alone has."""
    return build(
        tmp_path_factory.mktemp("whole"),
        methods=("random", "mae", "clip"),
        backbones=("vit_pico", "vit_nano"),
        seeds=(0, 1, 2),
        tasks=("linear", "knn", "zeroshot"),
        text_methods=("clip",),
    )


def written(made: Synthetic, seeds: Sequence[int], folder: Path) -> Path:
    """The report of some of the seeds."""
    heading = made.heading.model_copy(update={"seeds": tuple(seeds)})
    write_report(decided(collect(heading, made.paths)), folder)
    return folder


@pytest.fixture(scope="module")
def originals(whole: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of the seeds 1 and 2, and of seed 0."""
    root = tmp_path_factory.mktemp("originals")
    written(whole, (1, 2), root / "late")
    written(whole, (0,), root / "early")
    return root


@pytest.fixture
def parts(originals: Path, tmp_path: Path) -> list[Path]:
    """The same, for a test to damage."""
    return [shutil.copytree(originals / name, tmp_path / name) for name in ("late", "early")]


def test_it_is_the_report_of_all_seeds(whole: Synthetic, parts: list[Path], tmp_path: Path) -> None:
    wanted = written(whole, (0, 1, 2), tmp_path / "wanted")
    said = merge_reports(parts, tmp_path / "out", PRINTED)
    assert said == f"{tmp_path / 'out'}: seeds 0, 1, 2, of 2 reports"
    files = {path.relative_to(wanted) for path in wanted.rglob("*") if path.is_file()}
    assert len(files) >= 9
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (wanted / name).read_bytes(), name
    check_report(tmp_path / "out")


def test_a_seed_is_added_to_a_report_in_its_place(parts: list[Path]) -> None:
    later, first = parts
    merge_reports([first, later], first, PRINTED)
    assert json.loads((first / "report.json").read_text())["seeds"] == [0, 1, 2]
    check_report(first)
    with pytest.raises(UserError, match="has seed 1, as"):
        merge_reports([first, later], first, PRINTED)


def test_pictures_are_those_of_the_first_seed(parts: list[Path], tmp_path: Path) -> None:
    committed = Path(__file__).parents[3] / "reports/quickstart"
    listed = read_pictures(committed)[:1]
    for folder in parts:
        (folder / "pictures.json").write_bytes(pictures_json(listed))
        shutil.copy(committed / "pictures" / listed[0].file, folder / "pictures")
    (parts[0] / "pictures" / listed[0].file).write_bytes(b"of a later seed, and never read")
    merge_reports(parts, tmp_path / "out", PRINTED)
    assert read_pictures(tmp_path / "out") == listed
    check_report(tmp_path / "out")


def _spec(folder: Path, **changed: object) -> None:
    path = folder / "report.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def _lines(folder: Path, edit: Callable[[dict[str, dict[str, object]]], None]) -> None:
    path = folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        edit(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _of_other_images(folder: Path) -> None:
    for name in ("decisions.parquet", "images.parquet"):
        frame = pl.read_parquet(folder / name)
        frame.with_columns(pl.col("images") + "0").write_parquet(folder / name)


def _without_decisions(folder: Path) -> None:
    for name in ("decisions.parquet", "images.parquet"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda folder: _spec(folder, question="Another?"), "report.json: question"),
        (lambda folder: _spec(folder, trials={"mae": 2}), "report.json: trials"),
        (
            lambda folder: _lines(folder, lambda line: line["pretrained"]["params"].update(lr=2)),
            "random/vit_pico: other params of pretraining than in",
        ),
        (
            lambda folder: _lines(
                folder, lambda line: line["pretrained"]["inputs"].update(data="1")
            ),
            "random/vit_pico: other images of pretraining than in",
        ),
        (
            lambda folder: _lines(folder, lambda line: line["measured"]["params"].update(k=3)),
            "linear/linear: other params than in",
        ),
        (
            lambda folder: _lines(folder, lambda line: line["measured"]["inputs"].update(data="1")),
            "linear/linear: other images than in",
        ),
        (_of_other_images, "linear/linear: other images that were decided than in"),
        (
            _without_decisions,
            "linear/linear: other images that were decided than in",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    damage: Callable[[Path], object], found: str, parts: list[Path], tmp_path: Path
) -> None:
    damage(parts[1])
    with pytest.raises(UserError) as refused:
        merge_reports(parts, tmp_path / "out", PRINTED)
    assert found in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_through_the_command(parts: list[Path], tmp_path: Path) -> None:
    arguments = ["--merge", *map(str, parts), "--out", str(tmp_path / "out")]
    report.main(arguments)
    assert check_report(tmp_path / "out")
    with pytest.raises(UserError, match="two reports or more"):
        report.main(["--merge", str(parts[0]), str(parts[0]), "--out", str(tmp_path / "out")])
    for wrong in (arguments[:-2], [*arguments, "--check", str(parts[0])]):
        with pytest.raises(SystemExit):
            report.main(wrong)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(UserError, match=r"no report, and it holds thesis\.tex"):
        report.main([*arguments[:-1], str(tmp_path / "mine")])
