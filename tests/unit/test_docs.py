"""What docs/ says is what the code says."""

from __future__ import annotations

import re

import pytest

from benchmarks import estimate
from steps.params.checks import load_plan
from tests.processes import REPOSITORY

PAGE = (REPOSITORY / "docs/imagenet.md").read_text()


@pytest.mark.parametrize("table", ["pretraining", "downstream"])
def test_estimates_are_those_of_the_recipes(table: str) -> None:
    block = re.search(rf"<!-- from benchmarks.estimate: {table} -->\n(.*?)<!-- end -->", PAGE, re.S)
    assert block is not None
    assert block.group(1) == getattr(estimate, table)(), "run python -m benchmarks.estimate"


def test_the_formula_is_that_of_a_published_count() -> None:
    # DeiT-B at 224 px: 17.5 G multiply-adds (Swin, arXiv:2103.14030, table 1).
    assert estimate.VIT_B.forward(197) / 2 == pytest.approx(17.5e9, rel=0.01)


def test_every_trained_recipe_of_the_experiment_is_estimated() -> None:
    plan = load_plan("imagenet", REPOSITORY / "params")
    trained = {name for name, recipe in plan.recipes.items() if recipe.training is not None}
    assert set(estimate.PASSES) == trained


def test_files_that_experiments_need_are_named() -> None:
    for name in ("imagenet", "imagenet_large"):
        plan = load_plan(name, REPOSITORY / "params")
        files = [each.checkpoint for each in plan.experiment.imported.values()]
        for tokenizer in plan.tokenizers.values():
            files += (tokenizer.official or {}).values()
        for file in files:
            assert f"`{file}`" in PAGE


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE):
        assert (REPOSITORY / "docs" / link).exists(), link
