"""Weights that a pretraining starts from: what fits, what is refused, and where they go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steps.artifacts import publish
from steps.command import UserError
from steps.core.seeds import seeded
from steps.evaluation.online import KNNWatch
from steps.exporting.transformers import write_transformers
from steps.methods import MethodContext, backbone_for, build_method, start_from
from steps.models.backbones import (
    create_backbone,
    in_channels,
    load_backbone,
    normalisation,
    save_backbone,
    with_channels,
)
from steps.models.positions import WITH_OFFSET, resize_table
from steps.official.fit import Fitted
from steps.official.initial import initial_weights
from steps.params.backbone import Backbone
from steps.params.load import load, read_yaml, validate
from steps.params.recipe import Init, OnlineKNN, Recipe
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE, RECIPES, RESNET, Scenery
from tests.unit.models.official.test_pretrained import hub_folder

RECIPE, NETWORK = Path("recipes/mae.yaml"), Path("backbones/vit.yaml")
VIT = Backbone(**BACKBONE)
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
CONTINUED = sorted((REPOSITORY / "params/recipes").glob("*/continue_*.yaml"))


def artifact(out: Path, backbone: Backbone = VIT, seed: int = 7) -> Path:
    """A backbone of random weights, published as a pretraining's."""
    with publish(out, node="pretrain", params={}, inputs={}, seed=seed) as draft:
        with seeded(seed, "pretrained"):
            model = create_backbone(backbone)
        save_backbone(model, backbone, draft.path, mean=MEAN, std=STD)
        draft.facts.update(recipe="pretrained", backbone="vit_test")
    return out


def weights_file(path: Path, change: Callable[[dict[str, Tensor]], object] | None = None) -> Path:
    """A file of the weights of a timm model with a classifier."""
    model = timm.create_model(
        VIT.architecture, num_classes=5, img_size=32, patch_size=8, **VIT.model_args
    )
    weights = model.state_dict()
    if change is not None:
        change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


def fitted(given: Path, backbone: Backbone = VIT) -> Fitted:
    init = initial_weights(Init(row="pretrained"), given, backbone, RECIPE, NETWORK)
    assert init is not None
    return init


def refusal(given: Path | None, init: Init | None = None, backbone: Backbone = VIT) -> str:
    with pytest.raises(UserError) as caught:
        initial_weights(init or Init(row="pretrained"), given, backbone, RECIPE, NETWORK)
    message = str(caught.value)
    assert "\n" not in message
    assert "remedy:" in message
    return message


# --- What fits


def test_an_artifact_brings_its_normalisation_and_digest(tmp_path: Path) -> None:
    path = artifact(tmp_path / "a")
    init = fitted(path)
    assert init.weights.normalisation == (MEAN, STD)
    assert init.weights.artifact == path
    assert init.facts == {"source": f"artifact {path}", "digest": init.weights.digest}
    model = load_backbone(path)
    assert all(torch.equal(init.tensors[name], each) for name, each in model.state_dict().items())
    assert init.changes == []


def test_of_a_timm_file_a_classifier_is_left_out(tmp_path: Path) -> None:
    path = weights_file(tmp_path / "vit.safetensors")
    init = fitted(path)
    assert init.changes == ["left out head.bias, head.weight"]
    assert init.weights.normalisation is None
    assert init.weights.artifact is None
    # As a training script of timm keeps it.
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in init.weights.tensors.items()}},
        tmp_path / "vit.pth",
    )
    again = initial_weights(Init(timm=str(tmp_path / "vit.pth")), None, VIT, RECIPE, NETWORK)
    assert again is not None
    assert again.weights.digest != init.weights.digest
    assert all(torch.equal(again.tensors[name], each) for name, each in init.tensors.items())


def test_positions_of_another_grid_are_resized(tmp_path: Path) -> None:
    path = artifact(tmp_path / "a")
    init = fitted(path, VIT.model_copy(update={"image_size": 48}))
    assert init.changes == ["positions resized from 4 x 4 to 6 x 6"]
    table = load_backbone(path).pos_embed
    expected = resize_table(table, (6, 6), 1, WITH_OFFSET)
    assert torch.equal(init.tensors["pos_embed"], expected)


def test_a_downloaded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_backbone(VIT)

    def create(name: str, **options: Any) -> Any:
        assert options == {"pretrained": True, "num_classes": 0}
        return model

    init = Init(timm="vit_tiny_patch16_224")
    with monkeypatch.context() as patch:
        patch.setattr("steps.official.initial.create_backbone", lambda _: model)
        patch.setattr("timm.create_model", create)
        found = initial_weights(init, None, VIT, RECIPE, NETWORK)
    assert found is not None
    assert found.facts["source"] == "timm vit_tiny_patch16_224"
    assert found.weights.normalisation == ([0.5] * 3, [0.5] * 3)
    assert len(found.weights.digest) == 64


# --- A folder of transformers


HUB: dict[str, dict[str, Any]] = {
    "vit": {},
    "dinov2": {"backbone": {"layer_scale": 0.5}},
    "dinov2_registers": {"backbone": {"layer_scale": 0.5, "registers": 2}},
    "dinov2_gated": {"backbone": {"layer_scale": 0.5, "ffn": "swiglu"}},
    "beit": {},
}


def hub_backbone(name: str) -> Backbone:
    recipe = RECIPES["mae" if name == "vit" else name.partition("_")[0]]
    method = {**recipe["method"], **HUB[name]}
    return backbone_for(validate({**recipe, "method": method}, Recipe, name).method, VIT)


@pytest.mark.parametrize("name", HUB)
def test_a_folder_of_transformers_gives_back_what_was_exported(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    backbone = hub_backbone(name)
    with seeded(1, "pretrained"):
        model = create_backbone(backbone).eval()
    (tmp_path / "hub").mkdir()
    options: dict[str, Any] = {"mean": MEAN, "std": STD, "crop_fraction": 1.0, "where": name}
    write_transformers(model, tmp_path / "hub", **options)
    init = initial_weights(
        Init(transformers=str(tmp_path / "hub")), None, backbone, RECIPE, NETWORK
    )
    assert init is not None
    weights = model.state_dict()
    assert init.tensors.keys() == weights.keys()
    assert all(torch.equal(init.tensors[key], each) for key, each in weights.items())
    assert init.weights.normalisation == (MEAN, STD)
    assert init.changes == ([] if "dinov2" not in name else ["left out embeddings.mask_token"])


def test_of_a_folder_with_a_head_only_the_backbone_is_taken(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.ViTConfig(
        **{**sizes, "intermediate_size": 96, "image_size": 32, "patch_size": 8, "num_labels": 3},
        # timm's; the library's own default is 1e-12.
        layer_norm_eps=1e-6,
    )
    with seeded(1, "pretrained"):
        whole = transformers.ViTForImageClassification(config).eval()
    whole.save_pretrained(tmp_path / "hub")
    init = fitted(tmp_path / "hub")
    assert init.changes == ["left out classifier.bias, classifier.weight"]
    assert init.weights.normalisation is None
    model = create_backbone(VIT).eval()
    model.load_state_dict(init.tensors)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = whole.vit(images).last_hidden_state
        found = model.forward_features(images)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "swin"}, "config.json: model_type swin | allowed: vit, vit_mae, dinov2"),
        ({"patch_size": 16}, "patch size: 16 | allowed: 8"),
        ({"num_channels": 4}, "channels of an image: 4 | allowed: 3"),
        ({"num_attention_heads": 4}, "attention heads: 4 | allowed: 2"),
        ({"hidden_act": "quick_gelu"}, "activation: quick_gelu | allowed: gelu"),
        ({"model_type": "beit"}, "architecture: a BEiT | allowed: a vision transformer"),
        ({}, "no file of weights | allowed: model.safetensors or pytorch_model.bin"),
    ],
)
def test_folders_of_other_models(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = {
        "model_type": "vit",
        "patch_size": 8,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    }
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    if changes:
        save_file({"surprise": torch.zeros(2)}, tmp_path / "model.safetensors")
    assert said in refusal(tmp_path)


def test_a_folder_with_other_tensors(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    options: dict[str, Any] = {"mean": MEAN, "std": STD, "crop_fraction": 1.0, "where": "vit"}
    write_transformers(create_backbone(VIT).eval(), tmp_path, **options)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["layernorm.bias"]
    save_file({**weights, "encoder.surprise": torch.zeros(1)}, file)
    message = refusal(tmp_path)
    assert message.startswith(
        f"transformers {tmp_path}: 2 tensors do not fit the backbone: no norm"
    )
    assert "unknown encoder.surprise" in message


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        (1, "for three channels added up for one"),
        (4, "for three channels repeated over 4 channels, times 3/4"),
        (6, "for three channels repeated over 6 channels, times 3/6"),
    ],
)
@pytest.mark.parametrize("kind", ["artifact", "file", "transformers"])
def test_a_first_layer_is_spread_over_other_channels(
    channels: int, said: str, kind: str, tmp_path: Path
) -> None:
    stem = "patch_embed.proj.weight"
    path = tmp_path / "a"
    if kind == "transformers":
        pytest.importorskip("transformers")
        path.mkdir()
        options: dict[str, Any] = {"mean": MEAN, "std": STD, "crop_fraction": 1.0, "where": kind}
        write_transformers(create_backbone(VIT).eval(), path, **options)
    elif kind == "artifact":
        artifact(path)
    else:
        path = weights_file(tmp_path / "a.safetensors")
    three = fitted(path).tensors[stem]
    found = fitted(path, with_channels(VIT, channels))
    assert said in found.facts["first_layer"]
    assert found.facts["first_layer"] in found.changes
    ours = found.tensors[stem]
    assert ours.shape[1] == channels
    if channels == 1:
        assert torch.allclose(ours, three.sum(dim=1, keepdim=True))
    else:
        for channel in range(channels):
            assert torch.allclose(ours[:, channel], three[:, channel % 3] * 3 / channels)
    # Gray images of all channels give what they gave, where each filter comes in equally often.
    if channels % 3 == 0 or channels == 1:
        assert torch.allclose(ours.sum(dim=1), three.sum(dim=1), atol=1e-6)
    others = {name: tensor for name, tensor in found.tensors.items() if name != stem}
    assert all(torch.equal(tensor, fitted(path).tensors[name]) for name, tensor in others.items())


def test_weights_for_three_channels_are_left_as_they_are(tmp_path: Path) -> None:
    found = fitted(artifact(tmp_path / "a"))
    assert found.changes == []
    assert found.facts.keys() == {"source", "digest"}


def test_weights_for_four_channels(tmp_path: Path) -> None:
    """They go on at four, timm loads them whole, and three or five are refused."""
    four = with_channels(VIT, 4)
    path = artifact(tmp_path / "a", four)
    found = fitted(path, four)
    assert found.changes == []
    model = timm.create_model(f"local-dir:{path}", pretrained=True)
    assert torch.equal(model.patch_embed.proj.weight, found.tensors["patch_embed.proj.weight"])
    assert "channels of an image: 4 | allowed: 3" in refusal(path)
    assert "channels of an image: 4 | allowed: 5" in refusal(path, backbone=with_channels(VIT, 5))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_resnet_of_other_channels_is_read_whole(channels: int, tmp_path: Path) -> None:
    resnet = with_channels(Backbone(**RESNET), channels)
    path = artifact(tmp_path / "a", resnet)
    model = load_backbone(path)
    assert in_channels(model) == channels
    first = model.state_dict()["conv1.weight"]
    assert torch.equal(first, fitted(path, resnet).tensors["conv1.weight"])


def test_rotary_backbones_start_there_too(tmp_path: Path) -> None:
    theirs = hub_folder("dinov3", tmp_path / "hub")
    sizes = {**BACKBONE["model_args"], "num_reg_tokens": 3, "mlp_ratio": 40 / 24, "qkv_bias": True}
    network = {**BACKBONE, "architecture": "vit_small_patch16_dinov3", "model_args": sizes}
    init = fitted(tmp_path / "hub", Backbone(**network))
    assert init.changes == ["left out embeddings.mask_token"]
    model = create_backbone(Backbone(**network)).eval()
    model.load_state_dict(init.tensors)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs(pixel_values=images).last_hidden_state
        assert torch.allclose(model.forward_features(images), expected, atol=1e-4)
    message = refusal(
        tmp_path / "hub",
        backbone=Backbone(**{**network, "model_args": {**sizes, "rope_temperature": 10.0}}),
    )
    assert "base of the rotary positions: 100.0 | allowed: 10.0, as the recipe trains" in message
    assert "architecture: a transformer of timm's class Eva | allowed: a vision tran" in refusal(
        tmp_path / "hub"
    )


def test_a_folder_of_timm(tmp_path: Path) -> None:
    weights_file(tmp_path / "model.safetensors")
    config = {"architecture": VIT.architecture, "pretrained_cfg": {"mean": MEAN, "std": STD}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    init = fitted(tmp_path)
    assert init.weights.normalisation == (MEAN, STD)
    assert init.facts["source"] == f"timm folder {tmp_path}"
    assert Init(timm=str(tmp_path)).path == str(tmp_path)
    assert Init(timm="hf-hub:timm/vit_tiny").path is None
    (tmp_path / "model.safetensors").unlink()
    assert "no file of weights | allowed: model.safetensors" in refusal(tmp_path)


# --- What is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": 4}, "patch size: 8 | allowed: 4, as the recipe trains it on backbone"),
        ({"model_args": {**VIT.model_args, "embed_dim": 48}}, "width: 24 | allowed: 48"),
        ({"model_args": {**VIT.model_args, "depth": 3}}, "blocks: 2 | allowed: 3"),
        ({"model_args": {**VIT.model_args, "num_heads": 3}}, "attention heads: 2 | allowed: 3"),
        (
            {"architecture": "resnet18_small_stem", "patch_size": None, "model_args": {}},
            "architecture: a vision transformer | allowed: a ResNet",
        ),
        (
            {"model_args": {**VIT.model_args, "init_values": 0.1}},
            "4 tensors do not fit the backbone: no blocks.0.ls1.gamma; no blocks.0.ls2.gamma;",
        ),
    ],
)
def test_another_architecture(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = artifact(tmp_path / "a")
    message = refusal(path, backbone=VIT.model_copy(update=changes))
    assert message.startswith(f"artifact {path}: ")
    assert said in message


def test_a_beit_is_no_plain_transformer(tmp_path: Path) -> None:
    beit = backbone_for(validate(RECIPES["beit"], Recipe, "beit").method, VIT)
    message = refusal(artifact(tmp_path / "a"), backbone=beit)
    assert "architecture: a vision transformer | allowed: a BEiT" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda weights: weights.pop("blocks.1.norm1.bias"),
            "1 tensors do not fit the backbone: no",
        ),
        (
            lambda weights: weights.update(surprise=torch.zeros(2)),
            "1 tensors do not fit the backbone: unknown surprise",
        ),
        (
            lambda weights: weights.update(pos_embed=torch.zeros(1, 12, 24)),
            "pos_embed is (1, 12, 24), not (1, 17, 24)",
        ),
        (
            lambda weights: weights.update({"norm.bias": torch.full((24,), float("nan"))}),
            "norm.bias: 24 of 24 numbers are not finite",
        ),
    ],
)
def test_a_file_with_other_tensors(
    change: Callable[[dict[str, Tensor]], object], said: str, tmp_path: Path
) -> None:
    path = weights_file(tmp_path / "vit.safetensors", change)
    message = refusal(path)
    assert message.startswith(f"file {path}: ")
    assert said in message


def test_places_that_hold_no_weights(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    message = refusal(tmp_path / "empty")
    assert (
        f"--init {tmp_path / 'empty'}: {tmp_path / 'empty'} is a folder without manifest.json"
        in (message)
    )
    message = refusal(None, Init(artifact="results/nothing"))
    assert message.startswith("recipes/mae.yaml: init: no results/nothing | allowed: the folder of")
    (tmp_path / "text.pth").write_text("no weights")
    assert "not readable as weights alone" in refusal(tmp_path / "text.pth")


def test_weights_that_are_needed_or_not(tmp_path: Path) -> None:
    message = refusal(None)
    assert message.startswith("recipes/mae.yaml: init: row pretrained, but no --init is given")
    with pytest.raises(UserError, match=r"recipes/mae\.yaml names no init"):
        initial_weights(None, tmp_path, VIT, RECIPE, NETWORK)
    assert initial_weights(None, None, VIT, RECIPE, NETWORK) is None


def test_a_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    message = refusal(None, Init(timm="vit_smal_patch16_224.dino"))
    assert "did you mean 'vit_small_patch16_224.dino'?" in message

    def offline(*_: Any, **__: Any) -> Any:
        raise OSError("no network\nand more")

    model = create_backbone(VIT)
    with monkeypatch.context() as patch:
        patch.setattr("steps.official.initial.create_backbone", lambda _: model)
        patch.setattr("timm.create_model", offline)
        with pytest.raises(UserError) as caught:
            initial_weights(Init(timm="vit_small_patch16_224.dino"), None, VIT, RECIPE, NETWORK)
    message = str(caught.value)
    assert message.startswith("recipes/mae.yaml: init.timm: vit_small_patch16_224.dino is neither")
    assert "downloaded: no network | remedy: run where a network is, or give a file" in message


@pytest.mark.parametrize(
    ("name", "init", "training", "said"),
    [
        ("mae", {}, {}, "init has no key; one of row, artifact, timm and transformers is needed"),
        ("mae", {"row": "a", "timm": "b"}, {}, "init has row and timm"),
        ("mae", {"artifact": "-rf"}, {}, "text that does not begin with -"),
        ("mp3", {"row": "a"}, {}, "method mp3 takes no init: remove 'init'"),
        ("random", {"row": "a"}, {}, "method random takes no init"),
        ("mae", None, {"freeze_backbone_epochs": 1}, "the recipe has none: remove the key"),
        ("mae", {"row": "a"}, {"freeze_backbone_epochs": 99}, "leaves none of the"),
    ],
)
def test_recipes_that_name_no_weights(
    name: str, init: dict[str, Any] | None, training: dict[str, Any], said: str
) -> None:
    content = {**RECIPES[name]} if init is None else {**RECIPES[name], "init": init}
    if training:
        content["training"] = {**content["training"], **training}
    with pytest.raises(UserError) as caught:
        validate(content, Recipe, "recipe")
    assert said in str(caught.value)


def test_recipes_without_init_have_the_params_of_before() -> None:
    values = validate(RECIPES["mae"], Recipe, "recipe").resolved()
    assert "init" not in values
    assert "freeze_backbone_epochs" not in values["training"]
    content = {**RECIPES["mae"], "init": {"row": "pretrained"}}
    content["training"] = {**content["training"], "freeze_backbone_epochs": 0.5}
    values = validate(content, Recipe, "recipe").resolved()
    assert values["init"]["row"] == "pretrained"
    assert values["training"]["freeze_backbone_epochs"] == 0.5


# --- Where they go


@pytest.mark.parametrize("name", ["dino", "dinov2", "ibot", "mae", "mocov3", "simclr"])
def test_student_and_average_start_there(name: str, tmp_path: Path) -> None:
    recipe = validate(RECIPES[name], Recipe, name)
    assert recipe.training is not None
    backbone = backbone_for(recipe.method, VIT)
    path = artifact(tmp_path / "a", backbone)
    views = recipe.training.views
    sides = tuple(view.size or 32 for view in views for _ in range(view.count))
    model = create_backbone(backbone)
    method: Any = build_method(recipe.method, model, MethodContext(views=len(sides), sides=sides))
    new = start_from(method, model, fitted(path, backbone).tensors)
    expected = load_backbone(path).state_dict()
    exported = method.export_backbone().state_dict()
    assert exported.keys() == expected.keys()
    assert all(torch.equal(exported[key], each) for key, each in expected.items())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(method.export_backbone().eval()(images), load_backbone(path)(images))
    # The student is what the average is a copy of.
    if name == "dinov2":
        assert torch.equal(method.student.backbone.cls_token, expected["cls_token"])
        assert torch.equal(method.teacher.backbone.pos_embed, method.student.backbone.pos_embed)
    assert {
        "dino": {"student.head", "teacher.head", "center"},
        "dinov2": {"mask_token", "student.dino_head", "teacher.dino_head"},
        "ibot": {"student.head", "teacher.head"},
        "mae": {"decoder"},
        "mocov3": {"pair.predictor"},
        "simclr": {"projector"},
    }[name] <= set(new)


# --- Continued pretraining through the command line


def _step(scenery: Scenery, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    import steps.pretrain

    monkeypatch.chdir(scenery.root)
    monkeypatch.setattr("sys.argv", ["steps.pretrain", *arguments])
    steps.pretrain.main()


def _watch_backbone(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """After each step, if the student's backbone still has the weights that it started from."""
    moved: list[bool] = []
    started: list[Any] = []

    def start(method: Any, model: Any, weights: dict[str, Tensor]) -> list[str]:
        started.append(model)
        new = start_from(method, model, weights)
        started.append({name: each.clone() for name, each in model.state_dict().items()})
        return new

    def stepped(*_: Any) -> None:
        model, before = started
        now = model.state_dict()
        moved.append(not all(torch.equal(now[name], each) for name, each in before.items()))

    monkeypatch.setattr("steps.pretrain.start_from", start)
    monkeypatch.setattr("steps.engine.monitor.Monitor.stepped", stepped)
    return moved


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("name", "frozen", "steps"), [("mae", 1.5, 3), ("dinov2", 1, 2)])
def test_the_first_point_is_the_weights_own_accuracy(
    name: str,
    frozen: float,
    steps: int,
    scenery: Scenery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = scenery.images(train=80, val=40, classes=40)
    knn = {"every_epochs": 1, "train": 80, "val": 40, "k": 1}
    path = scenery.recipe(
        name, epochs=2, batch_size=40, max_batch_per_device=40, knn=knn, workers=0
    )
    content = {**RECIPES[name], "init": {"row": "pretrained"}}
    content["training"] = validate(read_yaml(path), Recipe, name).resolved()["training"]
    content["training"]["freeze_backbone_epochs"] = frozen
    content["training"].pop("final_phase")
    path = scenery.write("recipes/test/continued.yaml", content)
    recipe = load(path, Recipe)
    start = artifact(scenery.root / "start", backbone_for(recipe.method, VIT))
    out = scenery.root / "out"
    moved = _watch_backbone(monkeypatch)
    with caplog.at_level("INFO"):
        _step(
            scenery,
            monkeypatch,
            *scenery.pretrain_arguments(path, data, out),
            *("--init", str(start)),
        )
    watch = KNNWatch(data, OnlineKNN(**knn), 32, *normalisation(start))
    first, *rest = _lines(out)
    assert first == {"step": 0, "epoch": 0.0, "knn_top1": watch.measure(load_backbone(start))}
    assert first["knn_top1"] < 100
    assert rest[-1]["epoch"] == 2
    # Of four steps, two an epoch, the first ones leave the backbone as it started.
    assert moved == [False] * steps + [True] * (4 - steps)
    assert "loss" in rest[-1]
    manifest = json.loads((out / "manifest.json").read_text())
    digest = json.loads((start / "manifest.json").read_text())["digest"]
    assert manifest["inputs"]["init"] == digest
    assert manifest["facts"]["init"]["source"] == f"artifact {start}"
    assert manifest["facts"]["init"]["digest"] == digest
    assert manifest["facts"]["elsewhere"] == ["pretrained"]
    # The images are normalised as the weights expect them.
    assert normalisation(out) == (MEAN, STD)
    assert f"starts from artifact {start} (sha256 {digest[:12]})" in caplog.text
    assert "new: " in caplog.text


@pytest.mark.parametrize("path", CONTINUED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_recipe_of_continued_pretraining_is_valid(path: Path) -> None:
    recipe = load(path, Recipe)
    assert recipe.init == Init(row="pretrained")
    training = recipe.training
    assert training is not None
    assert 0 < training.freeze_backbone_epochs < training.epochs
    # The same method as from random weights, for fewer epochs at a lower rate.
    name = path.stem.removeprefix("continue_")
    other = {("imagenet", "simclr"): "simclr_vit"}.get((path.parent.name, name), name)
    scratch = load(path.with_name(f"{other}.yaml"), Recipe)
    assert scratch.training is not None
    assert recipe.method.name == scratch.method.name == name
    assert training.epochs <= scratch.training.epochs
    assert training.views == scratch.training.views
    assert training.schedule.warmup_epochs < scratch.training.schedule.warmup_epochs
    peaks = [each.optimizer.peak_lr(each.batch_size) for each in (training, scratch.training)]
    assert peaks[0] < peaks[1]


def test_the_regimes_that_have_them() -> None:
    found = {(path.parent.name, path.stem) for path in CONTINUED}
    assert found == {
        (regime, f"continue_{name}")
        for regime in ("small", "cifar10", "imagenet")
        for name in ("dino", "dinov2", "mae", "simclr")
    }
