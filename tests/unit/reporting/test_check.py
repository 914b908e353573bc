from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from steps.command import UserError
from steps.reporting.check import LEVELS, check_report
from steps.reporting.figures import DRAWN_WITH
from steps.reporting.render import write_report
from tests.unit.reporting.synthetic import Synthetic


@pytest.fixture(scope="module")
def written(single: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(single.source(), out)
    return out


@pytest.fixture
def report(written: Path, tmp_path: Path) -> Path:
    shutil.copytree(written, tmp_path / "report")
    return tmp_path / "report"


def _redraw(
    path: Path, drawn_with: str | None = None, *, dot: tuple[int, ...] | None = None
) -> None:
    with Image.open(path) as image:
        image.load()
        text = PngInfo()
        text.add_text(DRAWN_WITH, drawn_with or image.info[DRAWN_WITH])
        if dot is not None:
            image.putpixel((100, 100), dot)
        image.save(path, pnginfo=text)


def test_a_report_follows_from_its_records(report: Path) -> None:
    said = check_report(report)
    assert "follow from 40 records, and so do 2 pictures" in said


@pytest.mark.parametrize("name", ["README.md", "results.csv"])
def test_an_edited_text_is_named_with_its_line(report: Path, name: str) -> None:
    lines = (report / name).read_text().splitlines(keepends=True)
    lines[2] = lines[2].upper() + "\n"
    (report / name).write_text("".join(lines))
    with pytest.raises(UserError, match=rf"{name}: differs from its records, first in line 3"):
        check_report(report)


def test_edited_line_ends_are_seen(report: Path) -> None:
    text = (report / "README.md").read_bytes()
    (report / "README.md").write_bytes(text.replace(b"\n", b"\r\n"))
    with pytest.raises(UserError, match="line ends"):
        check_report(report)


def test_an_edited_record_is_seen_by_its_digest(report: Path) -> None:
    text = (report / "records.jsonl").read_text()
    assert '"value": 64.2' in text
    (report / "records.jsonl").write_text(text.replace('"value": 64.2', '"value": 84.2'))
    with pytest.raises(
        UserError, match=r"mae/seed0/knn/shapes/features/knn\.json.*not those that the step wrote"
    ):
        check_report(report)


def test_the_same_pixels_otherwise_compressed_pass(report: Path) -> None:
    before = (report / "ranking.png").read_bytes()
    _redraw(report / "ranking.png")
    assert (report / "ranking.png").read_bytes() != before
    assert "2 pictures" in check_report(report)


def test_one_changed_pixel_is_seen(report: Path) -> None:
    _redraw(report / "ranking.png", dot=(1, 2, 3, 255))
    with pytest.raises(UserError, match=r"ranking\.png: differs in its pixels"):
        check_report(report)


@pytest.mark.parametrize(("levels", "same"), [(LEVELS, True), (LEVELS + 1, False)])
def test_the_shade_of_an_edge_may_differ_by_a_little(levels: int, same: bool, report: Path) -> None:
    """As it does between processors."""
    path = report / "ranking.png"
    with Image.open(path) as image:
        red, *others = image.getpixel((100, 100))
    _redraw(path, dot=(red - levels, *others))
    if same:
        check_report(report)
    else:
        with pytest.raises(UserError, match=r"ranking\.png: differs in its pixels"):
            check_report(report)


def test_pictures_of_another_matplotlib_are_skipped_and_said_so(report: Path) -> None:
    for name in ("ranking.png", "curves.png"):
        _redraw(report / name, "matplotlib 1.0", dot=(1, 2, 3, 255))
    said = check_report(report)
    assert "not compared: ranking.png (drawn with matplotlib 1.0" in said
    assert "and so do" not in said


@pytest.mark.parametrize("name", ["README.md", "results.csv", "ranking.png", "curves.png"])
def test_a_missing_file_is_named(report: Path, name: str) -> None:
    (report / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing"):
        check_report(report)


def test_what_is_not_a_picture_is_named(report: Path) -> None:
    whole = (report / "curves.png").read_bytes()
    for content in (b"not a picture", whole[: len(whole) // 2]):
        (report / "curves.png").write_bytes(content)
        with pytest.raises(UserError, match=r"curves\.png: not a whole picture"):
            check_report(report)
