from __future__ import annotations

import re
from pathlib import Path

import pytest

from steps.command import UserError
from steps.report import main
from steps.reporting.published.data import RANKING, RESULTS, read_published
from steps.reporting.published.page import check_published, sources, write_published
from steps.reporting.tables import ABSENT
from tests.unit.reporting.published.conftest import COCO, IMAGENET, PUBLISHED, Add

MAE = "[arXiv:2111.06377](https://arxiv.org/abs/2111.06377)"


def _rows(folder: Path, heading: str) -> list[list[str]]:
    """The cells of the table under a heading of the page."""
    write_published(folder)
    text = (folder / "README.md").read_text().split(f"## {heading}\n")[1]
    # A mark stays on its number's line.
    assert not re.search(r"\d [□○●◐]", text)
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    lines = text[text.index("| ") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_ranking_stands_as_it_was_given(folder: Path) -> None:
    given = [
        [row["model"], row["type"], row["scale"], f"{row['score']} □", row["epoch"]]
        for row in read_published(folder).ranking.iter_rows(named=True)
    ]
    assert [row[1:6] for row in _rows(folder, "ImageNet-1K")] == given
    assert len(given) == 11


def test_a_figure_that_differs_has_its_source(folder: Path) -> None:
    rows = _rows(folder, "ImageNet-1K")
    assert rows[1][6:8] == [
        "85.9 ○",
        "[arXiv:2111.06377](https://arxiv.org/abs/2111.06377) Table 3",
    ]
    assert rows[6][7].startswith("[mmpretrain: metafile.yml]")  # the paper has no 800 epochs
    assert rows[8][6] == "85.8 ○"
    assert rows[8][7].startswith("[DropPos: README.md](https://github.com/Haochen-Wang409/DropPos/")
    assert rows[3][6:8] == ["=", ""]


def test_a_measured_number_has_its_own_column_and_mark(folder: Path, add: Add) -> None:
    add(IMAGENET, {**COCO, "epochs": 1600.0})
    rows = _rows(folder, "ImageNet-1K")
    assert [row[-1] for row in rows] == [ABSENT] * 6 + ["83.4 ●"] + [ABSENT] * 4
    assert not any("●" in cell for row in rows for cell in row[:-1])
    boxes = {row[-2] for row in _rows(folder, "COCO Detection")}
    assert boxes == {ABSENT, "51.4 ●", "51.4 ● (1600 epochs)"}


def test_other_epochs_are_said(folder: Path, add: Add) -> None:
    add({**IMAGENET, "epochs": 300.0})
    assert _rows(folder, "ImageNet-1K")[6][-1] == "83.4 ● (300 epochs)"


def test_the_authors_weights_have_another_mark(folder: Path, add: Add) -> None:
    add({**IMAGENET, "epochs": 0.0}, official={"mae.pth": "f" * 64})
    assert _rows(folder, "ImageNet-1K")[6][-1] == "83.4 ◐"


def test_a_collapsed_run_is_marked(folder: Path, add: Add) -> None:
    add(IMAGENET, collapsed=True)
    assert _rows(folder, "ImageNet-1K")[6][-1] == "83.4 ● †"


def test_doubtful_figures_are_left_out(folder: Path) -> None:
    assert not any(row[1] == "DropPos" for row in _rows(folder, "COCO Detection"))
    assert "Left out: 1 figure of DropPos" in (folder / "README.md").read_text()


def test_box_and_mask_of_one_source_stand_in_one_row(folder: Path) -> None:
    rows = _rows(folder, "COCO Detection")
    values = {(row[2], row[3], row[5], row[6]) for row in rows if row[1] == "iBOT"}
    assert ("Combined", "ViT-B", "51.2 ○", "44.2 ○") in values
    figures = read_published(folder).coco.select("box", "mask").count().sum_horizontal().item()
    text = (folder / RESULTS).read_text()
    assert figures == text.count("coco_box_ap") + text.count("coco_mask_ap") - 1


def test_check_sees_a_new_record_and_an_edit(folder: Path, add: Add) -> None:
    write_published(folder)
    assert "605 published figures" in check_published(folder)
    add(IMAGENET)
    with pytest.raises(UserError, match=r"README\.md: differs .* first in line"):
        check_published(folder)
    write_published(folder)
    check_published(folder)
    (folder / RANKING).write_text((folder / RANKING).read_text().replace("85.7,1600", "85.8,1600"))
    with pytest.raises(UserError, match="differs"):
        check_published(folder)


def test_the_committed_page_follows_from_its_data() -> None:
    check_published(PUBLISHED)


@pytest.mark.parametrize(
    ("ref", "link"),
    [
        (
            "arXiv:2111.06377 Table 3",
            "[arXiv:2111.06377](https://arxiv.org/abs/2111.06377) Table 3",
        ),
        ("a/b:c/D.md@012ab", "[a/b: c/D.md](https://github.com/a/b/blob/012ab/c/D.md)"),
        ("a/b:D.md", "a/b:D.md"),
    ],
)
def test_sources_are_links(ref: str, link: str) -> None:
    assert sources(ref) == link
    assert sources(f"{ref}; {ref}") == f"{link}; {link}"


def test_a_row_that_cannot_be_read_is_named(folder: Path) -> None:
    text = (folder / RESULTS).read_text()
    (folder / RESULTS).write_text(text.replace(",51.3,percent", ",fifty,percent", 1))
    with pytest.raises(UserError, match=r"results\.csv: line 2: value"):
        read_published(folder)


def test_a_new_detector_must_be_named(folder: Path) -> None:
    text = (folder / RESULTS).read_text()
    (folder / RESULTS).write_text(text.replace('"Cascade Mask R-CNN, 1x', '"HTC, 1x', 1))
    with pytest.raises(UserError, match="begins like no detector's"):
        read_published(folder)


def test_explain_traces_both_kinds(
    folder: Path, add: Add, capsys: pytest.CaptureFixture[str]
) -> None:
    add(IMAGENET)
    main(["--explain", str(folder / "imagenet/7/audited")])
    audited = capsys.readouterr().out
    assert "results.csv, line 408" in audited
    assert "open-mmlab/mmpretrain:configs/mae/metafile.yml@ee7f2e8850" in audited
    assert "independent re-training" in audited
    main(["--explain", str(folder / "imagenet/7/measured")])
    measured = capsys.readouterr().out
    assert "mae / vit_b16 / finetune / seed 0" in measured
    assert "record file      results/made_up/0.json" in measured
    assert "commit         cccc" in measured
    main(["--explain", str(folder / "coco/1/mask")])
    assert "published: 52.0 percent, coco_mask_ap" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("imagenet/12", "no row 12 | allowed: imagenet/1 to imagenet/11"),
        ("imagenet/1/box", "no cell box | allowed: score, audited, measured"),
        ("ade20k/1", "no cell of the published tables"),
    ],
)
def test_an_unknown_cell_is_named(folder: Path, cell: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        main(["--explain", str(folder / cell)])
    assert message in str(raised.value)
