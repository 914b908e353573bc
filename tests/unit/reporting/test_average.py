"""Tables of several sets on one page, and the average rank over them, by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from steps.artifacts import read_records
from steps.command import UserError
from steps.reporting.average import average_ranks, ranks
from steps.reporting.check import check_report
from steps.reporting.confidence import confidences
from steps.reporting.explain import explain
from steps.reporting.markdown import page
from steps.reporting.render import write_report
from steps.reporting.source import Evaluation, Source, read_source
from steps.reporting.summary import ranked_by, results_csv, summarize
from tests.unit.reporting.made_decisions import decided
from tests.unit.reporting.synthetic import Synthetic, build, write_task

SETS = ("a", "b", "c")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Three methods on three sets. On a, dino is the best; on b, mae by k-NN; on c both are equal
    but for the noise of floats."""
    made = build(
        tmp_path_factory.mktemp("sets"),
        methods=("random", "mae", "dino"),
        tasks=("knn", "linear", "detect"),
        evaluate_on=SETS,
    )
    write_task(made.row("mae"), "knn", gain=20.0, on="b")
    for task in ("knn", "linear"):
        write_task(made.row("mae"), task, gain=78.9 - 64.2, on="c")
    return made


@pytest.fixture(scope="module")
def source(made: Synthetic) -> Source:
    return made.source()


def _page(source: Source) -> str:
    return page(source, summarize(source.records()), with_curves=True)


def _rows(text: str) -> list[list[str]]:
    return [re.findall(r"[^| ]+", line) for line in text.splitlines() if line.startswith("|")]


def test_ranks_by_hand(source: Source) -> None:
    summary = summarize(source.records())
    random, mae, dino = ((name, "vit_pico") for name in ("random", "mae", "dino"))
    assert ranks(summary, Evaluation("knn", "knn", "a")) == {dino: 1, mae: 2, random: 3}
    assert ranks(summary, Evaluation("knn", "knn", "b")) == {mae: 1, dino: 2, random: 3}
    assert ranks(summary, Evaluation("linear", "linear", "c")) == {mae: 1.5, dino: 1.5, random: 3}


def test_the_average_by_hand(source: Source) -> None:
    title, said, table = average_ranks(summarize(source.records()), source.heading)
    assert title == "## Average rank\n"
    assert "headline metric of k-NN, Linear probe on a, b, c" in said
    assert "\N{EN DASH}" not in said
    # dino: a 1, b (2 + 1) / 2, c 1.5; mae: a 2, b (1 + 2) / 2, c 1.5.
    assert _rows(table)[2:] == [
        ["dino", "1.33", "1.00", "1.50", "1.50"],
        ["mae", "1.67", "2.00", "1.50", "1.50"],
        ["random", "3.00", "3.00", "3.00", "3.00"],
    ]


def test_each_set_has_its_own_tables(source: Source) -> None:
    text = _page(source)
    headings = re.findall(r"^## (.*)$", text, flags=re.M)
    assert headings[:8] == [
        "Average rank",
        *(f"k-NN on {dataset}" for dataset in SETS),
        *(f"Linear probe on {dataset}" for dataset in SETS),
        "Detection",
    ]
    for dataset in SETS:
        assert text.count(f"Protocol `knn` on {dataset}, 1,000 validation images.") == 1
    assert "Protocol `mask_rcnn_small` on shapes_scenes" in text
    assert "Sorted by top1 of Linear probe on a, the first set of `evaluate_on`; one seed" in text
    assert "Score (linear on a top1, %)" in text
    assert "(`knn`, protocol `knn`, a, b, c, n = 1,000)" in text
    assert "--explain reports/made_up/dino/vit_pico/linear/a\n" in text
    assert "Headline metric of each task on each set." in text


def test_the_ranking_stands_on_the_first_set(source: Source) -> None:
    assert ranked_by(source.heading) == Evaluation("linear", "linear", "a")
    on_b = source.heading.model_copy(update={"evaluate_on": ("b", "a", "c")})
    assert ranked_by(on_b) == Evaluation("linear", "linear", "b")


def test_a_report_of_several_sets_follows_from_its_records(source: Source, tmp_path: Path) -> None:
    told = decided(source, ("knn", "linear"))
    write_report(told, tmp_path)
    assert "README.md and results.csv follow" in check_report(tmp_path)
    again = read_source(tmp_path)
    assert again.heading == told.heading
    assert again.decisions.equals(told.decisions)
    known = confidences(again, summarize(again.records())).known
    assert set(known) == {
        Evaluation(task, task, dataset) for task in ("knn", "linear") for dataset in SETS
    }
    # The same images stand behind all sets here, and still each has its own intervals.
    best = {each.dataset: sure.rows[sure.table.score.argmax()] for each, sure in known.items()}
    assert best["a"] == ("dino", "vit_pico")
    said = explain(tmp_path / "mae/vit_pico/knn/b/top1")
    assert "measured on      b, 1,000 validation samples" in said
    assert "interval         top1 84.2 [" in said
    assert said.count("record file") == 1
    with pytest.raises(UserError, match=r"no such cell in the report .*mae/vit_pico/knn/b"):
        explain(tmp_path / "mae/vit_pico/knn/d")


def test_an_experiment_of_one_set_has_the_files_that_it_had(
    single: Synthetic, tmp_path: Path
) -> None:
    told = decided(single.source(), ("knn", "linear"))
    write_report(told, tmp_path)
    assert "evaluate_on" not in json.loads((tmp_path / "report.json").read_text())
    assert "evaluate_on" not in pl.read_parquet(tmp_path / "decisions.parquet").columns
    assert b"evaluate_on" not in results_csv(summarize(told.records()))
    assert read_source(tmp_path).decisions.equals(told.decisions)
    assert average_ranks(summarize(told.records()), told.heading) == []


def test_a_row_without_a_score_has_no_average(tmp_path: Path) -> None:
    made = build(
        tmp_path,
        methods=("mae", "clip"),
        tasks=("detect", "zeroshot"),
        text_methods=("clip",),
        evaluate_on=("a", "b"),
    )
    source = made.source()
    _, said, table = average_ranks(summarize(source.records()), source.heading)
    assert "\N{EN DASH}: no score on every set, so no average (mae)." in said
    dash = "\N{EN DASH}"
    assert _rows(table)[2:] == [["clip", "1.00", "1.00", "1.00"], ["mae", dash, dash, dash]]
    # A task that every row has does not leave rows out for the sake of one that some have.
    every = source.heading.model_copy(update={"only": {}})
    assert average_ranks(summarize(source.records()), every)[1].count("mae") == 1


def test_a_record_of_another_set_is_named(tmp_path: Path) -> None:
    made = build(tmp_path, methods=("random", "mae"), tasks=("knn",), evaluate_on=("a", "b"))
    file = made.row("mae") / "knn/b/features/knn.json"
    records, _ = read_records(file)
    assert {record.dataset for record in records} == {"b"}
    write_task(made.row("mae"), "knn", on="b", dataset="c")
    with pytest.raises(UserError, match=r"knn/b/features/knn.json: dataset: 'c' .*'b'"):
        made.source()
