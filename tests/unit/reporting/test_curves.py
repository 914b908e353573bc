from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from steps.artifacts import publish, read_manifest
from steps.command import UserError
from steps.reporting.collect import METRICS, MOST_POINTS, read_curve, thinned
from steps.reporting.figures import compute_figure, compute_lines, curves_figure, spread_out
from steps.reporting.render import render_tables
from steps.reporting.source import CURVES_SCHEMA, Source
from tests.unit.reporting.synthetic import Synthetic, write_backbone


def test_thinned_keeps_few_points_as_they_are_and_the_ends_of_many() -> None:
    assert thinned(3) == [0, 1, 2]
    many = thinned(12_345)
    assert len(many) == MOST_POINTS == len(set(many))
    assert (many[0], many[-1]) == (0, 12_344)
    gaps = [after - before for before, after in pairwise(many)]
    assert max(gaps) - min(gaps) <= 1


def test_read_curve_gives_the_logged_points(tmp_path: Path) -> None:
    write_backbone(tmp_path / "backbone", "mae", "vit_pico", seed=3, steps=1000)
    manifest = read_manifest(tmp_path / "backbone")
    curve = read_curve(tmp_path / "backbone", manifest)
    logged = [
        json.loads(line) for line in (tmp_path / "backbone" / METRICS).read_text().splitlines()
    ]
    assert curve.height == MOST_POINTS
    assert set(curve["seed"]) == {3}
    points = {(entry["step"], entry["epoch"], entry["loss"]) for entry in logged}
    assert set(curve.select("step", "epoch", "loss").rows()) <= points
    assert curve["step"][-1] == 1000


def test_random_has_no_curve_and_needs_no_file(single: Synthetic) -> None:
    artifact = single.row("random") / "backbone"
    assert not (artifact / METRICS).exists()
    assert read_curve(artifact, read_manifest(artifact)).is_empty()


def test_changed_losses_are_refused(small: Synthetic) -> None:
    artifact = small.row("mae") / "backbone"
    with (artifact / METRICS).open("a") as file:
        file.write('{"step": 41, "epoch": 51, "loss": 0.0}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl: bytes differ"):
        read_curve(artifact, read_manifest(artifact))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no loss"),
        ('{"step": 1, "epoch": 1.0}\n', "line 1: no step, epoch and loss"),
        ('{"step": 1, "epoch": 1.0, "loss": 1.0}\n{"step"', "line 2: no step, epoch and loss"),
        ('{"step": 1, "epoch": 1.0, "loss": NaN}\n', "line 1: loss is nan at step 1"),
        (None, r"metrics\.jsonl: missing"),
    ],
)
def test_unusable_losses_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    with publish(tmp_path / "backbone", node="pretrain", params={}, inputs={}, seed=0) as draft:
        if text is not None:
            (draft.path / METRICS).write_text(text)
        draft.facts = {"kind": "Generative", "recipe": "mae", "backbone": "vit_pico"}
    with pytest.raises(UserError, match=message):
        read_curve(tmp_path / "backbone", read_manifest(tmp_path / "backbone"))


def test_every_line_with_a_k_nn_accuracy_is_kept(tmp_path: Path) -> None:
    with publish(tmp_path / "backbone", node="pretrain", params={}, inputs={}, seed=0) as draft:
        lines = [
            {"step": step, "epoch": step / 10, "loss": 1.0}
            | ({"knn_top1": float(step)} if step % 101 == 0 else {})
            for step in range(1, 1001)
        ]
        (draft.path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        draft.facts = {"kind": "Contrastive", "recipe": "simclr", "backbone": "vit_pico"}
    curve = read_curve(tmp_path / "backbone", read_manifest(tmp_path / "backbone"))
    assert curve.drop_nulls("knn_top1")["step"].to_list() == list(range(101, 1001, 101))
    assert MOST_POINTS <= curve.height <= MOST_POINTS + 9


def test_continued_pretraining_begins_with_the_accuracy_of_its_weights(
    tmp_path: Path, single: Synthetic
) -> None:
    lines = [
        {"step": 0, "epoch": 0.0, "knn_top1": 71.5},
        {"step": 5, "epoch": 0.5, "loss": 1.0},
        {"step": 10, "epoch": 1.0, "loss": 0.5, "knn_top1": 70.0},
    ]
    with publish(tmp_path / "backbone", node="pretrain", params={}, inputs={}, seed=0) as draft:
        (draft.path / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
        draft.facts = {"kind": "Generative", "recipe": "mae", "backbone": "vit_pico"}
    curve = read_curve(tmp_path / "backbone", read_manifest(tmp_path / "backbone"))
    assert curve["loss"].to_list() == [None, 1.0, 0.5]
    assert curve["knn_top1"].to_list() == [71.5, None, 70.0]
    # What is written for the page is read again as it was.
    curve.write_csv(tmp_path / "curves.csv")
    assert pl.read_csv(tmp_path / "curves.csv", schema=CURVES_SCHEMA).equals(curve)
    picture = curves_figure(curve, {"mae": "Generative"}, single.heading, ["mae"])
    assert picture.startswith(b"\x89PNG")


def _watched(made: Synthetic) -> Source:
    """A source whose methods measured k-NN at two epochs, 50 and 70 % plus the seed."""
    source = made.source()
    points = [
        (recipe, "vit_pico", seed, step, float(epoch), 1.0, 50.0 + 20 * place + seed)
        for recipe in ("mae", "dino")
        for seed in made.heading.seeds
        for place, (step, epoch) in enumerate([(20, 25), (40, 50)])
    ]
    return replace(source, curves=pl.DataFrame(points, schema=CURVES_SCHEMA, orient="row"))


def test_score_against_compute_is_a_mean_over_seeds_at_the_flops_spent(several: Synthetic) -> None:
    source = _watched(several)
    lines = compute_lines(source, ["mae"])
    flops = next(item.records[0].flops for item in source.traced if item.records[0].recipe == "mae")
    seeds = several.heading.seeds
    assert lines["recipe"].to_list() == ["mae", "mae"]
    assert lines["tflops"].to_list() == pytest.approx([flops / 2e12, flops / 1e12])
    assert lines["knn_top1"].to_list() == pytest.approx(
        [at + sum(seeds) / len(seeds) for at in (50, 70)]
    )
    picture = compute_figure(source, ["mae", "dino"])
    assert picture is not None
    assert picture.startswith(b"\x89PNG")


def test_what_a_tokenizer_cost_lies_before_the_first_point(single: Synthetic) -> None:
    source = _watched(single)
    own = compute_lines(source, ["mae"])["tflops"]
    behind = tuple(item.model_copy(update={"behind": {"flops": 3e12}}) for item in source.traced)
    later = compute_lines(replace(source, traced=behind), ["mae"])["tflops"]
    assert later.to_list() == pytest.approx([each + 3 for each in own])


def test_without_k_nn_on_the_way_there_is_no_figure_of_compute(single: Synthetic) -> None:
    source = single.source()
    assert compute_figure(source, source.trained) is None
    page = render_tables(source)["README.md"].decode()
    assert "compute.png" not in page
    assert "(pictures/compute.png)" in render_tables(_watched(single))["README.md"].decode()


def test_names_beside_lines_keep_their_distance() -> None:
    assert spread_out([1.0, 5.0, 9.0], 2.0) == [1.0, 5.0, 9.0]
    assert spread_out([1.0, 1.0, 9.0], 2.0) == [0.0, 2.0, 9.0]
    # A pair that was pushed apart meets a third one: all three share the middle.
    assert spread_out([0.0, 0.0, 2.0], 2.0) == pytest.approx([-4 / 3, 2 / 3, 8 / 3])
