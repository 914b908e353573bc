"""Pictures on a page: which are taken, how small they are made, and what a check refuses."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steps.artifacts import publish
from steps.command import UserError
from steps.reporting.check import check_report
from steps.reporting.pictures import (
    FOLDER,
    KINDS,
    LIMIT,
    PICTURES,
    check_pictures,
    collect_pictures,
    gallery,
    read_pictures,
    reduced,
)
from steps.reporting.render import write_report
from steps.reporting.source import ReportSpec
from tests.unit.reporting.synthetic import Synthetic, build

LAYOUT = "layout/shapes_scenes/layout_128"


def png(noise: int = 0, side: int = 64) -> bytes:
    """A picture of one colour, or of noise."""
    pixels = np.full((side, side, 3), 90, dtype=np.uint8)
    if noise:
        pixels = np.random.default_rng(noise).integers(0, 256, pixels.shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def draw(folder: Path, node: str, of: Path, role: str = "backbone", **pictures: bytes) -> None:
    """A folder of pictures as a step publishes it."""
    with publish(folder, node=node, params={}, inputs={role: of}, seed=0) as draft:
        for name, content in pictures.items():
            (draft.path / f"{name}.png").write_bytes(content)
        draft.facts.update(pixel_error=0.01234, head=2, size=128)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Synthetic, ReportSpec]:
    """MAE's and DINO's layout, and MAE's reconstructions; beside them a seed and a task untold."""
    made = build(tmp_path, methods=("random", "mae", "dino"), seeds=(0, 1), tasks=("knn",))
    tasks = {**made.heading.tasks, "layout": ("layout", "layout_128"), "detect": ("small",)}
    for recipe in ("random", "mae", "dino"):
        for seed in (0, 1):
            row = made.row(recipe, seed)
            draw(row / LAYOUT, "layout", row / "backbone", layout=png())
    row = made.row("mae")
    draw(row / "diagnose/shapes", "diagnose", row / "backbone", reconstructions=png(), other=png())
    return made, made.heading.model_copy(update={"tasks": tasks})


def test_the_chosen_methods_pictures_of_the_first_seed(made: tuple[Synthetic, ReportSpec]) -> None:
    synthetic, heading = made
    pictures, content = collect_pictures(heading, synthetic.paths, ["dino", "mae"])
    assert [picture.file for picture in pictures] == [
        "dino-layout_128-layout.png",
        "mae-layout_128-layout.png",
        "mae-other.png",
        "mae-reconstructions.png",
    ]
    assert {picture.seed for picture in pictures} == {0}
    assert content.keys() == {picture.file for picture in pictures}
    assert pictures[0].kind == ("layout", "layout.png")
    assert collect_pictures(heading, synthetic.paths, []) == ([], {})


def test_a_tokenizers_pictures_follow_the_method_that_reads_it(
    made: tuple[Synthetic, ReportSpec],
) -> None:
    synthetic, heading = made
    tokenizer = synthetic.results / "tokenizers/shapes/small/dalle/seed0/tokenizer"
    with publish(tokenizer, node="tokenizer", params={}, inputs={}, seed=0) as draft:
        (draft.path / "config.json").write_text("{}")
        draft.facts["tokenizer"] = "dalle"
    drawn = tokenizer.parent / "diagnose"
    draw(drawn, "diagnose", tokenizer, role="tokenizer", codebook=png())
    assert len(collect_pictures(heading, synthetic.paths, ["dino"])[0]) == 1
    backbone = synthetic.row("dino") / "backbone"
    with publish(
        backbone, node="pretrain", params={}, inputs={"tokenizer": tokenizer}, seed=0
    ) as draft:
        (draft.path / "config.json").write_text("{}")
    row = backbone.parent
    draw(row / LAYOUT, "layout", backbone, layout=png())
    pictures, _ = collect_pictures(heading, synthetic.paths, ["dino"])
    assert [picture.file for picture in pictures] == [
        "dino-layout_128-layout.png",
        "dalle-codebook.png",
    ]
    assert pictures[1].kind == ("tokenizer", "codebook.png")


def test_a_picture_of_another_backbone_is_refused(made: tuple[Synthetic, ReportSpec]) -> None:
    synthetic, heading = made
    row = synthetic.row("mae")
    with publish(row / "backbone", node="pretrain", params={}, inputs={}, seed=0) as draft:
        (draft.path / "config.json").write_text("another")
    with pytest.raises(UserError, match=r"layout_128: drawn of the backbone .* is now"):
        collect_pictures(heading, synthetic.paths, ["mae"])


def test_a_page_with_pictures_follows_from_its_list(
    made: tuple[Synthetic, ReportSpec], tmp_path: Path
) -> None:
    synthetic, heading = made
    report = tmp_path / "report"
    collected = collect_pictures(heading, synthetic.paths, ["mae", "dino"])
    write_report(synthetic.source(), report, *collected)
    assert "4 pictures of methods as listed" in check_report(report)
    page = (report / "README.md").read_text()
    assert "### Where the class token looks\n" in page
    assert "| mae " in page.split("## Pictures")[1]
    assert f"![Reconstructions: mae]({FOLDER}/mae-reconstructions.png)" in page
    assert "- mae: `pixel_error` 0.0123.\n" in page
    assert "other.png" not in page  # of no kind that a page knows
    assert read_pictures(report) == tuple(collected[0])
    write_report(synthetic.source(), report)
    assert list((report / FOLDER).iterdir()) == []
    assert "Pictures" not in (report / "README.md").read_text()
    check_report(report)


@pytest.mark.parametrize("damage", ["missing", "changed", "extra"])
def test_a_check_names_what_is_wrong(
    damage: str, made: tuple[Synthetic, ReportSpec], tmp_path: Path
) -> None:
    synthetic, heading = made
    report = tmp_path / "report"
    pictures, content = collect_pictures(heading, synthetic.paths, ["dino"])
    write_report(synthetic.source(), report, pictures, content)
    path = report / FOLDER / pictures[0].file
    if damage == "missing":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(png(noise=1))
    else:
        path.with_name(".snakemake_timestamp").touch()
        check_report(report)  # an engine's own mark is no picture
        path.with_name("extra.png").write_bytes(png())
    message = {
        "missing": r"layout\.png: missing",
        "changed": rf"layout\.png: differs from its digest in {PICTURES}",
        "extra": rf"extra\.png: not in {PICTURES}",
    }
    with pytest.raises(UserError, match=message[damage]):
        check_pictures(report, pictures)
    with pytest.raises(UserError, match=message[damage]):
        check_report(report)


def test_a_report_without_a_list_has_no_pictures(tmp_path: Path) -> None:
    assert read_pictures(tmp_path) == ()
    assert gallery(()) == []


def test_a_list_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / PICTURES).write_text('[{"file": 1}]')
    with pytest.raises(UserError, match=r"pictures\.json: not what a report holds"):
        read_pictures(tmp_path)


def test_pictures_are_made_small() -> None:
    suffix, small = reduced(png())
    assert suffix == ".png"
    assert len(small) < len(png())
    with Image.open(io.BytesIO(small)) as image:
        assert image.convert("RGB").getpixel((5, 5)) == (90, 90, 90)
    noise = png(noise=1, side=512)
    suffix, small = reduced(noise)
    assert suffix == ".jpg"
    assert len(small) <= LIMIT < len(noise)
    suffix, small = reduced(png(noise=1, side=900))
    assert suffix == ".jpg"
    assert len(small) <= LIMIT
    with Image.open(io.BytesIO(small)) as image:
        assert image.width < 900


def test_side_by_side_are_three_at_most(made: tuple[Synthetic, ReportSpec]) -> None:
    synthetic, heading = made
    picture = collect_pictures(heading, synthetic.paths, ["dino"])[0][0]
    five = [picture.model_copy(update={"recipe": f"m{number}"}) for number in range(5)]
    rows = [line for line in "\n".join(gallery(five)).splitlines() if line.startswith("| m")]
    assert [line.count(" m") for line in rows] == [3, 2]
    text = "\n".join(gallery(five, lambda name: name.replace("m", "method")))
    assert "method3" in text
    assert "| m3" not in text


def test_pictures_that_differ_in_protocol_say_so(made: tuple[Synthetic, ReportSpec]) -> None:
    synthetic, heading = made
    picture = collect_pictures(heading, synthetic.paths, ["dino"])[0][0]
    other = picture.model_copy(update={"protocol": "layout"})
    text = "\n".join(gallery([picture, other]))
    assert "| dino, layout_128 " in text
    assert "| dino, layout " in text


def test_every_kind_has_a_title_of_its_own_within_its_step() -> None:
    titles = [title for title, _ in KINDS.values()]
    assert len(set(titles)) == len(titles)


def test_numbers_of_a_folder_are_told_once(made: tuple[Synthetic, ReportSpec]) -> None:
    synthetic, heading = made
    pictures, _ = collect_pictures(heading, synthetic.paths, ["mae"])
    (drawn,) = [each for each in pictures if each.kind == ("diagnose", "reconstructions.png")]
    other = drawn.model_copy(update={"name": "positions.png", "file": "positions.png"})
    text = "\n".join(gallery([drawn, other]))
    assert text.count("`pixel_error` 0.0123") == 1
    assert "### Position errors on images\n" in text
