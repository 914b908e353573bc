"""A page of a budget: what rows may use, once, and what each used."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.command import UserError
from steps.params.budget import Budget
from steps.params.experiment import Experiment
from steps.reporting.collect import collect
from steps.reporting.explain import explain, file_text
from steps.reporting.markdown import budget_note, page
from steps.reporting.source import (
    ReportSpec,
    ScaledRow,
    Source,
    make_source,
    read_source,
    source_files,
)
from steps.reporting.summary import summarize
from steps.reporting.tables import ranking_table
from tests.unit.reporting.synthetic import build

BEHIND = {"flops": 1.155e13, "images_seen": 50_000, "device_seconds": 60.0}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Random weights, MAE of 23.45 TFLOPs, and DINO of as many behind which others stand."""
    made = build(tmp_path, methods=("random", "mae", "dino"), tasks=("knn",))
    source = collect(made.heading, made.paths)
    heading = made.heading.model_copy(update={"budget": Budget(tflops=35)})
    traced = [
        item.model_copy(update={"behind": BEHIND, "elsewhere": ("dalle",)})
        if item.records[0].recipe == "dino"
        else item
        for item in source.traced
    ]
    return make_source(heading, traced, source.curves)


def test_a_row_shows_what_it_used_with_all_behind_it(source: Source) -> None:
    table = ranking_table(summarize(source.records()), source.heading)
    assert table.columns[-3:] == ["Images seen", "TFLOPs", "Device time"]
    rows = {row[0]: row[-3:] for row in table.rows}
    assert rows == {
        "random": ["0", "0", "0 s"],
        "mae": ["200,000", "23.4", "2 min 05 s"],
        "dino": ["250,000", "35.0", "3 min 05 s"],
    }


def test_the_budget_stands_once_above(source: Source) -> None:
    summary = summarize(source.records())
    (note,) = budget_note(source, summary)
    assert note in page(source, summary, with_curves=False)
    assert note.startswith("**Equal compute: 35 TFLOPs per row.**")
    assert "together get a third of the budget" in note
    # MAE has two thirds of what it may have: the page does not hide it.
    assert "Every row is within 33.0 % of it." in note
    assert "The training of weights from elsewhere is not counted: dalle behind dino." in note
    images = source.heading.model_copy(update={"budget": Budget(images=250_000, behind=0.2)})
    (note,) = budget_note(Source(images, source.traced, source.curves), summary)
    assert note.startswith("**Equal images: 250000 images per row.**")
    assert "together get 20 % of the budget" in note
    assert "Every row is within 20.0 % of it." in note


def test_no_budget_no_note(source: Source) -> None:
    heading = source.heading.model_copy(update={"budget": None})
    own = [item.model_copy(update={"elsewhere": ()}) for item in source.traced]
    assert budget_note(Source(heading, own, source.curves), source.records()) == []
    # Weights that a row starts from are named without a budget too.
    (note,) = budget_note(Source(heading, source.traced, source.curves), source.records())
    assert note == "The training of weights from elsewhere is not counted: dalle behind dino.\n"


def test_it_is_read_back_and_explained(source: Source, tmp_path: Path) -> None:
    for name, content in source_files(source).items():
        (tmp_path / name).write_bytes(content)
    again = read_source(tmp_path)
    assert again.heading.budget == Budget(tflops=35)
    assert again.records().equals(source.records())
    dino = next(item for item in again.traced if item.behind)
    text = file_text("results", dino, list(dino.records))
    assert "behind it        11.6 TFLOPs, 1 min 00 s (teacher and tokenizer)" in text
    # A cell is named as the tables name its row, or as the results do.
    record = dino.records[0]
    cell = f"{record.backbone}/{record.task}"
    assert explain(tmp_path / "dino" / cell) == explain(tmp_path / record.recipe / cell)
    with pytest.raises(UserError, match=f"no such cell .*did you mean .*/dino/{cell}"):
        explain(tmp_path / "dina" / cell)


def test_names_leave_the_budget_out_unless_there_are_several(source: Source) -> None:
    heading = source.heading
    assert heading.shown("mae-35tflops") == "mae"
    assert heading.shown("random") == "random"
    scaling = {"mae-35tflops": ScaledRow(recipe="mae", length=1, data_share=1)}
    assert heading.model_copy(update={"scaling": scaling}).shown("mae-35tflops") == "mae-35tflops"


def test_a_study_of_scale_within_a_budget() -> None:
    content = {
        "title": "Scale",
        "question": "?",
        "dataset": "shapes",
        "regime": "small",
        "methods": ["mae", "dino"],
        "budget": {"tflops": 36},
        "scaling": {"methods": ["mae"], "lengths": [0.25, 1]},
        "backbones": ["vit_pico"],
        "seeds": [0],
        "tasks": {"knn": ["knn"]},
    }
    study = ReportSpec.of(
        Experiment.model_validate(content), experiment="", results="", out=""
    ).scaling
    assert {name: row.length for name, row in study.items()} == {
        "mae-9tflops": 0.25,
        "mae-36tflops": 1,
    }
