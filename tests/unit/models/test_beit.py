"""A plain vision transformer's params as a BEiT's, and its way through our tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.beit import Beit

from steps.artifacts import publish
from steps.command import UserError
from steps.engine.optimizers import layer_of
from steps.methods.build import backbone_for, initialise_untrained
from steps.models import drop_path
from steps.models.backbones import create_backbone, load_backbone, save_backbone
from steps.models.beit import as_beit, initialise_backbone, separate_tables
from steps.models.tokens import embed, encode, relative_bias
from steps.params.backbone import Backbone, BEiTBackbone
from steps.params.load import validate
from steps.params.methods.baselines import RandomParams
from tests.scenery import BACKBONE


def params(**options: Any) -> Backbone:
    return as_beit(Backbone.model_validate(BACKBONE), BEiTBackbone(**options))


def beit(**options: Any) -> Beit:
    """With biases by position that are not zero, as they are at the start."""
    model = create_backbone(params(**options))
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(parameter)
    return model.eval()


def test_width_depth_and_heads_are_the_experiments() -> None:
    model = create_backbone(params())
    assert isinstance(model, Beit)
    assert (model.embed_dim, len(model.blocks)) == (24, 2)
    assert [block.attn.num_heads for block in model.blocks] == [2, 2]
    large = Backbone(
        scale="ViT-L", architecture="vit_large_patch16_224", image_size=224, patch_size=16
    )
    arguments = as_beit(large, BEiTBackbone()).model_args
    assert [arguments[key] for key in ("embed_dim", "depth", "num_heads")] == [1024, 24, 16]


@pytest.mark.parametrize("tables", ["none", "shared", "block", "both"])
@pytest.mark.parametrize("absolute", [False, True])
def test_our_way_through_it_is_its_own(tables: str, absolute: bool, tmp_path: Path) -> None:
    own = params(relative_positions=tables, absolute_positions=absolute, layer_scale=0.3)
    model = beit(relative_positions=tables, absolute_positions=absolute, layer_scale=0.3)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.forward_features(images)
        tokens = encode(model, embed(model, images))
        torch.testing.assert_close(model.norm(tokens), expected)
        halves = encode(model, encode(model, embed(model, images), stop=1), start=1)
        assert torch.equal(halves, tokens)
    with publish(tmp_path / "out", node="pretrain", params={}, inputs={}) as draft:
        save_backbone(model, own, draft.path, mean=[0.5] * 3, std=[0.5] * 3)
    loaded = load_backbone(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(loaded.forward_features(images), expected)


def test_class_token_has_biases_of_its_own() -> None:
    bias = relative_bias(beit())
    assert bias is not None
    assert bias.shape == (2, 17, 17)
    to_patches, from_patches = bias[:, 0, 1:], bias[:, 1:, 0]
    assert (to_patches == to_patches[:, :1]).all()
    assert (from_patches == from_patches[:, :1]).all()
    assert not torch.equal(to_patches, from_patches)
    # Of equal offset: patch 0 to 1 as patch 1 to 2, and not as 1 to 0.
    assert torch.equal(bias[:, 1, 2], bias[:, 2, 3])
    assert not torch.equal(bias[:, 1, 2], bias[:, 2, 1])


def test_dropped_branches_are_the_draws() -> None:
    model = beit()
    drop_path.install(model, 0.5)
    tokens = embed(model, torch.randn(3, 3, 32, 32))
    keep = torch.ones(3, 4, dtype=torch.bool)
    keep[1] = torch.tensor([True, True, False, False])
    with torch.no_grad():
        out = encode(model, tokens, keep)
        # The last block's rate is 0.5, the first's 0: sample 1 leaves the last one as it came.
        assert torch.equal(out[1], encode(model, tokens, stop=1)[1])
        assert not torch.allclose(out[0], encode(model, tokens)[0]), "kept branches are scaled"


@pytest.mark.parametrize("tables", ["shared", "both"])
def test_tables_of_their_own_change_nothing_yet(tables: str) -> None:
    model = beit(relative_positions=tables)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model.forward_features(images)
        separate_tables(model)
        torch.testing.assert_close(model.forward_features(images), expected)
    names = [name for name, _ in model.named_parameters() if name.endswith("bias_table")]
    assert names == [f"blocks.{i}.attn.relative_position_bias_table" for i in range(2)]
    assert [layer_of(f"backbone.{name}", 2) for name in names] == [1, 2]


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = create_backbone(params(absolute_positions=True))
    initialise_backbone(model, 0.02)
    assert model.blocks[0].mlp.fc1.weight.abs().max() <= 0.02
    assert model.cls_token.abs().max() <= 0.02
    # Cut at one deviation, a normal has 0.54 of it; the published note says 0.0108.
    assert model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.0108, rel=0.05)
    for index, block in enumerate(model.blocks):
        limit = 0.02 / (2 * (index + 1)) ** 0.5
        assert limit * 0.9 < block.mlp.fc2.weight.abs().max() <= limit
        assert limit * 0.9 < block.attn.proj.weight.abs().max() <= limit


def test_the_floor_has_the_initial_values_of_the_methods_above_it() -> None:
    floor = RandomParams(name="random", backbone=BEiTBackbone(init_std=0.05))
    model = create_backbone(backbone_for(floor, Backbone.model_validate(BACKBONE)))
    assert model.blocks[0].mlp.fc1.weight.abs().max() > 0.05, "timm's, not cut"
    initialise_untrained(floor, model)
    assert 0.045 < model.blocks[0].mlp.fc1.weight.abs().max() <= 0.05
    assert 0.045 < model.patch_embed.proj.weight.abs().max() <= 0.05


def test_params_files_name_plain_transformers() -> None:
    content = {**BACKBONE, "architecture": "beit_base_patch16_224"}
    with pytest.raises(UserError, match="name the vision transformer of its size"):
        validate(content, Backbone, "backbones/b.yaml")
