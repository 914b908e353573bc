from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from steps.params.budget import Budget
from steps.reporting.published.carries import carries_section, medians
from steps.reporting.published.data import (
    MATCHING,
    RANKING,
    RESULTS,
    read_published,
    reports_beside,
)
from steps.reporting.source import CURVES, HEADING, RECORDS, Source
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
    assert "linear top1" in rows[0]
    assert "supervised" not in section
    assert "clip" not in section


def test_rows_of_a_budget_are_their_methods(tmp_path: Path) -> None:
    """Their names in records hold the budget, and in tables they do not."""
    source = next(iter(reports_beside(_folder(tmp_path, "all_methods")).values()))
    published = read_published(PUBLISHED)
    free = {"random", "random_beit"}
    names = {
        name: name if name in free else f"{name.partition('-')[0]}-9tflops"
        for name in source.heading.methods
    }
    changes = {"budget": Budget(tflops=9), "methods": tuple(names.values())}
    heading = source.heading.model_copy(update=changes)
    traced = []
    for item in source.traced:
        records = [each.model_copy(update={"recipe": names[each.recipe]}) for each in item.records]
        traced.append(item.model_copy(update={"records": tuple(records)}))
    within = Source(heading, traced, source.curves)
    said = carries_section(published, [within])
    assert len(said) > 1
    assert any("mae" in line for line in said)
    plain = Source(source.heading, source.traced, source.curves)
    if source.heading.budget is None:
        assert said == carries_section(published, [plain])


def test_fewer_methods_say_nothing(tmp_path: Path) -> None:
    assert _section(_folder(tmp_path, "quickstart")) == []
