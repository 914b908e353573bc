from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from steps.artifacts.manifest import ROOT
from steps.command import UserError
from steps.report import main
from tests.unit.reporting.synthetic import Synthetic, build


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Synthetic:
    monkeypatch.chdir(tmp_path)
    return build(tmp_path, methods=("random", "mae"), tasks=("knn", "linear"))


def _make(made: Synthetic) -> None:
    main(["--experiment", str(made.params), "--results", str(made.results), "--out", "reports/a"])


def test_make_check_and_explain(made: Synthetic, capsys: pytest.CaptureFixture[str]) -> None:
    _make(made)
    page = Path("reports/a/README.md").read_text()
    assert "| mae " in page
    assert str(Path.cwd()) not in page
    assert "--results results --out reports/a" in page
    shutil.rmtree(made.results)  # what follows reads the report's folder alone
    main(["--check", "reports/a"])
    main(["--explain", "reports/a/mae/vit_pico/linear/top1"])
    printed = capsys.readouterr().out
    assert "reports/a: README.md and results.csv follow from 10 records" in printed
    row = "results/pretrained/shapes/small/vit_pico/mae/seed0"
    assert f"record file      {row}/linear/shapes/features/linear.json" in printed


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_making_twice_changes_no_byte(made: Synthetic) -> None:
    _make(made)
    first = _contents(Path("reports/a"))
    _make(made)
    assert _contents(Path("reports/a")) == first
    assert "README.md" in first


def test_rendering_again_restores_what_follows_from_the_records(
    made: Synthetic, capsys: pytest.CaptureFixture[str]
) -> None:
    _make(made)
    first = _contents(Path("reports/a"))
    shutil.rmtree(made.results)
    page, figure = Path("reports/a/README.md"), Path("reports/a/curves.png")
    page.write_text(page.read_text().replace("mae", "another"))
    figure.unlink()
    main(["--render", "reports/a"])
    assert _contents(Path("reports/a")) == first
    assert capsys.readouterr().out == "reports/a: wrote README.md, curves.png\n"
    main(["--render", "reports/a"])
    assert capsys.readouterr().out == "reports/a: nothing to change\n"


def test_a_missing_record_writes_nothing(made: Synthetic) -> None:
    made.file("mae", "linear").unlink()
    with pytest.raises(UserError, match=r"mae/seed0/linear/shapes/features/linear\.json: missing"):
        _make(made)
    assert not Path("reports").exists()


def test_no_results_folder_is_named(made: Synthetic) -> None:
    shutil.rmtree(made.results)
    with pytest.raises(UserError, match="results: no such results folder"):
        _make(made)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--out", "a"],
        ["--check", "a", "--explain", "b"],
        ["--check", "a", "--out", "b"],
        ["--check", "a", "--render", "a"],
    ],
)
def test_half_a_command_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_the_command_ends_with_one_line_and_status_2(made: Synthetic) -> None:
    _make(made)
    page = Path("reports/a/README.md")
    page.write_text(page.read_text().replace("Generative", "Contrastive"))
    command = [sys.executable, "-m", "steps.report", "--check", str(page.parent.resolve())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "README.md: differs from its records, first in line" in done.stderr
    assert done.stderr.count("\n") == 1
