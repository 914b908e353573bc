from __future__ import annotations

from pathlib import Path

import pytest

from steps.reporting.markdown import page
from steps.reporting.source import Source
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
    assert "The seeds of mae spread more than those of other rows (unstable)" in weak
    assert "Compute is unequal: 1.00 to 23.4 TFLOPs." in weak
    assert "Random weights reach 96.0 %: the task is saturated and separates little." in weak


def test_without_decisions_there_is_no_verdict(tmp_path: Path) -> None:
    made = build(tmp_path, methods=METHODS, tasks=("linear",))
    assert _verdict(made.source()) == ("", "")
