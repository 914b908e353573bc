"""Teachers and tokenizers behind an experiment's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steps.command import UserError
from steps.params.checks import load_plan
from steps.params.dag import Node, Pretraining, Tokenizer, follow
from steps.params.load import load
from steps.params.paths import Paths
from steps.params.plan import Plan
from steps.params.recipe import Recipe, Teacher
from steps.params.tokenizers import TokenizerRecipe
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE, RECIPES, TOKENIZERS, Scenery

DINO, BEIT2, LARGE, VQKD = (
    Pretraining("small", "dino"),
    Pretraining("small", "beit2"),
    Pretraining("large", "dinov2"),
    Tokenizer("vqkd"),
)


def _follow(rows: list[Pretraining], names: dict[Node, dict[str, Any]]) -> dict[Node, list[Node]]:
    """Follow params that hold nothing but what they name, by node."""

    def read(node: Node, named_by: str) -> Recipe | TokenizerRecipe:
        model = TokenizerRecipe if isinstance(node, Tokenizer) else Recipe
        keys = {"teacher": None, "tokenizer": None, **names.get(node, {})}
        return model.model_construct(**keys)

    return follow(rows, read, lambda node: f"{node}.yaml")


def _teacher(node: Pretraining) -> Teacher:
    return Teacher(recipe=node.recipe, backbone=node.backbone)


def test_each_node_stands_after_what_it_needs() -> None:
    names = {BEIT2: {"tokenizer": "vqkd"}, VQKD: {"teacher": _teacher(LARGE)}}
    needs = _follow([BEIT2, DINO], names)
    assert list(needs) == [LARGE, VQKD, BEIT2, DINO]
    assert needs[BEIT2] == [VQKD]
    assert needs[VQKD] == [LARGE]


def test_a_teacher_that_is_a_row_is_that_row() -> None:
    needs = _follow([BEIT2, DINO], {BEIT2: {"teacher": _teacher(DINO)}})
    assert list(needs) == [DINO, BEIT2]


def test_a_circle_is_refused() -> None:
    names = {BEIT2: {"tokenizer": "vqkd"}, VQKD: {"teacher": _teacher(BEIT2)}}
    with pytest.raises(UserError) as caught:
        _follow([BEIT2], names)
    message = str(caught.value)
    assert message.startswith("tokenizer vqkd.yaml: teacher: a circle: beit2 on small, which needs")
    assert "tokenizer vqkd, which needs beit2 on small" in message
    assert "remedy:" in message


def _plan(scenery: Scenery, *methods: str, **changes: Any) -> Plan:
    scenery.write("datasets/noise.yaml", {"format": "folder", "train": "t", "val": "v"})
    scenery.write(
        "protocols/knn.yaml",
        {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"},
    )
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    experiment = {
        "title": "Test",
        "question": "?",
        "dataset": "noise",
        "regime": "test",
        "methods": list(methods),
        "backbones": ["vit_test"],
        "seeds": [0],
        "tasks": {"knn": ["knn"]},
    }
    scenery.write("experiments/test.yaml", {**experiment, **changes})
    return load_plan("test", scenery.params)


def _error(scenery: Scenery, *methods: str, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        _plan(scenery, *methods, **changes)
    return str(caught.value).replace(f"{scenery.params}/", "")


def _distilled(scenery: Scenery, recipe: str, backbone: str) -> None:
    teacher = {"recipe": recipe, "backbone": backbone}
    scenery.write("recipes/test/distilled.yaml", {**RECIPES["dino"], "teacher": teacher})


def test_the_plan_knows_all_nodes_and_their_params(scenery: Scenery) -> None:
    plan = _plan(scenery, "beit2")
    random, vqkd = Pretraining("vit_test", "random"), Tokenizer("vqkd")
    assert plan.needs == {
        random: [],
        vqkd: [random],
        Pretraining("vit_test", "beit2"): [vqkd],
    }
    assert list(plan.rows()) == [("vit_test", "beit2", 0)]
    values = plan.resolved(tokenizer="vqkd", recipe="random")
    assert values["tokenizer"]["teacher"] == {"recipe": "random", "backbone": "vit_test"}


def test_unknown_teachers_and_tokenizers(scenery: Scenery) -> None:
    _distilled(scenery, "dinno", "vit_test")
    message = _error(scenery, "distilled")
    assert message.startswith("recipes/test/distilled.yaml: teacher.recipe: 'dinno', but there is")
    assert "allowed: beit, beit2, " in message
    assert "remedy: did you mean 'dino'?" in message
    _distilled(scenery, "dino", "vit_tset")
    message = _error(scenery, "distilled")
    assert message.startswith("recipes/test/distilled.yaml: teacher.backbone: 'vit_tset'")
    scenery.write("recipes/test/beit.yaml", {**RECIPES["beit"], "tokenizer": "dall-e"})
    message = _error(scenery, "beit")
    assert message.startswith("recipes/test/beit.yaml: tokenizer: 'dall-e', but there is no")
    assert "remedy: did you mean 'dalle'?" in message


def test_a_recipe_that_teaches_itself(scenery: Scenery) -> None:
    _distilled(scenery, "distilled", "vit_test")
    message = _error(scenery, "distilled")
    assert message.startswith("recipes/test/distilled.yaml: teacher: a circle: distilled on")


def test_a_teacher_with_other_patches_than_its_tokenizer(scenery: Scenery) -> None:
    scenery.write("backbones/vit_fine.yaml", {**BACKBONE, "patch_size": 4})
    teacher = {"recipe": "random", "backbone": "vit_fine"}
    scenery.write("tokenizers/test/vqkd.yaml", {**TOKENIZERS["vqkd"], "teacher": teacher})
    message = _error(scenery, "beit2")
    assert "teacher.backbone: vit_fine has patches of 4 px, the tokenizer of 8 px" in message


def test_a_tokenizer_that_takes_a_projection_needs_a_teacher_with_one(scenery: Scenery) -> None:
    tokenizer = {**TOKENIZERS["vqkd"]["tokenizer"], "projected": True}
    for name, fits in (("clip", True), ("dino", False)):
        content = {**TOKENIZERS["vqkd"], "tokenizer": tokenizer}
        content["teacher"] = {"recipe": name, "backbone": "vit_test"}
        scenery.write("tokenizers/test/vqkd.yaml", content)
        if fits:
            _plan(scenery, "beit2")
            continue
        message = _error(scenery, "beit2")
        assert "vqkd.yaml: tokenizer.projected: true, and its teacher dino has no space" in message


def test_keys_that_a_method_needs_or_does_not_take(scenery: Scenery) -> None:
    scenery.write("recipes/test/mae.yaml", {**RECIPES["mae"], "tokenizer": "dalle"})
    assert "method mae takes no tokenizer: remove 'tokenizer'" in _error(scenery, "mae")
    content = {key: value for key, value in RECIPES["beit2"].items() if key != "tokenizer"}
    scenery.write("recipes/test/beit2.yaml", content)
    assert "method beit2 needs the key 'tokenizer'" in _error(scenery, "beit2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"official": {"model": "vqkd.pth"}}, "'official' and 'training' is needed, not both"),
        ({"training": None}, "one of the keys 'official' and 'training' is needed"),
        ({"teacher": None}, "tokenizer vqkd needs the key 'teacher'"),
        ({"official": {"model": "x"}, "training": None}, "official weights takes no teacher"),
        (
            {"official": {"encoder": "x"}, "training": None, "teacher": None},
            "official names the files encoder; tokenizer vqkd takes model",
        ),
    ],
)
def test_how_a_tokenizer_is_made(scenery: Scenery, changes: dict[str, Any], message: str) -> None:
    content = {**TOKENIZERS["vqkd"], **changes}
    scenery.write(
        "tokenizers/test/vqkd.yaml", {key: value for key, value in content.items() if value}
    )
    assert message in _error(scenery, "beit2")


@pytest.mark.parametrize(
    "path",
    sorted((REPOSITORY / "params/tokenizers").rglob("*.yaml")),
    ids=lambda p: f"{p.parent.name}-{p.stem}",
)
def test_every_tokenizer_of_the_project(path: Path) -> None:
    recipe = load(path, TokenizerRecipe)
    head = path.read_text().split("\ntokenizer:")[0]
    for part in ("# Expect:", "# Compute:", "# Source", "# Run: "):
        assert part in head, f"{path}: no '{part}' in its head comment"
    if recipe.training is not None and recipe.tokenizer.name == "vqkd":
        assert recipe.training.optimizer.undecayed == ["cls_token", "pos_embed"]


def test_methods_with_pictures_are_drawn_with_their_tokenizers(scenery: Scenery) -> None:
    names = ["dino", "mae", "beit"]
    drawn = _plan(scenery, *names, pictures=["beit", "dino"]).drawn()
    assert drawn == [Pretraining("vit_test", "beit"), Tokenizer("dalle")]
    assert _plan(scenery, *names).drawn() == []
    message = _error(scenery, "dino", pictures=["mae"])
    assert "pictures names mae, which is not among methods" in message


# --- Rows that start from another row's weights


def _continued(scenery: Scenery, name: str, row: str) -> None:
    scenery.write(f"recipes/test/{name}.yaml", {**RECIPES["mae"], "init": {"row": row}})


def test_a_row_starts_from_another_one(scenery: Scenery) -> None:
    _continued(scenery, "continued", "mae")
    plan = _plan(scenery, "mae", "continued")
    paths = Paths(plan.experiment)
    start = paths.init(plan.recipes["continued"], "vit_test", 3)
    assert start == {
        "init": "results/pretrained/noise/test/vit_test/mae/seed3/backbone",
    }
    assert paths.init(plan.recipes["mae"], "vit_test", 3) == {}


def test_rows_that_no_row_can_start_from(scenery: Scenery) -> None:
    _continued(scenery, "continued", "pretrained")
    message = _error(scenery, "continued", "dino")
    assert message.startswith("recipes/test/continued.yaml: init.row: 'pretrained' is no row of")
    assert (
        "allowed: dino | remedy: add the row to methods, such as imported: {name: pret" in message
    )
    checkpoint = {"name": "pretrained", "format": "mae", "checkpoint": "mae.pth"}
    methods: Any = ["continued", {"imported": {**checkpoint, "backbone": "vit_pico"}}]
    scenery.write("backbones/vit_pico.yaml", BACKBONE)
    message = _error(scenery, *methods, backbones=["vit_pico", "vit_test"])
    assert "pretrained is on backbone vit_pico, and continued on vit_test" in message
    _continued(scenery, "one", "two")
    _continued(scenery, "two", "one")
    message = _error(scenery, "one", "two")
    assert "a circle: one, which starts from two, which starts from one" in message


def test_within_a_budget_weights_come_from_elsewhere(scenery: Scenery) -> None:
    _continued(scenery, "continued", "mae")
    message = _error(scenery, "mae", "continued", budget={"tflops": 1})
    assert "init.row: mae is trained here, and a budget counts nothing for the weights" in message
    _continued(scenery, "continued", "pretrained")
    checkpoint = {"name": "pretrained", "format": "mae", "checkpoint": "mae.pth"}
    imported: Any = {"imported": {**checkpoint, "backbone": "vit_test"}}
    plan = _plan(scenery, "continued", imported, budget={"tflops": 1})
    assert Pretraining("vit_test", "continued-1tflops") in plan.needs
