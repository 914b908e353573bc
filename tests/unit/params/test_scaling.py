"""A study of scale: the rows that it makes of an experiment's methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steps.command import UserError
from steps.params.checks import load_plan
from steps.params.plan import Plan
from steps.params.recipe import Scaling
from tests.scenery import RECIPES, Scenery

GRID = {"methods": ["mae"], "lengths": [0.5, 2], "data_shares": [0.125, 1]}
NAMES = ["mae-x0.5-d12.5", "mae-x0.5", "mae-x2-d12.5", "mae-x2"]


@pytest.fixture
def experiment(scenery: Scenery) -> dict[str, Any]:
    scenery.write("datasets/noise.yaml", {"format": "folder", "train": "t", "val": "v"})
    knn = {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"}
    scenery.write("protocols/knn.yaml", knn)
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    return {
        "title": "Scale",
        "question": "?",
        "dataset": "noise",
        "regime": "test",
        "methods": ["random", "mae"],
        "scaling": GRID,
        "backbones": ["vit_test"],
        "seeds": [0],
        "tasks": {"knn": ["knn"]},
    }


def _plan(scenery: Scenery, experiment: dict[str, Any]) -> Plan:
    scenery.write("experiments/test.yaml", experiment)
    return load_plan("test", scenery.params)


def test_every_point_is_a_row(scenery: Scenery, experiment: dict[str, Any]) -> None:
    plan = _plan(scenery, experiment)
    assert plan.experiment.names == ["random", *NAMES]
    assert [recipe for _, recipe, _ in plan.rows()] == ["random", *NAMES]
    assert plan.recipe_file("mae-x2-d12.5") == scenery.params / "recipes/test/mae.yaml"
    assert plan.recipe_options("mae-x2-d12.5") == [*("--length", "2"), *("--data-share", "0.125")]
    assert plan.recipe_options("random") == []
    # What an engine compares tells the points from one another.
    shown = [plan.resolved(recipe=name)["recipe"] for name in NAMES]
    assert [(each["training"]["length"], each["data_share"]) for each in shown] == [
        (0.5, 0.125),
        (0.5, 1.0),
        (2.0, 0.125),
        (2.0, 1.0),
    ]


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({**GRID, "methods": ["dino"]}, r"scaling\.methods names dino, which is no recipe among"),
        ({**GRID, "methods": ["random"]}, r"scaling\.methods: random: .*no run to scale"),
        ({**GRID, "lengths": [1, 1.0]}, r"lengths names a value twice"),
        ({**GRID, "data_shares": [1.5]}, r"scaling\.data_shares\[0\].*1\.5"),
        ({**GRID, "lengths": [1 / 3]}, r"scaling.*at most six digits"),
        ({**GRID, "lengths": [0]}, r"scaling\.lengths\[0\]"),
    ],
)
def test_what_is_refused(
    scaling: dict[str, Any], message: str, scenery: Scenery, experiment: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=message):
        _plan(scenery, {**experiment, "scaling": scaling})


def test_a_recipe_with_a_share_of_its_own(scenery: Scenery, experiment: dict[str, Any]) -> None:
    """The keys stand in recipes too, where no study asks for them."""
    del experiment["scaling"]
    path: Path = scenery.recipe("mae", length=3.0)
    path.write_text(path.read_text() + "data_share: 0.5\n")
    recipe = _plan(scenery, experiment).recipes["mae"]
    assert recipe.training is not None
    assert (recipe.training.length, recipe.data_share) == (3.0, 0.5)
    path = scenery.params / "recipes/test/random.yaml"
    path.write_text(path.read_text() + "data_share: 0.5\n")
    with pytest.raises(UserError, match="initialisation only: remove 'data_share'"):
        _plan(scenery, experiment)


def test_names_and_options_agree() -> None:
    """A value as in the recipe is not said, so that the row is the one of other experiments."""
    points = [
        (point.name, " ".join(point.options))
        for point in Scaling(methods=["a"], lengths=[0.25, 1], data_shares=[0.07, 1]).scaled("a")
    ]
    assert points == [
        ("a-x0.25-d7", "--length 0.25 --data-share 0.07"),
        ("a-x0.25", "--length 0.25"),
        ("a-d7", "--data-share 0.07"),
        ("a", ""),
    ]


def test_a_recipe_of_the_name_of_a_point(scenery: Scenery, experiment: dict[str, Any]) -> None:
    other = scenery.write("recipes/test/mae-x2.yaml", RECIPES["mae"])
    with pytest.raises(UserError) as caught:
        _plan(scenery, experiment)
    assert f"a row of mae would be called mae-x2, which is the recipe {other}" in str(caught.value)
    experiment["methods"] = ["random", "mae", "mae-x2"]
    with pytest.raises(UserError, match="names the recipe mae-x2, and scaling has a row of that"):
        _plan(scenery, experiment)


def test_lengths_are_factors_on_the_recipe(scenery: Scenery, experiment: dict[str, Any]) -> None:
    scenery.recipe("mae", length=3.0)
    with pytest.raises(UserError, match=r"mae has length 3 and data_share 1 of its own"):
        _plan(scenery, experiment)
