from __future__ import annotations

import statistics
from pathlib import Path

import polars as pl
import pytest

from steps.command import UserError
from steps.reporting.markdown import page
from steps.reporting.source import Evaluation, Source
from steps.reporting.summary import ranked, ranked_by, results_csv, summarize
from steps.reporting.tables import ABSENT, Table, evaluation_table, ranking_table
from tests.unit.reporting.synthetic import Synthetic, build, write_task


@pytest.fixture(scope="module")
def source(several: Synthetic) -> Source:
    return several.source()


@pytest.fixture(scope="module")
def summary(source: Source) -> pl.DataFrame:
    return summarize(source.records())


def test_mean_and_sample_deviation_over_seeds(source: Source, summary: pl.DataFrame) -> None:
    values = [
        record.value
        for item in source.traced
        for record in item.records
        if (record.task, record.metric, record.recipe, record.backbone)
        == ("linear", "top1", "mae", "vit_nano")
    ]
    row = summary.filter(task="linear", metric="top1", recipe="mae", backbone="vit_nano")
    assert row.height == 1
    assert len(values) == row["seeds"][0] == 3
    assert row["mean"][0] == pytest.approx(statistics.mean(values), abs=1e-6)
    assert row["std"][0] == pytest.approx(statistics.stdev(values), abs=1e-6)


def test_trials_have_a_column_where_recipes_say_them(source: Source, summary: pl.DataFrame) -> None:
    assert "Trials" not in ranking_table(summary, source.heading).columns
    heading = source.heading.model_copy(update={"trials": {"mae": 4}})
    table = ranking_table(summary, heading)
    assert table.columns[-1] == "Trials"
    assert {row[0].split()[0]: row[-1] for row in table.rows} == {"mae": "4", "random": ABSENT}
    text = page(Source(heading, source.traced, source.curves), summary, with_curves=False)
    assert "Trials are the settings of a recipe that were tried" in text


def test_ranking_takes_linear_before_knn_and_sorts_best_first(
    source: Source, summary: pl.DataFrame
) -> None:
    assert ranked_by(source.heading) == Evaluation("linear", "linear")
    table = ranking_table(summary, source.heading)
    assert table.columns[:5] == ["Model", "Type", "Scale", "Score (linear top1, %)", "Epoch"]
    assert [row[0] for row in table.rows] == [
        "mae (vit_nano)",
        "mae (vit_pico)",
        "random (vit_nano)",
        "random (vit_pico)",
    ]
    assert table.rows[0][1:] == [
        "Generative",
        "ViT-Nano",
        "71.2 ± 1.0",
        "50",
        "200,000",
        "23.4",
        "2 min 06 s",
    ]
    assert table.rows[-1][4:] == ["0", "0", "0", "0 s"]


def test_ranking_takes_finetune_where_there_is_one(single: Synthetic) -> None:
    source = single.source()
    table = ranking_table(summarize(source.records()), source.heading)
    assert "Score (finetune top1, %)" in table.columns
    assert table.rows[0][:4] == ["supervised", "Supervised", "ViT-Pico", "98.7"]


def test_each_protocol_has_a_table_and_the_first_one_ranks(protocols: Synthetic) -> None:
    source = protocols.source()
    summary = summarize(source.records())
    assert ranked_by(source.heading) == Evaluation("linear", "linear")
    assert ranking_table(summary, source.heading).rows[0][3] == "68.2"
    tables = [
        evaluation_table(summary, source.heading, Evaluation("linear", name))
        for name in ("linear", "logreg", "linear_0")
    ]
    assert [table.rows[0][2] for table in tables] == ["**68.2**", "**67.2**", "**66.2**"]


def test_an_official_checkpoint_is_marked_and_has_no_compute(official: Synthetic) -> None:
    source = official.source()
    assert len(source.traced) == 3
    summary = summarize(source.records())
    rows = {row[0]: row[1:] for row in ranking_table(summary, source.heading).rows}
    assert list(rows) == ["dino (vit_nano)", "dino (vit_pico)", "mae (vit_pico) ◐"]
    assert rows["mae (vit_pico) ◐"] == ["Generative", "ViT-Pico", "64.2", *["–"] * 4]  # noqa: RUF001
    assert rows["dino (vit_pico)"][3:5] == ["50", "200,000"]
    known = source.records().with_columns(epochs=pl.when("imported").then(800.0).otherwise(50.0))
    row = ranking_table(summarize(known), source.heading).rows[2]
    assert row[4:] == ["800", *["–"] * 3]  # noqa: RUF001
    assert b"imported" not in results_csv(summary)


def test_one_seed_shows_no_spread(single: Synthetic) -> None:
    source = single.source()
    table = evaluation_table(
        summarize(source.records()), source.heading, Evaluation("detect", "mask_rcnn_small")
    )
    assert table.columns == ["Model", "Seeds", "box_AP", "box_AP50", "mask_AP"]
    assert table.rows[0] == ["supervised", "1", "**73.7**", "**76.7**", "**79.7**"]
    assert "±" not in table.markdown()


def test_equals_share_the_bold_and_nothing_is_bold_where_all_are_equal(
    small: Synthetic,
) -> None:
    for recipe in ("random", "mae"):
        write_task(small.row(recipe), "knn", value=50.0)
    source = small.source()
    summary = summarize(source.records())
    assert (
        "**" not in evaluation_table(summary, source.heading, Evaluation("knn", "knn")).markdown()
    )
    # Equal scores keep the experiment's order.
    assert ranked(summary, source.heading)["recipe"].to_list() == ["random", "mae"]


def test_pure_numbers_have_no_unit_and_no_best(small: Synthetic) -> None:
    """More of a number that is no share may be worse."""
    write_task(small.row("random"), "knn", value=-1.23456, unit="")
    write_task(small.row("mae"), "knn", value=12.0, unit="")
    source = small.source()
    summary = summarize(source.records())
    table = evaluation_table(summary, source.heading, Evaluation("knn", "knn"))
    assert table.columns == ["Model", "Seeds", "top1", "top5", "top1_k10"]
    assert {row[2] for row in table.rows} == {"-1.235", "12"}
    with_tables = page(source, summary, with_curves=False)
    assert "Bold: the best of each column." not in with_tables.split("## k-NN")[1].split("##")[0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 999}, "knn/knn/top1: rows of one table differ in n: 1000, 999"),
        ({"dataset": "cifar10"}, "rows of one table differ in dataset: shapes, cifar10"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(
    small: Synthetic, changed: dict[str, object], message: str
) -> None:
    write_task(small.row("mae"), "knn", **changed)
    with pytest.raises(UserError, match=message):
        summarize(small.source().records())


def test_seeds_of_different_length_are_refused(source: Source) -> None:
    records = source.records().with_columns(
        epochs=pl.when(recipe="mae", seed=1).then(pl.lit(100.0)).otherwise("epochs")
    )
    with pytest.raises(UserError, match=r"mae/vit_pico: seeds differ in epochs: 50\.0, 100\.0"):
        summarize(records)


def test_a_metric_that_some_seeds_lack_is_refused(source: Source) -> None:
    lacking = (pl.col("metric") == "top5") & (pl.col("seed") == 2) & (pl.col("recipe") == "mae")
    summary = summarize(source.records().filter(~lacking))
    with pytest.raises(UserError, match="linear/linear/mae/vit_nano: some seeds lack some metrics"):
        evaluation_table(summary, source.heading, Evaluation("linear", "linear"))


def test_a_metric_that_a_row_lacks_shows_as_a_dash(source: Source) -> None:
    lacking = (pl.col("metric") == "top5") & (pl.col("recipe") == "mae")
    summary = summarize(source.records().filter(~lacking))
    rows = evaluation_table(summary, source.heading, Evaluation("linear", "linear")).rows
    assert [row[3] == "-" for row in rows] == [True, True, False, False]


def test_markdown_is_aligned_and_escapes_pipes() -> None:
    table = Table(["Model", "n"], [False, True], [["a|b", "1"], ["long name", "1,000"]])
    assert table.markdown() == (
        "| Model     |     n |\n"
        "| --------- | ----: |\n"
        "| a\\|b      |     1 |\n"
        "| long name | 1,000 |\n"
    )


def test_results_csv_holds_every_mean(summary: pl.DataFrame) -> None:
    back = pl.read_csv(results_csv(summary))
    assert back.height == summary.height == 20
    assert back["mean"].to_list() == summary["mean"].to_list()


def test_a_method_that_a_task_does_not_apply_to_has_no_row(partial: Synthetic) -> None:
    source = partial.source()
    table = evaluation_table(
        summarize(source.records()), source.heading, Evaluation("zeroshot", "zeroshot")
    )
    assert table.columns == ["Model", "Seeds", "top1", "top5"]
    assert table.rows == [["clip", "1", "51.0", "54.0"]]


def test_tables_hide_no_row_that_lacks_a_text_tower(tmp_path: Path) -> None:
    made = build(
        tmp_path,
        methods=("random", "mae", "clip"),
        tasks=("zeroshot", "decode"),
        text_methods=("clip",),
    )
    source = made.source()
    summary = summarize(source.records())
    assert ranked_by(source.heading).task == "decode"
    assert sorted(ranked(summary, source.heading)["recipe"]) == ["clip", "mae", "random"]
