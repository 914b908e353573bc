"""Every name of an official file is accounted for, and its shapes say what backbone it is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from steps.command import UserError
from steps.methods import MethodContext
from steps.methods.supervised import Supervised
from steps.models.positions import Resizing, resize_relative_table, resize_table
from steps.official.read import Imported, read_backbone
from steps.params.methods.baselines import SupervisedParams
from tests.processes import REPOSITORY

GOLDEN = REPOSITORY / "tests/golden/data/checkpoint_formats/tensors.safetensors"
TABLE = "rel_pos_bias.relative_position_bias_table"


def official(name: str) -> dict[str, Any]:
    """The recorded file of a format, without what is no tensor."""
    content: dict[str, Any] = {}
    for path, tensor in load_file(GOLDEN).items():
        if path.startswith(f"{name}/checkpoint/"):
            *keys, last = path.removeprefix(f"{name}/checkpoint/").split("/")
            table = content
            for key in keys:
                table = table.setdefault(key, {})
            table[last] = tensor
    return content


def read(folder: Path, content: dict[str, Any], kind: str, **options: Any) -> Imported:
    torch.save(content, folder / "official.pth")
    return read_backbone(folder / "official.pth", kind, **{"heads": 3, **options})


def test_missing_and_unknown_names_are_named(tmp_path: Path) -> None:
    content = official("mae")
    del content["model"]["blocks.1.norm1.bias"]
    content["model"]["blocks.1.surprise"] = torch.zeros(1)
    with pytest.raises(UserError) as error:
        read(tmp_path, content, "mae")
    assert "2 tensors do not fit the backbone" in str(error.value)
    assert "no blocks.1.norm1.bias; unknown blocks.1.surprise" in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: tensor.to(torch.complex64), "is complex"),
        (lambda tensor: tensor.to_sparse(), "is sparse"),
        (lambda tensor: tensor.to("meta"), "is without its numbers"),
        (lambda tensor: (tensor * 100).to(torch.int8), "is int8, not floating"),
    ],
)
def test_tensors_that_are_no_plain_weights(change: Any, said: str, tmp_path: Path) -> None:
    """Read all the same, complex ones would lose a part, and whole numbers are of a scale."""
    content = official("mae")
    name = "blocks.1.norm1.bias"
    content["model"][name] = change(content["model"][name])
    with pytest.raises(UserError, match=rf"{name} {said}"):
        read(tmp_path, content, "mae")


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    content = official("mae")
    content["model"][5] = torch.zeros(1)
    with pytest.raises(UserError, match=r"a tensor called 5 \| allowed: names of text"):
        read(tmp_path, content, "mae")


def test_an_object_that_holds_itself_ends(tmp_path: Path) -> None:
    loop = argparse.Namespace(weight=torch.zeros(1))
    loop.inner = loop
    with pytest.raises(UserError, match="no encoder network of mae in it; it begins with weight"):
        read(tmp_path, loop, "mae")  # type: ignore[arg-type]


def test_a_part_that_no_pretraining_has_is_named(tmp_path: Path) -> None:
    content = official("mocov3")
    content["state_dict"]["module.queue"] = torch.zeros(3)
    with pytest.raises(UserError, match="tensors of no part of mocov3: queue"):
        read(tmp_path, content, "mocov3")


def test_the_wrong_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no teacher network of dino in it.*state_dict"):
        read(tmp_path, official("mocov3"), "dino")


def test_heads_that_the_width_does_not_say(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give --heads"):
        read(tmp_path, official("mae"), "mae", heads=None)
    with pytest.raises(UserError, match="give --heads"):
        read(tmp_path, official("mae"), "mae", heads=5)
    # A table by relative position has a column a head.
    assert (
        read(tmp_path, official("beit_pt"), "beit", heads=None).backbone.model_args["num_heads"]
        == 3
    )


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    found = read(tmp_path, {**official("dino_full"), "epoch": 100}, "dino")
    assert sorted(found.left_out) == ["dino_loss", "epoch", "student"]
    assert {"head.last_layer.weight_v", "center"} <= found.heads.keys()
    full = read(tmp_path, official("mae_full"), "mae")
    assert "decoder.blocks (12 tensors)" in full.left_out


def test_blocks_in_chunks_as_a_training_of_dinov2_writes_them(tmp_path: Path) -> None:
    flat = official("dinov2")
    chunked = {name.replace("blocks.", "blocks.0."): tensor for name, tensor in flat.items()}
    trained = {f"backbone.{name}": tensor for name, tensor in chunked.items()}
    trained["dino_head.mlp.0.weight"] = torch.zeros(2, 2)
    plain = read(tmp_path, flat, "dinov2").model.state_dict()
    ours = read(tmp_path, {"teacher": trained}, "dinov2").model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("name", "kind", "resizing"),
    [
        ("mae", "mae", Resizing(offset=0.0)),
        ("dino_backbone", "dino", Resizing()),
        ("dinov2_reg", "dinov2", Resizing(offset=0.0, antialias=True)),
    ],
)
def test_positions_for_another_size(
    name: str, kind: str, resizing: Resizing, tmp_path: Path
) -> None:
    content = official(name)
    small = read(tmp_path, content, kind)
    large = read(tmp_path, content, kind, image_size=24)
    assert (small.backbone.image_size, large.backbone.image_size) == (16, 24)
    table: Tensor = small.model.pos_embed.detach()
    wanted = resize_table(table, (6, 6), table.shape[1] - 16, resizing)
    assert torch.equal(large.model.pos_embed, wanted)
    with pytest.raises(UserError, match="a multiple of 4"):
        read(tmp_path, content, kind, image_size=25)


def test_relative_positions_for_another_size(tmp_path: Path) -> None:
    content = official("beit_pt")
    large = read(tmp_path, content, "beit", image_size=24)
    wanted = resize_relative_table(content["model"][TABLE], 6)
    assert torch.equal(large.model.state_dict()[TABLE], wanted)
    assert large.model.forward_features(torch.zeros(1, 3, 24, 24)).shape == (1, 37, 24)


def test_a_resnet_of_moco_v3(tmp_path: Path) -> None:
    resnet = timm.create_model("resnet50", num_classes=0)
    table = {f"module.base_encoder.{n}": t for n, t in resnet.state_dict().items()}
    table["module.base_encoder.fc.0.weight"] = torch.zeros(2, 2048)
    table["module.predictor.0.weight"] = torch.zeros(2, 2)
    found = read(tmp_path, {"state_dict": table}, "mocov3", heads=None)
    assert found.backbone.architecture == "resnet50"
    assert torch.equal(found.model.conv1.weight, resnet.conv1.weight)


def test_fine_tuning_goes_on_with_the_norm_that_fine_tuning_left(tmp_path: Path) -> None:
    found = read(tmp_path, official("beit_ft"), "beit")
    norm = {name: t.clone() for name, t in found.model.fc_norm.state_dict().items()}
    for pooling in ("mean", "cls"):
        params = SupervisedParams(name="supervised", pooling=pooling)
        method = Supervised(params, found.model, MethodContext(num_classes=6))
        method.logits(torch.randn(2, 3, 16, 16)).sum().backward()
        trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None for parameter in trained)
        if pooling == "mean":
            assert all(torch.equal(method.norm.state_dict()[n], t) for n, t in norm.items())
