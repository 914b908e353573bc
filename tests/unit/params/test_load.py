"""Each class of mistake in a params file gives its one-line message."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from steps.command import UserError
from steps.official.formats import FORMATS
from steps.params.checks import load_plan
from steps.params.dag import Pretraining
from steps.params.experiment import Experiment
from steps.params.imported import Format
from steps.params.load import load, read_yaml
from steps.params.plan import Plan
from steps.params.protocols import Probe
from steps.params.recipe import Recipe
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE, RECIPES, Scenery
from tests.unit.detection.conftest import SMALL

MAE, DINO = RECIPES["mae"], RECIPES["dino"]


def _error(path: Path, model: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(path, model)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def _changed(recipe: dict[str, Any], group: str, **values: Any) -> dict[str, Any]:
    return {**recipe, group: {**recipe[group], **values}}


def test_misspelt_key(scenery: Scenery) -> None:
    path = scenery.write("recipes/test/a.yaml", _changed(MAE, "method", mask_ration=0.5))
    assert "unknown key 'method.mask_ration'" in _error(path, Recipe)


def test_string_where_a_number_belongs(scenery: Scenery) -> None:
    path = scenery.write("recipes/test/a.yaml", _changed(MAE, "method", mask_ratio="0.75"))
    message = _error(path, Recipe)
    assert "'method.mask_ratio' is '0.75' (str)" in message
    assert "valid number" in message


def test_unknown_method(scenery: Scenery) -> None:
    path = scenery.write("recipes/test/a.yaml", _changed(MAE, "method", name="mea"))
    message = _error(path, Recipe)
    assert "'mea'" in message
    assert "'mae'" in message, "the message does not say what is allowed"


def test_missing_key(scenery: Scenery) -> None:
    method = {key: value for key, value in MAE["method"].items() if key != "mask_ratio"}
    path = scenery.write("recipes/test/a.yaml", {**MAE, "method": method})
    assert "key 'method.mask_ratio' is missing" in _error(path, Recipe)


def test_value_out_of_range(scenery: Scenery) -> None:
    path = scenery.write("recipes/test/a.yaml", _changed(MAE, "method", mask_ratio=1.0))
    assert "less than 1" in _error(path, Recipe)


def test_views_that_a_method_cannot_take(scenery: Scenery) -> None:
    views = MAE["training"]["views"] * 2
    path = scenery.write("recipes/test/a.yaml", _changed(MAE, "training", views=views))
    assert "mae takes one" in _error(path, Recipe)
    path = scenery.write("recipes/test/b.yaml", _changed(DINO, "training", views=views[:1]))
    assert "dino needs two or more" in _error(path, Recipe)


def test_warmup_longer_than_training(scenery: Scenery) -> None:
    schedule = {"warmup_epochs": 3}
    path = scenery.write("recipes/test/a.yaml", _changed(MAE, "training", schedule=schedule))
    assert "warmup_epochs 3.0 is above epochs 2" in _error(path, Recipe)


@pytest.mark.parametrize(
    ("name", "key", "value", "readers"),
    [
        ("sgd", "betas", [0.9, 0.95], "adamw"),
        ("lars", "eps", 1e-6, "adamw"),
        ("adamw", "momentum", 0.95, "sgd and lars"),
        ("sgd", "trust_coefficient", 0.01, "lars"),
    ],
)
def test_a_key_that_an_optimizer_does_not_read(
    name: str, key: str, value: Any, readers: str, scenery: Scenery
) -> None:
    rule = {"name": name, "lr": 0.1, "weight_decay": 0.0}
    path = scenery.write("recipes/test/a.yaml", _changed(MAE, "training", optimizer=rule))
    assert load(path, Recipe).training is not None
    scenery.write("recipes/test/a.yaml", _changed(MAE, "training", optimizer={**rule, key: value}))
    assert _error(path, Recipe).startswith(
        f"{path}: training.optimizer: {name} does not read {key}, which is for {readers}"
    )


def test_a_probe_by_sgd_has_no_trust_coefficient(tmp_path: Path) -> None:
    content = read_yaml(REPOSITORY / "params/protocols/linear_mae.yaml")
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({**content, "optimizer": "sgd", "trust_coefficient": 0.01}))
    assert "sgd does not read trust_coefficient" in _error(path, Probe)


def test_bounds_of_the_temperature_are_in_order(scenery: Scenery) -> None:
    loss = {"name": "softmax", "logit_scale_clamp": [4.0, 0.0]}
    path = scenery.write("recipes/test/a.yaml", _changed(RECIPES["clip"], "method", loss=loss))
    message = _error(path, Recipe)
    assert "method.loss.logit_scale_clamp: " in message
    assert "4 is above 0" in message


def test_a_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("epochs: 1\nepochs: 2\n")
    with pytest.raises(UserError, match="key 'epochs' appears twice"):
        read_yaml(path)


def test_numbers_as_in_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: 1e-4\nb: 1.5e3\nc: .5e1\nd: 1e4x\n")
    assert read_yaml(path) == {"a": 1e-4, "b": 1500.0, "c": 5.0, "d": "1e4x"}


def test_merge_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("- &base {size: 64, flip: 0.5}\n- {<<: *base, size: 32}\n")
    assert read_yaml(path)[1] == {"size": 32, "flip": 0.5}


def _experiment(scenery: Scenery, **changes: Any) -> Plan:
    scenery.write("datasets/noise.yaml", {"format": "folder", "train": "t", "val": "v"})
    scenery.write("protocols/knn.yaml", _KNN)
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    scenery.write("experiments/test.yaml", {**_EXPERIMENT, **changes})
    return load_plan("test", scenery.params)


_BOXES = {
    "format": "coco",
    "train": {"images": "t", "annotations": "t.json"},
    "val": {"images": "v", "annotations": "v.json"},
}
_KNN = {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"}
_EXPERIMENT = {
    "title": "Test",
    "question": "?",
    "dataset": "noise",
    "regime": "test",
    "methods": ["random", "mae"],
    "backbones": ["vit_test"],
    "seeds": [0],
    "tasks": {"knn": ["knn"]},
}


@pytest.mark.parametrize(
    ("changes", "what"),
    [({}, "knn"), ({"methods": ["supervised"], "tasks": {"geometry": ["geometry"]}}, "supervised")],
)
def test_a_set_without_labels_is_for_methods_and_tasks_without_them(
    scenery: Scenery, changes: dict[str, Any], what: str
) -> None:
    scenery.write("datasets/plain.yaml", {"format": "images", "train": "t", "val": {"share": 0.5}})
    geometry = (REPOSITORY / "params/protocols/geometry.yaml").read_text(encoding="utf-8")
    scenery.write("protocols/geometry.yaml", yaml.safe_load(geometry))
    with pytest.raises(UserError, match=f"plain has no labels, which (recipe )?{what} needs"):
        _experiment(scenery, dataset="plain", **changes)


def test_plan_of_an_experiment(scenery: Scenery) -> None:
    plan = _experiment(scenery, seeds=[0, 1])
    assert list(plan.rows()) == [
        ("vit_test", "random", 0),
        ("vit_test", "random", 1),
        ("vit_test", "mae", 0),
        ("vit_test", "mae", 1),
    ]
    assert plan.tasks() == {"features": ["features"], "knn": ["knn"]}


def test_several_protocols_of_a_task(scenery: Scenery) -> None:
    scenery.write("protocols/knn_5.yaml", _KNN)
    plan = _experiment(scenery, tasks={"knn": ["knn_5", "knn"]})
    assert plan.tasks() == {"features": ["features"], "knn": ["knn_5", "knn"]}
    assert list(plan.experiment.evaluations()) == [("knn", "knn_5"), ("knn", "knn")]
    assert plan.resolved(protocol="knn_5")["protocol"]["k"] == [5]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"knn": "knn"}, "'tasks.knn' is 'knn' (str), but: Input should be a valid list"),
        ({"knn": ["knn", "knn"]}, "tasks.knn names knn twice"),
        ({}, "tasks names no task, so there is nothing to measure"),
        ({"knn": ["knn"], "linear": []}, "tasks.linear names no protocol: remove the key"),
        ({"kNN": ["knn"]}, "Input should be 'finetune', 'linear'"),
    ],
)
def test_tasks_that_cannot_be(scenery: Scenery, tasks: dict[str, Any], message: str) -> None:
    path = scenery.write("experiments/x.yaml", {**_EXPERIMENT, "tasks": tasks})
    assert message in _error(path, Experiment)


def test_a_protocol_of_another_task(scenery: Scenery) -> None:
    with pytest.raises(UserError, match=r"protocols/knn.yaml: .*'kind'"):
        _experiment(scenery, tasks={"knn": ["knn"], "linear": ["knn"]})


def test_unknown_recipe_in_an_experiment(scenery: Scenery) -> None:
    with pytest.raises(UserError, match=r"maee.*no such params file.*did you mean 'mae'"):
        _experiment(scenery, methods=["maee"])


def test_detection_without_scenes(scenery: Scenery) -> None:
    scenery.write("experiments/x.yaml", {**_EXPERIMENT, "tasks": {"detect": ["mask_rcnn"]}})
    message = _error(scenery.params / "experiments/x.yaml", Experiment)
    assert "detection_dataset" in message


def test_view_that_does_not_divide_into_patches(scenery: Scenery) -> None:
    scenery.recipe("mocov3", views=[{"area": [0.2, 1.0], "size": 36, "count": 2}])
    with pytest.raises(UserError, match=r"views\[0\].size: 36 px does not divide"):
        _experiment(scenery, methods=["mocov3"])


def test_a_resnet_has_no_patches_to_divide_into(scenery: Scenery) -> None:
    scenery.recipe("simclr", views=[{"area": [0.2, 1.0], "size": 36, "count": 2}])
    plan = _experiment(scenery, methods=["simclr"], backbones=["resnet_test"])
    assert plan.resolved(backbone="resnet_test")["backbone"]["patch_size"] is None


def test_a_resnet_for_a_method_of_tokens(scenery: Scenery) -> None:
    with pytest.raises(UserError) as refusal:
        _experiment(scenery, backbones=["vit_test", "resnet_test"])
    message = str(refusal.value)
    assert "recipes/test/mae.yaml: method.name: mae reads the tokens of its backbone" in message
    assert "resnet_test is a ResNet" in message
    assert "allowed: a vision transformer" in message
    assert "remedy: train mae and resnet_test in experiments of their own" in message


def test_a_resnet_as_a_teacher(scenery: Scenery) -> None:
    recipe = {**RECIPES["dino"], "teacher": {"recipe": "simclr", "backbone": "resnet_test"}}
    scenery.write("recipes/test/dino.yaml", recipe)
    with pytest.raises(UserError, match=r"dino.yaml: teacher.backbone: resnet_test is a ResNet"):
        _experiment(scenery, methods=["dino"])


def test_a_view_with_too_few_or_too_many_images(scenery: Scenery) -> None:
    views = [{"area": [0.2, 1.0]}]
    path = scenery.write("recipes/test/a.yaml", _changed(RECIPES["beit"], "training", views=views))
    assert "method beit needs the key training.views[0].second" in _error(path, Recipe)
    views = [{"area": [0.2, 1.0], "second": {}, "order": ["flip", "crop"]}]
    path = scenery.write("recipes/test/b.yaml", _changed(RECIPES["mae"], "training", views=views))
    assert "method mae takes no second image" in _error(path, Recipe)
    views = [{"area": [0.2, 1.0], "second": {}}]
    path = scenery.write("recipes/test/c.yaml", _changed(RECIPES["beit"], "training", views=views))
    assert "order ends with solarize: a view with a second image must end with crop" in _error(
        path, Recipe
    )


def test_tokens_that_do_not_match_the_patches(scenery: Scenery) -> None:
    assert _experiment(scenery, methods=["beit"]).recipes["beit"].tokenizer == "dalle"
    view = {**RECIPES["beit"]["training"]["views"][0], "second": {"size": 16}}
    path = scenery.recipe("beit", views=[view])
    with pytest.raises(UserError) as caught:
        _experiment(scenery, methods=["beit"])
    message = str(caught.value)
    assert message.startswith(f"{path}: training.views[0].second.size: 16 px")
    assert "tokenizer dalle makes 2 tokens a side" in message
    assert "backbone vit_test has 4 patches" in message
    assert "allowed: 32" in message


TEXT = {
    "methods": ["random", "clip"],
    "tasks": {"knn": ["knn"], "zeroshot": ["zeroshot"]},
}


def _text_experiment(scenery: Scenery, **changes: Any) -> Plan:
    content = {"prompts": ["a {class}"], "crop_fraction": 1.0}
    scenery.write("protocols/zeroshot.yaml", content)
    scenery.write("protocols/retrieval.yaml", {"k": [1], "crop_fraction": 1.0})
    return _experiment(scenery, **{**TEXT, **changes})


def test_a_text_task_has_the_rows_of_methods_with_a_text_tower(scenery: Scenery) -> None:
    plan = _text_experiment(scenery)
    assert list(plan.rows("zeroshot")) == [("vit_test", "clip", 0)]
    assert len(list(plan.rows("knn"))) == len(list(plan.rows())) == 2


@pytest.mark.parametrize("key", ["chain", "text_methods"])
def test_keys_of_earlier_versions_are_named(key: str, scenery: Scenery) -> None:
    path = scenery.write("experiments/x.yaml", {**_EXPERIMENT, key: []})
    message = _error(path, Experiment)
    assert f"the key '{key}' is no longer needed: remove it" in message
    assert "_EXPERIMENT" not in message
    assert _EXPERIMENT["question"] not in message, "the whole file is in the message"


def test_a_text_task_needs_a_text_tower(scenery: Scenery) -> None:
    with pytest.raises(UserError, match=r"zeroshot needs a text tower"):
        _text_experiment(scenery, methods=["random"])


def test_captions_are_asked_for_before_any_work(scenery: Scenery) -> None:
    with pytest.raises(UserError, match=r"noise has no captions, which retrieval needs"):
        _text_experiment(scenery, tasks={"retrieval": ["retrieval"]})
    recipe = RECIPES["clip"]
    method = {**recipe["method"], "prompts": None}
    scenery.write("recipes/test/clip.yaml", {**recipe, "method": method})
    with pytest.raises(UserError, match=r"noise has no captions, which recipe clip needs"):
        _text_experiment(scenery)


def test_a_prompt_names_the_class(scenery: Scenery) -> None:
    recipe = _changed(RECIPES["clip"], "method", prompts=["a photo"])
    path = scenery.write("recipes/test/a.yaml", recipe)
    assert "method.prompts[0]" in _error(path, Recipe)


def test_a_vocabulary_is_learnt_or_read(scenery: Scenery) -> None:
    for vocabulary in ({}, {"size": 300, "file": "a.json"}):
        recipe = _changed(RECIPES["clip"], "method", vocabulary=vocabulary)
        path = scenery.write("recipes/test/a.yaml", recipe)
        assert "give size, to learn a vocabulary, or file, to read one" in _error(path, Recipe)


def test_a_head_that_takes_all_blocks_for_early_ones(scenery: Scenery) -> None:
    method = {**RECIPES["beit2"]["method"], "aggregation": {"early_layers": 2}}
    path = scenery.write("recipes/test/beit2.yaml", {**RECIPES["beit2"], "method": method})
    with pytest.raises(UserError) as caught:
        _experiment(scenery, methods=["beit2"])
    message = str(caught.value)
    assert message.startswith(f"{path}: method.aggregation.early_layers: 2, and the backbone has 2")
    assert "allowed: 1 to 1" in message
    assert "remedy: change the key, or leave backbone vit_test out" in message


def test_masks_that_hide_nothing(scenery: Scenery) -> None:
    method = {**RECIPES["beit"]["method"], "masks": {"ratio": 0.05}}
    path = scenery.write("recipes/test/beit.yaml", {**RECIPES["beit"], "method": method})
    with pytest.raises(UserError) as caught:
        _experiment(scenery, methods=["beit"])
    assert str(caught.value).startswith(
        f"{path}: method.masks.ratio: 0.05, of 16 patches not one | allowed: 0.0625 or more"
    )


def test_segmentation_needs_patches(scenery: Scenery) -> None:
    protocol = {"epochs": 1, "batch_size": 4, "lr": 0.01, "weight_decay": 0.0}
    scenery.write("protocols/segment.yaml", protocol)
    scenery.write("datasets/boxes.yaml", _BOXES)
    tasks = {"segment": ["segment"]}
    experiment = {"methods": ["random"], "detection_dataset": "boxes", "tasks": tasks}
    _experiment(scenery, **experiment)
    with pytest.raises(UserError, match="segment reads tokens, and backbone resnet_test"):
        _experiment(scenery, **experiment, backbones=["resnet_test"])


def test_trials_are_told_and_no_part_of_a_run(scenery: Scenery) -> None:
    before = load(scenery.params / "recipes/test/mae.yaml", Recipe)
    file = scenery.write("recipes/test/mae.yaml", {**RECIPES["mae"], "trials": 3})
    recipe = load(file, Recipe)
    assert recipe.trials == 3
    assert recipe.resolved() == before.resolved()
    kept = {**RECIPES["mae"]["training"], "keep_epochs": [1]}
    scenery.write("recipes/test/mae.yaml", {**RECIPES["mae"], "training": kept, "trials": 3})
    found = _experiment(scenery, methods=["random", "mae"]).experiment
    assert found.trials == {"mae": 3, "mae-e1": 3}
    for wrong in (0, 1.5, "some"):
        scenery.write("recipes/test/mae.yaml", {**RECIPES["mae"], "trials": wrong})
        with pytest.raises(UserError, match=r"mae\.yaml: trials"):
            load(file, Recipe)


def test_object_layout_needs_tokens(scenery: Scenery) -> None:
    scenery.write("protocols/layout.yaml", {"mass": 0.6, "crop_fraction": 1.0})
    scenery.write("datasets/boxes.yaml", _BOXES)
    layout = {"methods": ["random"], "detection_dataset": "boxes", "tasks": {"layout": ["layout"]}}
    _experiment(scenery, **layout)
    with pytest.raises(UserError, match="layout reads tokens, and backbone resnet_test"):
        _experiment(scenery, **layout, backbones=["resnet_test"])
    arguments = {**BACKBONE["model_args"], "class_token": False, "global_pool": "avg"}
    scenery.write("backbones/no_token.yaml", {**BACKBONE, "model_args": arguments})
    with pytest.raises(UserError, match="layout looks from the class token, which backbone no_tok"):
        _experiment(scenery, **layout, backbones=["no_token"])


@pytest.mark.parametrize(
    ("task", "protocol"),
    [
        ("segment", {"epochs": 1, "batch_size": 4, "lr": 0.01, "weight_decay": 0.0}),
        ("layout", {"mass": 0.6, "crop_fraction": 1.0}),
        ("detect", {**SMALL, "masks": True}),
    ],
)
def test_masks_are_asked_of_the_dataset_before_any_work(
    task: str, protocol: dict[str, Any], scenery: Scenery
) -> None:
    scenery.write("protocols/objects.yaml", protocol)
    experiment = {
        "methods": ["random"],
        "detection_dataset": "boxes",
        "tasks": {task: ["objects"]},
    }
    scenery.write("datasets/boxes.yaml", _BOXES)
    _experiment(scenery, **experiment)
    scenery.write("datasets/boxes.yaml", {**_BOXES, "masks": False})
    with pytest.raises(UserError, match=rf"boxes\.yaml says masks: false, and {task} needs masks"):
        _experiment(scenery, **experiment)
    # Semantic masks, which have no boxes, are enough for segment.
    lacking = "masks" if task == "segment" else "boxes"
    with pytest.raises(UserError, match=rf"noise\.yaml has no {lacking}, which {task} needs"):
        _experiment(scenery, **{**experiment, "detection_dataset": "noise"})


@pytest.mark.parametrize("masks", ["auto", False])
def test_a_detector_without_masks_takes_boxes_alone(masks: Any, scenery: Scenery) -> None:
    scenery.write("protocols/objects.yaml", {**SMALL, "masks": masks})
    scenery.write("datasets/boxes.yaml", {**_BOXES, "masks": False})
    tasks = {"detect": ["objects"]}
    _experiment(scenery, methods=["random"], detection_dataset="boxes", tasks=tasks)


_DRAWN = read_yaml(REPOSITORY / "params/datasets/shapes_independent.yaml")


@pytest.mark.parametrize(
    ("task", "fits", "said"),
    [
        ("decode", {}, "has no recorded, independent factors, which decode needs"),
        ("bias", {"cues": None, "conflicts": True}, "has no cues that conflict, which bias needs"),
    ],
)
def test_what_features_see_is_asked_of_drawn_sets_before_any_work(
    task: str, fits: dict[str, Any], said: str, scenery: Scenery
) -> None:
    protocol = read_yaml(REPOSITORY / f"params/protocols/{task}.yaml")
    scenery.write(f"protocols/{task}.yaml", protocol)
    experiment = {"methods": ["random"], "tasks": {task: [task]}}
    with pytest.raises(UserError, match=f"tasks has {task}, so the key '{task}_dataset' is needed"):
        _experiment(scenery, **experiment)
    experiment[f"{task}_dataset"] = "drawn"
    scenery.write("datasets/drawn.yaml", {**_DRAWN, **fits})
    plan = _experiment(scenery, **experiment)
    assert plan.dataset_names() == ["noise", "drawn"]
    for unfit in ({"cues": None}, {"cues": {"colour": 0.5}}):
        scenery.write("datasets/drawn.yaml", {**_DRAWN, **unfit})
        with pytest.raises(UserError, match=rf"{task}_dataset: .*drawn\.yaml {said}") as caught:
            _experiment(scenery, **experiment)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=rf"noise\.yaml {said}"):
        _experiment(scenery, **{**experiment, f"{task}_dataset": "noise"})


OFFICIAL = {
    "name": "mae_official",
    "format": "mae",
    "checkpoint": "official/mae.pth",
    "backbone": "vit_test",
}


def test_an_official_checkpoint_is_a_row_of_its_backbone(scenery: Scenery) -> None:
    scenery.write("backbones/vit_other.yaml", BACKBONE)
    methods = ["random", {"imported": OFFICIAL}]
    plan = _experiment(scenery, methods=methods, backbones=["vit_test", "vit_other"])
    assert list(plan.rows()) == [
        ("vit_test", "random", 0),
        ("vit_test", "mae_official", 0),
        ("vit_other", "random", 0),
    ]
    assert [node.recipe for node in plan.needs if isinstance(node, Pretraining)] == ["random"] * 2
    assert plan.experiment.imported["mae_official"].options == [
        *("--format", "mae", "--official", "official/mae.pth")
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "may"}, "'methods[0].imported.format' is 'may' (str), but: Input should be"),
        ({"format": "dalle"}, "'methods[0].imported.format' is 'dalle'"),
        ({"weights": "x"}, "unknown key 'methods[0].imported.weights'"),
        ({"checkpoint": "/official/mae.pth"}, "a path below the data root"),
        ({"checkpoint": "../mae.pth"}, "a path below the data root"),
        ({"name": "mae official"}, "'methods[0].imported.name' is 'mae official'"),
        ({"backbone": "vit_b16"}, "mae_official is on backbone vit_b16, which is not among"),
    ],
)
def test_an_official_checkpoint_that_cannot_be(
    scenery: Scenery, changes: dict[str, Any], message: str
) -> None:
    content = {**_EXPERIMENT, "methods": [{"imported": {**OFFICIAL, **changes}}]}
    assert message in _error(scenery.write("experiments/x.yaml", content), Experiment)


def test_a_method_that_is_neither_recipe_nor_checkpoint(scenery: Scenery) -> None:
    content = {**_EXPERIMENT, "methods": ["mae", {"import": OFFICIAL}]}
    message = _error(scenery.write("experiments/x.yaml", content), Experiment)
    assert "key 'methods[1].imported' is missing; unknown key 'methods[1].import'" in message


def test_an_official_checkpoint_by_the_name_of_a_recipe(scenery: Scenery) -> None:
    with pytest.raises(
        UserError, match=r"methods\[0\].imported.name: 'mae' is the name of a recipe"
    ):
        _experiment(scenery, methods=[{"imported": {**OFFICIAL, "name": "mae"}}])


def test_formats_are_those_that_can_be_read() -> None:
    assert set(get_args(Format)) == set(FORMATS)
