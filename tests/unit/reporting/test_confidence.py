from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from steps.command import UserError
from steps.reporting.confidence import Confidences, confidences
from steps.reporting.explain import explain
from steps.reporting.markdown import page
from steps.reporting.render import write_report
from steps.reporting.source import Evaluation, Source
from steps.reporting.summary import headline, summarize
from tests.unit.reporting.made_decisions import decided
from tests.unit.reporting.synthetic import Synthetic, build, write_task

LINEAR = Evaluation("linear", "linear")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Six methods, three seeds: random 21, mae 64, beit 60, dino 79, supervised 94 and clip 50,
    each 4 more by linear probe."""
    made = build(
        tmp_path_factory.mktemp("decided"),
        methods=("random", "supervised", "mae", "beit", "dino", "clip"),
        seeds=(0, 1, 2),
        tasks=("knn", "linear", "detect"),
    )
    return decided(made.source())


def _sure(source: Source) -> Confidences:
    return confidences(source, summarize(source.records()))


def _page(source: Source) -> str:
    return page(source, summarize(source.records()), with_curves=False)


def test_rows_get_intervals_ranks_and_levels(source: Source) -> None:
    found = _sure(source).known[LINEAR]
    score = found.table.score
    assert score[found.place["dino", "vit_pico"]] == pytest.approx(83.9, abs=0.2)
    assert (found.low < score).all()
    assert (found.high > score).all()
    first, last = found.ranks
    assert first[found.place["supervised", "vit_pico"]] == 1
    assert last[found.place["random", "vit_pico"]] == 6
    assert len(found.levels) >= 4
    assert found.beats_baseline == {
        (name, "vit_pico"): 1 for name in ("supervised", "mae", "beit", "dino", "clip")
    }
    difference, low, high, apart = found.pair(("mae", "vit_pico"), ("dino", "vit_pico"))
    assert low < difference < high < 0
    assert apart
    assert found.pair(("dino", "vit_pico"), ("mae", "vit_pico"))[:3] == (-difference, -high, -low)


def test_scores_without_decisions_have_no_interval_and_the_page_says_what_to_run(
    source: Source,
) -> None:
    older = decided(source, tasks=("knn",))
    sure = _sure(older)
    assert set(sure.known) == {Evaluation("knn", "knn")}
    assert set(sure.missing) == {LINEAR, Evaluation("detect", "mask_rcnn_small")}
    text = _page(older)
    assert "**No intervals** are known for Linear probe, Detection" in text
    assert "(`python -m steps.linear`, `python -m steps.detect`)" in text
    section = text.split("## Linear probe")[1].split("##")[0]
    assert "\\[" not in section
    assert "±" in section


def test_one_row_without_decisions_leaves_its_table_without_intervals(source: Source) -> None:
    sure = _sure(decided(source, rows=("random", "mae", "dino", "beit", "supervised")))
    assert not sure.known
    assert sure.missing[LINEAR] == [("clip", "vit_pico")]


def test_decisions_that_do_not_give_the_record_are_refused(source: Source) -> None:
    wrong = np.packbits(np.zeros(1000, bool)).tobytes()
    decisions = source.decisions.with_columns(
        correct=pl.when(recipe="mae", task="linear").then(pl.lit(wrong)).otherwise("correct")
    )
    with pytest.raises(UserError, match=r"gives mae/vit_pico 0\.00 in linear/linear/top1"):
        _sure(replace(source, decisions=decisions))


def test_unequal_classes_are_told_and_put_balanced_accuracy_first(tmp_path: Path) -> None:
    made = build(tmp_path, methods=("random", "mae", "dino"), tasks=("knn",))
    counts = (850, 100, 50)
    source = decided(made.source(), counts=counts)
    knn = Evaluation("knn", "knn")
    labels = np.repeat(np.arange(3), counts)
    balanced: dict[str, float] = {}
    for recipe, packed in source.decisions.select("recipe", "correct").rows():
        right = np.unpackbits(np.frombuffer(packed, np.uint8), count=1000).astype(bool)
        balanced[recipe] = 100 * float(np.mean([right[labels == each].mean() for each in range(3)]))
    # The steps record it; here the first of the further metrics stands for it.
    traced = tuple(
        item.model_copy(
            update={
                "records": tuple(
                    record.model_copy(
                        update={"metric": "balanced", "value": balanced[record.recipe]}
                    )
                    if record.metric == "top5"
                    else record
                    for record in item.records
                )
            }
        )
        for item in source.traced
    )
    source = replace(source, traced=traced)
    summary = summarize(source.records())
    assert headline(summary, knn) == "balanced"
    found = confidences(source, summary).known[knn]
    assert found.table.score.tolist() == pytest.approx(list(balanced.values()))
    text = _page(source)
    assert "Images per class: class0 850, class1 100, class2 50." in text
    assert "17 times the images of the smallest" in text
    equal = _page(decided(made.source(), counts=(400, 300, 300)))
    assert "Images per class: class0 400" in equal
    assert "balanced accuracy" not in equal


def test_a_table_that_tells_nothing_apart_from_random_is_grey(tmp_path: Path) -> None:
    made = build(tmp_path, methods=("random", "mae", "dino"), tasks=("knn", "linear"))
    for recipe in ("random", "mae", "dino"):
        write_task(made.row(recipe), "knn", value=50.0)
    text = _page(decided(made.source()))
    knn = text.split("## k-NN")[1].split("##")[0]
    assert "**No row can be told apart from random weights**" in knn
    assert knn.count("<sub>50.0 \\[") == 3
    assert "<sub>" not in text.split("## Linear probe")[1]
    assert "none does by k-NN." in text


def test_further_metrics_are_folded(source: Source) -> None:
    section = _page(source).split("## k-NN")[1].split("##")[0]
    shown, folded = section.split("<details>")
    assert "| Model      | Seeds | Rank |" in shown
    assert "top5" not in shown
    assert "<summary>2 further metrics</summary>" in folded
    assert "top1_k10" in folded


def test_explaining_a_cell_shows_interval_rivals_and_decisions(
    source: Source, tmp_path: Path
) -> None:
    out = tmp_path / "report"
    write_report(source, out)
    assert (out / "pictures/apart.png").is_file()
    text = explain(out / "mae/vit_pico/linear/top1/seed1")
    assert "interval         top1 69.2 [" in text
    assert "95 %, over images and 3 seeds" in text
    assert "rank             3 to 4 of 6" in text
    assert "better           supervised, dino" in text
    assert "worse            random, clip" in text
    assert "not apart        beit" in text
    digest = source.decisions.filter(recipe="mae", task="linear", seed=1)["digest"][0]
    assert f"decisions        sha256 {digest}" in text
    assert "interval" not in explain(out / "mae/vit_pico/linear/top5/seed1")


def test_explaining_a_cell_of_before_says_that_there_is_no_interval(
    several: Synthetic, tmp_path: Path
) -> None:
    write_report(several.source(), tmp_path)
    text = explain(tmp_path / "mae/vit_pico/linear/top1/seed1")
    assert "interval         none: the decisions of this evaluation were not kept" in text
    assert "run python -m steps.linear and the report again" in text


def test_beit_starts_from_random_weights_of_its_own_backbone(tmp_path: Path) -> None:
    made = build(tmp_path, methods=("random", "mae", "beit"), tasks=("knn",))
    source = decided(made.source())

    def with_positions(recipe: str, name: str, kind: str, positions: str) -> Source:
        traced = []
        for item in source.traced:
            if item.records[0].recipe == recipe:
                method = {"name": recipe, "backbone": {"relative_positions": positions}}
                params = {**item.pretrained.params, "recipe": {"method": method}}
                made = item.pretrained.model_copy(update={"params": params})
                records = tuple(
                    each.model_copy(update={"kind": kind, "recipe": name}) for each in item.records
                )
                item = item.model_copy(update={"pretrained": made, "records": records})
            traced.append(item)
        return replace(source, traced=tuple(traced))

    source = with_positions("beit", "beit", "Random", "shared")
    found = _sure(source).known[Evaluation("knn", "knn")]
    # MAE has plain positions, so it starts from random weights and not from the other row.
    assert found.against.pairs.tolist() == [[found.place["mae", "vit_pico"], 0]]
    source = with_positions("mae", "mae", "Generative", "shared")
    found = _sure(source).known[Evaluation("knn", "knn")]
    start = found.place["beit", "vit_pico"]
    assert found.against.pairs.tolist() == [[found.place["mae", "vit_pico"], start]]
