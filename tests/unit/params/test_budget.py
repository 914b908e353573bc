"""A budget: the rows that it makes of an experiment's methods, and of what stands behind them."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from steps.command import UserError
from steps.params.budget import Budget, add_options, asked_for
from steps.params.checks import load_plan
from steps.params.dag import Pretraining, Tokenizer
from steps.params.plan import Plan
from tests.scenery import RECIPES, TOKENIZERS, Scenery
from workflow.dvc import Stages
from workflow.made import asked


@pytest.fixture
def experiment(scenery: Scenery) -> dict[str, Any]:
    """Rows without training, by themselves, and on a tokenizer that stands on a teacher."""
    scenery.write("datasets/noise.yaml", {"format": "folder", "train": "t", "val": "v"})
    knn = {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"}
    scenery.write("protocols/knn.yaml", knn)
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    teacher = {"recipe": "dino", "backbone": "vit_test"}
    scenery.write("tokenizers/test/vqkd.yaml", {**TOKENIZERS["vqkd"], "teacher": teacher})
    return {
        "title": "Budget",
        "question": "?",
        "dataset": "noise",
        "regime": "test",
        "methods": ["random", "mae", "beit2"],
        "budget": {"tflops": 36},
        "backbones": ["vit_test"],
        "seeds": [0],
        "tasks": {"knn": ["knn"]},
        "pictures": ["beit2"],
    }


def _plan(scenery: Scenery, experiment: dict[str, Any]) -> Plan:
    scenery.write("experiments/test.yaml", experiment)
    return load_plan("test", scenery.params)


def test_rows_and_what_stands_behind_them(scenery: Scenery, experiment: dict[str, Any]) -> None:
    plan = _plan(scenery, experiment)
    assert plan.experiment.names == ["random", "mae-36tflops", "beit2-36tflops"]
    # A third of a third for the teacher of the tokenizer, which is no row.
    row = Pretraining("vit_test", "beit2-36tflops")
    tokenizer, teacher = Tokenizer("vqkd-12tflops"), Pretraining("vit_test", "dino-4tflops")
    assert plan.needs[row] == [tokenizer]
    assert plan.needs[tokenizer] == [teacher]
    assert [str(node).partition(" on ")[0] for node in plan.needs] == [
        *("random", "mae-36tflops", "dino-4tflops", "tokenizer vqkd-12tflops", "beit2-36tflops")
    ]
    assert plan.recipe_file("dino-4tflops") == scenery.params / "recipes/test/dino.yaml"
    assert plan.recipe_options("beit2-36tflops") == ["--budget-tflops", "36"]
    assert plan.recipe_options("random") == []
    assert plan.tokenizer_file("vqkd-12tflops").name == "vqkd.yaml"
    assert plan.drawn() == [row]


def test_engines_are_told_the_budget(scenery: Scenery, experiment: dict[str, Any]) -> None:
    plan = _plan(scenery, experiment)
    stages = {stage.name: stage for stage in Stages(plan).all()}
    command = stages["pretrain-noise-test-vit_test-beit2-36tflops-seed0"].command
    assert " --budget-tflops 36 " in command
    tokenizer = "results/tokenizers/noise/test/vqkd-12tflops/seed0/tokenizer"
    assert f"--tokenizer {tokenizer} " in command
    command = stages["tokenizer-noise-test-vqkd-12tflops-seed0"].command
    assert "/dino-4tflops/seed0/backbone " in command
    assert " --budget-tflops 12 " in command
    assert command.endswith(f"--out {tokenizer}")
    # What manifests have.
    params = {str(each.path): each.params for each in asked(plan)}
    assert params[tokenizer]["budget"] == Budget(tflops=12).resolved()
    assert "budget" not in params["results/pretrained/noise/test/vit_test/random/seed0/backbone"]


def test_a_study_of_scale_has_factors_on_the_budget(
    scenery: Scenery, experiment: dict[str, Any]
) -> None:
    scaling = {"methods": ["mae"], "lengths": [0.25, 1, 4], "data_shares": [0.5, 1]}
    plan = _plan(scenery, {**experiment, "scaling": scaling})
    assert plan.experiment.names == [
        "random",
        *(f"mae-{n}tflops{share}" for n in (9, 36, 144) for share in ("-d50", "")),
        "beit2-36tflops",
    ]
    options = ["--budget-tflops", "9", "--data-share", "0.5"]
    assert plan.recipe_options("mae-9tflops-d50") == options
    assert plan.recipes["mae-9tflops-d50"].data_share == 0.5
    assert plan.experiment.budget is not None


def test_official_weights_and_untrained_teachers_take_nothing(
    scenery: Scenery, experiment: dict[str, Any]
) -> None:
    scenery.write("tokenizers/test/vqkd.yaml", TOKENIZERS["vqkd"])  # its teacher is random
    params = {**TOKENIZERS["dalle"]["tokenizer"], "learning": None}
    files = {"encoder": "official/encoder.pkl", "decoder": "official/decoder.pkl"}
    scenery.write("tokenizers/test/dalle.yaml", {"tokenizer": params, "official": files})
    plan = _plan(scenery, {**experiment, "methods": ["beit", "beit2"]})
    needs = {str(node): [str(each) for each in behind] for node, behind in plan.needs.items()}
    assert needs == {
        "tokenizer dalle": [],
        "beit-36tflops on vit_test": ["tokenizer dalle"],
        "random on vit_test": [],
        "tokenizer vqkd-12tflops": ["random on vit_test"],
        "beit2-36tflops on vit_test": ["tokenizer vqkd-12tflops"],
    }


@pytest.mark.parametrize(
    ("budget", "name", "options"),
    [
        ({"tflops": 0.5}, "0.5tflops", "--budget-tflops 0.5"),
        ({"tflops": 7e7}, "70000000tflops", "--budget-tflops 70000000"),
        ({"images": 1281167}, "1281167images", "--budget-images 1281167"),
        ({"tflops": 36, "behind": 0.5}, "36tflops-b50", "--budget-tflops 36 --behind 0.5"),
    ],
)
def test_names_and_options_agree(budget: dict[str, Any], name: str, options: str) -> None:
    assert Budget(**budget).name == name
    assert " ".join(Budget(**budget).options) == options


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"tflops": 0}, r"budget\.tflops.*greater than or equal to 0.000001"),
        ({"tflops": -3}, r"budget\.tflops.*greater than or equal to 0.000001"),
        ({"tflops": float("nan")}, r"budget\.tflops: nan \| allowed: a finite number"),
        ({"tflops": "36"}, r"budget\.tflops.*valid number"),
        ({"tflops": 1e13}, r"budget\.tflops.*less than or equal to 1000000000000"),
        ({"tflops": 1 / 7}, r"budget.*at most six digits"),
        ({"images": 0}, r"budget\.images.*greater than or equal to 1"),
        ({"tflops": 36, "images": 100}, r"budget.*one of the keys 'tflops' and 'images'"),
        ({}, r"budget.*one of the keys 'tflops' and 'images' is needed"),
        ({"gflops": 3}, r"unknown key .budget.gflops"),
        ({"tflops": 36, "behind": 1}, r"budget\.behind.*less than 1"),
        # The teacher's share of the tokenizer's share.
        ({"tflops": 1e-6}, r"behind beit2.*times 0.000001 TFLOPs is out of range: 1e-06 to 1e\+12"),
    ],
)
def test_what_is_refused(
    budget: dict[str, Any], message: str, scenery: Scenery, experiment: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        _plan(scenery, {**experiment, "budget": budget})
    assert len(str(caught.value).splitlines()) == 1


def test_recipes_that_do_not_take_a_budget(scenery: Scenery, experiment: dict[str, Any]) -> None:
    scenery.recipe("mae", length=3.0)
    with pytest.raises(UserError, match=r"budget: mae has length 3 and data_share 1 of its own"):
        _plan(scenery, experiment)
    scenery.recipe("mae", length=1.0)
    other = scenery.write("recipes/test/dino-4tflops.yaml", RECIPES["mae"])
    with pytest.raises(UserError, match=f"would be called dino-4tflops, which is .* {other}"):
        _plan(scenery, experiment)


def test_a_circle_is_found_within_a_budget(scenery: Scenery, experiment: dict[str, Any]) -> None:
    teacher = {"recipe": "beit2", "backbone": "vit_test"}
    scenery.write("tokenizers/test/vqkd.yaml", {**TOKENIZERS["vqkd"], "teacher": teacher})
    with pytest.raises(UserError, match="a circle: beit2 on vit_test, which needs tokenizer vqkd"):
        _plan(scenery, experiment)


def _asked(*options: str) -> Budget | None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return asked_for(parser.parse_args(options))


def test_a_step_is_told_the_same(scenery: Scenery) -> None:
    assert _asked() is None
    for budget in (Budget(tflops=36), Budget(images=9), Budget(tflops=0.5, behind=0.25)):
        assert _asked(*budget.options) == budget


@pytest.mark.parametrize(
    "options",
    [
        ["--budget-tflops", "0"],
        ["--budget-tflops", "nan"],
        ["--budget-tflops", "-1"],
        ["--budget-tflops", "1.23456789"],
        ["--budget-tflops", "36", "--budget-images", "9"],
        ["--budget-images", "0"],
        ["--budget-images", "9", "--behind", "1"],
        ["--behind", "0.5"],
    ],
)
def test_options_out_of_range(options: list[str]) -> None:
    message = r"TFLOPs of 0\.000001 to 1000000000000 or images"
    with pytest.raises(UserError, match=message) as caught:
        _asked(*options)
    assert len(str(caught.value).splitlines()) == 1
