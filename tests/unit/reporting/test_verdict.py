from __future__ import annotations

from pathlib import Path

import pytest

from steps.reporting.explain import explain
from steps.reporting.markdown import page
from steps.reporting.render import write_report
from steps.reporting.source import ScaledRow, Source
from steps.reporting.summary import summarize
from tests.unit.reporting.made_decisions import decided
from tests.unit.reporting.synthetic import build, write_task

METHODS = ("random", "supervised", "mae", "beit", "dino", "clip")


def _verdict(source: Source) -> tuple[str, str]:
    """The verdict of a page, and what weakens it."""
    text = page(source, summarize(source.records()), with_curves=False)
    parts = [line for line in text.splitlines() if line.startswith("**")]
    said = next((line for line in parts if line.startswith("**Verdict.**")), "")
    weak = next((line for line in parts if line.startswith("**What weakens it.**")), "")
    return said, weak


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Supervised 98, dino 83, mae 68, beit 64, clip 54 and random 25 by linear probe."""
    made = build(
        tmp_path_factory.mktemp("verdict"), methods=METHODS, seeds=(0, 1, 2), tasks=("linear",)
    )
    return decided(made.source())


def test_it_names_the_leader_without_labels_with_its_lead(source: Source) -> None:
    said, weak = _verdict(source)
    assert "At 23.4 TFLOPs on shapes, dino leads the methods without labels by linear probe" in said
    assert "with 83.9 % \\[" in said
    assert ", 14.7 points \\[" in said
    assert " above mae." in said
    assert "supervised, which uses labels, is 14.8 points \\[" in said
    # CLIP's captions name the class: it is no method without labels, here or in the counts.
    assert "clip, which uses captions, is 28.9 points \\[" in said
    assert "3 of 3 methods without labels beat random weights." in said
    assert (
        "Median score of each family (number of methods): contrastive 83.9 (1), masked 67.2 (2)."
        in said
    )
    assert weak == ""


def test_it_says_who_cannot_be_told_apart(tmp_path: Path) -> None:
    made = build(tmp_path, methods=METHODS, tasks=("linear",))
    write_task(made.row("beit"), "linear", value=83.0)
    said, weak = _verdict(decided(made.source()))
    assert "beit has the highest score without labels by linear probe, 83.0 % \\[" in said
    assert ", but dino cannot be told apart from it." in said
    assert "One seed: intervals cover only the choice of images." in weak


def test_it_names_collapse_unequal_compute_saturation_and_unstable_rows(tmp_path: Path) -> None:
    made = build(
        tmp_path,
        methods=METHODS,
        seeds=(0, 1, 2),
        tasks=("linear",),
        collapsed=[("dino", 1)],
    )
    for seed in (0, 1, 2):
        write_task(made.row("random", seed), "linear", value=96.0)
        write_task(made.row("clip", seed), "linear", value=50.0, flops=1e12)
    write_task(made.row("mae", 1), "linear", value=9.0)
    said, weak = _verdict(decided(made.source()))
    assert "beit" in said.split(".")[0] or "beit reaches" in said
    assert "The embeddings of dino collapsed: those runs failed." in weak
    assert (
        "By linear probe, the seeds of mae spread more than those of other rows (unstable)" in weak
    )
    assert "Compute is unequal: 1.00 to 23.4 TFLOPs." in weak
    assert "Random weights reach 96.0 %: the task is saturated and separates little." in weak


def test_without_decisions_there_is_no_verdict(tmp_path: Path) -> None:
    made = build(tmp_path, methods=METHODS, tasks=("linear",))
    assert _verdict(made.source()) == ("", "")


def test_rows_left_aside_are_named_and_no_claim_is_made_of_them(tmp_path: Path) -> None:
    made = build(tmp_path, methods=METHODS, seeds=(0, 1, 2), tasks=("linear",))
    for seed, gain in enumerate((-20, 0, 16)):
        write_task(made.row("dino", seed), "linear", gain=gain)
    source = decided(made.source())
    said, weak = _verdict(source)
    assert "on shapes, dino left aside as unstable or collapsed, mae has the highest" in said
    assert "2 of 2 methods without labels beat random weights." in said
    assert "dino does not" not in said
    assert "By linear probe, the seeds of dino spread more" in weak
    write_report(source, tmp_path / "report")
    text = explain(tmp_path / "report/dino/vit_pico/linear/seed0")
    assert "rank             none: unstable\n" in text


def test_compute_is_not_said_of_weights_from_elsewhere(tmp_path: Path) -> None:
    made = build(tmp_path, methods=("random", "mae", "dino"), tasks=("linear",), imported=("dino",))
    said, weak = _verdict(decided(made.source()))
    assert said.startswith("**Verdict.** On shapes, dino leads the methods without labels")
    assert "The compute behind dino is not known." in weak


def test_rows_on_several_backbones_are_no_methods(tmp_path: Path) -> None:
    made = build(
        tmp_path,
        methods=("random", "mae", "dino"),
        tasks=("linear",),
        backbones=("vit_pico", "vit_nano"),
    )
    said, _ = _verdict(decided(made.source()))
    assert "4 of 4 rows without labels beat random weights of their own backbone." in said
    assert "(number of rows)" in said


def test_rows_of_a_study_of_scale_are_no_methods(tmp_path: Path) -> None:
    scaling = {
        f"{recipe}-x{length:g}": ScaledRow(recipe=recipe, length=length, data_share=1.0)
        for recipe in ("mae", "dino")
        for length in (0.5, 2)
    }
    made = build(tmp_path, methods=("random",), tasks=("linear",), scaling=scaling)
    said, _ = _verdict(decided(made.source()))
    assert "4 of 4 rows without labels beat random weights." in said
    assert "(number of rows): contrastive" in said


def test_a_handful_of_images_resolves_little_and_is_said(tmp_path: Path) -> None:
    made = build(tmp_path, methods=("random", "mae", "dino"), tasks=("linear",))
    for name, value in (("random", 0.0), ("mae", 100.0), ("dino", 50.0)):
        write_task(made.row(name), "linear", value=value, n=2)
    said, weak = _verdict(decided(made.source()))
    assert "cannot be told apart" in said
    assert "2 validation images: fewer than 30 are hardly a sample." in weak


def test_an_unstable_row_is_named_with_the_task_by_which_it_is(tmp_path: Path) -> None:
    made = build(tmp_path, methods=METHODS, seeds=(0, 1, 2), tasks=("linear", "knn"))
    for seed, gain in enumerate((-20, 0, 16)):
        write_task(made.row("dino", seed), "knn", gain=gain)
    source = decided(made.source())
    said, weak = _verdict(source)
    assert "left aside" not in said
    assert "By k-NN, the seeds of dino spread more than those of other rows (unstable)" in weak
    write_report(source, tmp_path / "report")
    page = (tmp_path / "report/README.md").read_text()
    assert page.count("\u2021 Unstable (k-NN): the seeds of dino spread more") == 1
