"""Views, networks and sets of other channels: refused in one line before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from steps.command import UserError
from steps.params.channels import check_training
from steps.params.checks import load_plan
from steps.params.dataset import Dataset
from steps.params.load import load, read_yaml
from steps.params.recipe import Recipe
from steps.params.views import Normalise
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE, RECIPES, TOKENIZERS, Scenery

FIELDS = {"format": "folder", "train": "t", "val": "v", "channels": 4, "bits": 16}
BANDED = sorted((REPOSITORY / "params/recipes").glob("*/*_bands.yaml"))


def _dataset(**params: Any) -> Any:
    return TypeAdapter(Dataset).validate_python(params)


def _error(scenery: Scenery, methods: list[Any], tasks: dict[str, Any], **changes: Any) -> str:
    for name, content in {
        "datasets/fields.yaml": FIELDS,
        "datasets/photos.yaml": {"format": "folder", "train": "t", "val": "v"},
        "datasets/scenes.yaml": {
            "format": "coco",
            "train": {"images": "t", "annotations": "t.json"},
            "val": {"images": "v", "annotations": "v.json"},
        },
        "protocols/features.yaml": {"poolings": ["cls"], "crop_fraction": 1.0},
        "protocols/knn.yaml": {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"},
        "protocols/geometry.yaml": {
            "pooling": "cls",
            "view": {"area": [0.2, 1.0], "grayscale": 0.2},
            "crop_fraction": 1.0,
        },
        "protocols/layout.yaml": read_yaml(REPOSITORY / "params/protocols/layout.yaml"),
        "experiments/fields.yaml": {
            "title": "Fields",
            "question": "Which?",
            "dataset": "fields",
            "regime": "test",
            "methods": methods,
            "backbones": ["vit_test"],
            "seeds": [0],
            "tasks": tasks,
            **changes,
        },
    }.items():
        scenery.write(name, content)
    with pytest.raises(UserError) as caught:
        load_plan("fields", scenery.params)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(scenery.params), "params")


KNN = {"knn": ["knn"]}


def test_a_recipe_that_changes_colours(scenery: Scenery) -> None:
    assert _error(scenery, ["simclr"], KNN) == (
        "params/recipes/test/simclr.yaml: training.views[0].jitter: of saturation 0.8 and hue 0.2 "
        "is for red, green and blue, and fields has 4 channels of 16 bits | allowed: saturation: "
        "0.0 and hue: 0.0, which leave brightness and contrast | remedy: set both to 0.0, or "
        "remove the key jitter"
    )
    recipe = {**RECIPES["dino"], "training": {**RECIPES["dino"]["training"]}}
    for key in ("grayscale", "solarize"):
        view = {"area": [0.4, 1.0], key: 0.2}
        recipe["training"]["views"] = [{"area": [0.4, 1.0]}, view]
        scenery.write("recipes/test/dino.yaml", recipe)
        assert _error(scenery, ["dino"], KNN) == (
            f"params/recipes/test/dino.yaml: training.views[1].{key}: 0.2 is for red, green and "
            "blue, and fields has 4 channels of 16 bits | allowed: 0.0 | remedy: set it to 0.0, or "
            "remove the key"
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rand_augment": "rand-m9"}, "views[0].rand_augment: rand-m9 is for three channels of 8"),
        ({"interpolation": "lanczos"}, "views[0].interpolation: lanczos is for three channels"),
    ],
)
def test_operations_for_8_bits_only(change: dict[str, Any], said: str) -> None:
    content = {**RECIPES["mae"], "training": {**RECIPES["mae"]["training"]}}
    content["training"]["views"] = [{"area": [0.4, 1.0], **change}]
    training = Recipe.model_validate(content).training
    assert training is not None
    check_training("recipe", training, (3, 8), "photos")
    for form in ((4, 8), (3, 16)):
        with pytest.raises(UserError) as caught:
            check_training("recipe", training, form, "fields")
        assert f"recipe: training.{said}" in str(caught.value)


def test_three_channels_of_16_bits_have_colours() -> None:
    for name in ("simclr", "dino", "mae"):
        training = Recipe.model_validate(RECIPES[name]).training
        assert training is not None
        check_training("recipe", training, (3, 16), "fields")


def test_normalisation_for_other_channels() -> None:
    training = load(REPOSITORY / "params/recipes/imagenet/mae.yaml", Recipe).training
    assert training is not None
    check_training("mae.yaml", training, (3, 8), "photos")
    with pytest.raises(UserError) as caught:
        check_training("mae.yaml", training, (4, 16), "fields")
    assert str(caught.value) == (
        "mae.yaml: training.normalise: 3 channels, and fields has 4 channels of 16 bits | allowed: "
        "a mean and a std of 4 numbers each, or no such key | remedy: remove the key: the mean and "
        "std that prepare measured are then used"
    )
    with pytest.raises(ValueError, match="mean has 2 numbers and std 1"):
        Normalise(mean=[0.0, 0.0], std=[1.0])


def test_sets_of_other_channels(scenery: Scenery) -> None:
    assert _error(scenery, ["mae"], KNN, evaluate_on=["fields", "photos"]) == (
        "params/experiments/fields.yaml: evaluate_on: photos has 3 channels of 8 bits, and "
        "networks are trained on fields, which has 4 channels of 16 bits | allowed: a set of 4 "
        "channels | remedy: name such a set, or leave the task knn out"
    )
    message = _error(scenery, ["mae"], {"layout": ["layout"]}, detection_dataset="scenes")
    assert message.startswith(
        "params/experiments/fields.yaml: detection_dataset: scenes has 3 channels of 8 bits"
    )


def test_a_protocol_that_changes_colours(scenery: Scenery) -> None:
    assert _error(scenery, ["mae"], {"geometry": ["geometry"]}).startswith(
        "params/protocols/geometry.yaml: view.grayscale: 0.2 is for red, green and blue, and "
        "fields has 4 channels of 16 bits"
    )


def test_what_sees_three_channels_only(scenery: Scenery) -> None:
    vqkd = {**TOKENIZERS["vqkd"], "tokenizer": {**TOKENIZERS["vqkd"]["tokenizer"]}}
    vqkd["tokenizer"]["process_type"] = "imagenet_norm"
    scenery.write("tokenizers/test/vqkd.yaml", vqkd)
    assert _error(scenery, ["beit2"], KNN) == (
        "params/tokenizers/test/vqkd.yaml: tokenizer.process_type: is for three channels, and "
        "fields has 4 channels of 16 bits | remedy: set it to default"
    )
    official = {"tokenizer": vqkd["tokenizer"], "official": {"model": "x.pth"}}
    scenery.write("tokenizers/test/vqkd.yaml", official)
    assert "vqkd.yaml: official: is for three channels" in _error(scenery, ["beit2"], KNN)
    assert "beit.yaml: training.views[0].jitter: of saturation" in _error(scenery, ["beit"], KNN)
    imported = {"name": "official", "format": "mae", "checkpoint": "x", "backbone": "vit_test"}
    message = _error(scenery, ["mae", {"imported": imported}], KNN)
    assert "official is an official checkpoint for three channels" in message
    assert "a recipe with init" in message


def test_a_backbone_of_other_channels(scenery: Scenery) -> None:
    arguments = {**BACKBONE["model_args"], "in_chans": 5}
    scenery.write("backbones/vit_test.yaml", {**BACKBONE, "model_args": arguments})
    assert _error(scenery, ["mae"], KNN) == (
        "params/backbones/vit_test.yaml: model_args.in_chans: 5, and the images have 4 channels | "
        "allowed: 4 | remedy: remove the key: the number follows from the dataset"
    )


def test_usual_sets_have_the_params_that_they_had() -> None:
    usual = _dataset(format="folder", train="t", val="v")
    assert usual.is_rgb
    assert not {"channels", "bits"} & usual.resolved().keys()
    named = _dataset(format="folder", train="t", val="v", channels=3, bits=8)
    assert named.resolved() == usual.resolved()
    fields = _dataset(**FIELDS)
    assert (fields.form, fields.is_rgb) == ((4, 16), False)
    assert fields.resolved()["channels"] == 4
    assert _dataset(**fields.resolved()) == fields
    for change in ({"bits": 12}, {"channels": 0}, {"ground": [0, 0, 0]}):
        with pytest.raises(ValueError, match=r"bits|channels|ground is for three channels"):
            _dataset(**{**FIELDS, **change})


@pytest.mark.parametrize("path", BANDED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_recipes_for_any_channels(path: Path) -> None:
    """They differ from those for photographs in colours and normalisation only."""
    recipe = load(path, Recipe)
    name = path.stem.removesuffix("_bands")
    assert recipe.training is not None
    assert recipe.method.name == name
    for form in ((1, 8), (3, 16), (4, 16), (12, 16)):
        check_training(str(path), recipe.training, form, "fields")
    other = {("imagenet", "simclr"): "simclr_vit"}.get((path.parent.name, name), name)
    usual = load(path.with_name(f"{other}.yaml"), Recipe)
    assert usual.training is not None
    assert recipe.method == usual.method
    kept = {"views": None, "normalise": None}
    assert {**recipe.training.resolved(), **kept} == {**usual.training.resolved(), **kept}
    colours = {"jitter": None, "grayscale": 0.0, "solarize": 0.0}
    ours, theirs = (
        [view.model_copy(update=colours) for view in each.training.views]  # type: ignore[union-attr]
        for each in (recipe, usual)
    )
    assert ours == theirs
    for part in ("# Expect:", "# Compute:", "# Source", "# Run: "):
        assert part in path.read_text()


def test_the_recipes_there_are() -> None:
    assert {f"{path.parent.name}/{path.stem}" for path in BANDED} == {
        "small/dino_bands",
        "small/simclr_bands",
        "imagenet/mae_bands",
        "imagenet/dino_bands",
        "imagenet/simclr_bands",
    }
