"""The section on scale, from made-up records whose laws are known, and the page that holds it."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from steps.command import UserError
from steps.params.budget import Budget
from steps.reporting.check import check_report
from steps.reporting.render import render_figures, render_tables, write_report
from steps.reporting.scaling import study as runs_of
from steps.reporting.scaling.section import scaling_section
from steps.reporting.source import Evaluation, ScaledRow
from steps.reporting.summary import summarize
from tests.unit.reporting.synthetic import Synthetic, build

LINEAR = Evaluation("linear", "linear")


def _table(text: str, title: str) -> list[list[str]]:
    """The cells of the table below a heading, its head first."""
    _, _, rest = text.partition(f"### {title}\n")
    lines = re.findall(r"^\|.*\|$", rest.partition("\n### ")[0], re.M)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _section(study: Synthetic) -> str:
    source = study.source()
    return "\n".join(scaling_section(summarize(source.records()), source.heading))


def test_runs_have_their_axes(study: Synthetic) -> None:
    source = study.source()
    runs = runs_of.runs(summarize(source.records()), source.heading, LINEAR)
    assert runs.height == 2 * 3 * 2 * 2
    run = runs.filter(row="mae-x0.5-d25", backbone="vit_nano").row(0, named=True)
    assert run["method"] == "mae"
    assert run["flops"] == pytest.approx(2.345e13 / 8 * 4)
    assert (run["images"], run["epochs"], run["data_share"]) == (1000, 25, 0.25)
    assert run["size"] == pytest.approx(4 * 2.345e13 / 200_000)
    assert run["score"] + run["error"] == pytest.approx(100)
    assert runs["flops"].is_sorted()
    # Top-1 of the random rows: 21.3 and 4 by the task, 2 more on the larger backbone.
    floor = runs_of.floor(summarize(source.records()), source.heading, LINEAR)
    assert floor == pytest.approx(100 - 27.3)


def test_what_the_tables_say(study: Synthetic) -> None:
    text = _section(study)
    fits = _table(text, "Error against compute")
    assert [row[:2] for row in fits[2:]] == [
        ["knn top1", "mae"],
        ["knn top1", "dino"],
        ["linear top1", "mae"],
        ["linear top1", "dino"],
    ]
    axes = {tuple(row[:2]): row for row in _table(text, "What each axis buys")[2:]}
    # Images and epochs enter the made-up scores alike.
    images, epochs = (axes["linear top1", "mae"][place] for place in (3, 4))
    assert float(images.split()[0]) == pytest.approx(float(epochs.split()[0]), abs=0.02)
    assert float(images.split()[0]) > 0.1
    assert re.fullmatch(r"0\.\d{3} \\\[0\.\d{3}, 0\.\d{3}\\\]", images)
    budgets = _table(text, "At equal compute")
    assert budgets[0] == ["Score", "Budget", "mae", "dino"]
    assert len(budgets) == 2 + 2 * 5
    for row in budgets[2:]:  # dino is better at any compute
        assert row[3].startswith("**")
        assert not row[2].startswith("**")


def test_the_verdict_follows_from_the_numbers(study: Synthetic) -> None:
    text = _section(study)
    said = re.findall(r"falls by a factor of ([\d.]+) \((\w+)\) to ([\d.]+) \((\w+);", text)
    assert len(said) == 2
    for least, slow, most, fast in said:
        assert float(least) < float(most)
        assert (slow, fast) == ("mae", "dino")
    assert "dino leads mae throughout" in text
    assert "One seed" in text
    assert "The shortest run sees 25,000 images (mae-x0.5-d25)." in text


def test_lengths_are_factors_on_a_budget(study: Synthetic) -> None:
    source = study.source()
    heading = source.heading.model_copy(update={"budget": Budget(tflops=36)})
    about = scaling_section(summarize(source.records()), heading)[1]
    assert "at 0.5, 1 and 2 times 36 TFLOPs, on " in about


def test_methods_are_compared_at_the_budgets_of_a_study(study: Synthetic) -> None:
    heading = study.heading.model_copy(update={"budget": Budget(tflops=36)})
    runs = {"mae": pl.DataFrame({"flops": [17.99e12, 36.03e12], "error": [50.0, 40.0]})}
    budgets = runs_of.compared_at(runs, heading)
    assert budgets == [18e12, 36e12, 72e12]
    # A run may miss its budget by 2 % to both sides.
    assert [runs_of.within(runs["mae"], each)["error"] for each in budgets] == [50, 40, 40]
    images = study.heading.model_copy(update={"budget": Budget(images=1000)})
    assert runs_of.compared_at(runs, images) == runs_of.budgets(runs)


def test_no_curve_goes_through_two_runs(tmp_path: Path) -> None:
    scaling = {
        f"mae-x{length:g}": ScaledRow(recipe="mae", length=length, data_share=1.0)
        for length in (1, 3)
    }
    text = _section(build(tmp_path, methods=("random",), tasks=("knn",), scaling=scaling))
    assert (
        "One point per run. No method has 3 runs that no cheaper one beats, so no curve is fitted. "
        "Dotted: the best backbone without pretraining.\n"
    ) in text
    assert "### At equal compute" in text
    for word in ("Error against compute\n", "each axis", "frontier", "law", "cross"):
        assert word not in text


def test_an_experiment_without_a_study_has_no_section(single: Synthetic) -> None:
    source = single.source()
    assert scaling_section(summarize(source.records()), source.heading) == []
    assert "pictures/scaling.png" not in render_figures(source)
    assert "## Scale" not in render_tables(source)["README.md"].decode()


def test_a_study_without_a_score_of_every_row_in_percent_says_so(study: Synthetic) -> None:
    source = study.source()
    heading = source.heading.model_copy(update={"only": dict.fromkeys(source.heading.tasks, ())})
    (title, said) = scaling_section(summarize(source.records()), heading)
    assert title == "## Scale\n"
    assert said.startswith("No task measures every row with a score in %")


def test_the_report_holds_the_figure_and_is_checked(study: Synthetic, tmp_path: Path) -> None:
    source, out = study.source(), tmp_path / "report"
    write_report(source, out)
    page = (out / "README.md").read_text()
    assert page.index("## Scale") < page.index("## All rows") < page.index("| Model")
    assert "(pictures/scaling.png)" in page
    with Image.open(out / "pictures/scaling.png") as picture:
        assert picture.width == 1800
    assert "3 pictures" in check_report(out)
    (out / "pictures/scaling.png").write_bytes((out / "ranking.png").read_bytes())
    with pytest.raises(UserError, match=r"scaling\.png: differs in its pixels"):
        check_report(out)
    (out / "pictures/scaling.png").unlink()
    with pytest.raises(UserError, match=r"scaling\.png: missing"):
        check_report(out)
