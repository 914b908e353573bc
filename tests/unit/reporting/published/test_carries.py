from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from steps.reporting.published.carries import carries_section, medians
from steps.reporting.published.data import (
    MATCHING,
    RANKING,
    RESULTS,
    read_published,
    reports_beside,
)
from steps.reporting.source import CURVES, HEADING, RECORDS
from tests.processes import REPOSITORY

PUBLISHED = REPOSITORY / "reports" / "published"


def _folder(root: Path, *reports: str) -> Path:
    """The published figures beside copies of these reports."""
    folder = root / "published"
    folder.mkdir(parents=True)
    for name in (RESULTS, RANKING, MATCHING):
        shutil.copy(PUBLISHED / name, folder / name)
    for report in reports:
        (root / report).mkdir()
        for name in (HEADING, RECORDS, CURVES):
            shutil.copy(PUBLISHED.parent / report / name, root / report / name)
    return folder


def _section(folder: Path) -> list[str]:
    return carries_section(read_published(folder), reports_beside(folder).values())


@pytest.mark.parametrize(
    ("method", "expected"),
    [("mae", 83.6), ("droppos", 84.2), ("mocov3", 83.2), ("clip", None), ("mp3", None)],
)
def test_a_published_figure_is_the_median_after_the_most_epochs(
    method: str, expected: float | None
) -> None:
    published = read_published(PUBLISHED)
    assert medians(published, published.matching.carries[0]).get(method) == expected


def test_a_report_of_six_methods_is_held_against_the_published_order(tmp_path: Path) -> None:
    section = "\n".join(_section(_folder(tmp_path, "all_methods")))
    rows = [line for line in section.splitlines() if line.startswith("| `reports/all_methods`")]
    assert rows
    assert "finetune top1" in rows[0]
    assert "supervised" not in section
    assert "clip" not in section


def test_fewer_methods_say_nothing(tmp_path: Path) -> None:
    assert _section(_folder(tmp_path, "quickstart")) == []
