"""MoCo v3 by hand: its loss, its networks, its initial values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext
from steps.methods.losses import momentum_contrast
from steps.methods.mocov3 import MoCoV3
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.methods.mocov3 import MoCoV3Params
from steps.params.recipe import Recipe
from tests.golden.ranks import on_ranks
from tests.scenery import BACKBONE, RECIPES

HEADS = {
    "projector": {"hidden_dim": 16, "out_dim": 8},
    "predictor": {"hidden_dim": 16},
}


def _method(**options: Any) -> MoCoV3:
    torch.manual_seed(0)
    params = MoCoV3Params(name="mocov3", **HEADS, **options)
    return MoCoV3(params, create_backbone(Backbone(**BACKBONE)), MethodContext())


def _batch(count: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = [torch.randn(count, 3, 32, 32, generator=generator) for _ in range(2)]
    return Batch(views, torch.zeros(count))


def test_the_loss_of_perfect_queries_by_hand() -> None:
    """Queries equal to keys along three axes: -2 tau log(e / (e + 2)) with e = exp(1 / tau)."""
    keys = 3.0 * torch.eye(3)
    e = math.exp(1 / 0.5)
    expected = -2 * 0.5 * math.log(e / (e + 2))
    assert momentum_contrast(keys / 5, keys, 0.5).item() == pytest.approx(expected)


def _loss_of_a_rank(queries: Tensor, keys: Tensor) -> float:
    return momentum_contrast(queries, keys, 0.2).item()


def test_negatives_are_the_keys_of_all_processes() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (torch.randn(6, 4, generator=generator) for _ in range(2))
    ranks = on_ranks(_loss_of_a_rank, list(zip(queries.chunk(3), keys.chunk(3), strict=True)))
    assert sum(ranks) / 3 == pytest.approx(momentum_contrast(queries, keys, 0.2).item(), rel=1e-6)
    assert ranks[0] != pytest.approx(_loss_of_a_rank(queries[:2], keys[:2]), rel=1e-2)


def test_no_gradient_reaches_the_momentum_encoder_and_every_one_reaches_the_rest() -> None:
    method = _method()
    method(_batch(), {}, Progress(0, 1, 10))["loss"].backward()
    for name, parameter in method.named_parameters():
        fixed = "momentum_encoder" in name or "patch_embed" in name or "pos_embed" in name
        assert (parameter.grad is None) == fixed, name


def test_the_patch_projection_is_trained_where_asked() -> None:
    assert _method(
        frozen_patch_embed=False
    ).pair.encoder.backbone.patch_embed.proj.weight.requires_grad


def test_the_momentum_encoder_moves_before_the_step_and_only_then() -> None:
    method = _method(momentum=0.75)
    ours = method.pair.encoder.backbone.cls_token
    theirs = method.pair.momentum_encoder.backbone.cls_token
    with torch.no_grad():
        ours += 1.0
    start = theirs.clone()
    progress = Progress(0, 1, 10)
    method(_batch(), {}, progress)
    method.after_step(progress)
    assert torch.equal(theirs, start)
    method.before_step(progress)
    assert torch.allclose(theirs, start + 0.25)
    assert method.pair.momentum(Progress(5, 1, 10)) == pytest.approx(0.875)


def test_encoding_in_parts_is_encoding_the_whole() -> None:
    """Nothing that couples samples, and nothing that moves, is in the dear part."""
    method, batch, progress = _method(), _batch(), Progress(0, 1, 10)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    whole = method.encode(batch, {}, progress)
    parts = [
        method.encode(Batch([view[rows] for view in batch.views], batch.labels[rows]), {}, progress)
        for rows in (slice(0, 2), slice(2, 6))
    ]
    for name, tensor in whole.items():
        assert torch.allclose(tensor, torch.cat([part[name] for part in parts]), atol=1e-6), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


def test_each_view_has_batch_statistics_of_its_own() -> None:
    method = _method()
    norm = method.pair.predictor[1]
    method(_batch(), {}, Progress(0, 1, 10))
    assert norm.num_batches_tracked == 2
    projected = method.pair.encoder.projector(torch.randn(6, 24))
    assert torch.allclose(projected.mean(dim=0), torch.zeros(8), atol=1e-6)
    assert torch.allclose(projected.var(dim=0, correction=0), torch.ones(8), atol=1e-2)


def test_queries_and_keys_are_what_the_loss_compares() -> None:
    method, batch, progress = _method(temperature=0.3), _batch(), Progress(0, 1, 10)
    encoded = method.encode(batch, {}, progress)
    q1, q2 = (F.normalize(method.pair.queries(encoded[name])) for name in ("q1", "q2"))
    k1, k2 = (F.normalize(method.pair.keys(encoded[name])) for name in ("k1", "k2"))
    own = torch.arange(6)
    expected = F.cross_entropy(q1 @ k2.T / 0.3, own) + F.cross_entropy(q2 @ k1.T / 0.3, own)
    loss = method.losses(encoded, {}, progress)["loss"]
    assert loss.item() == pytest.approx(0.6 * expected.item(), rel=1e-5)


def test_initial_values() -> None:
    """Xavier's bound of a D x D layer for query, key and value, not of the D x 3D one they fuse."""
    vit = _method().pair.encoder.backbone
    dim = vit.embed_dim
    bound = math.sqrt(6 / (dim + dim))
    qkv = vit.blocks[0].attn.qkv.weight
    assert math.sqrt(6 / (dim + 3 * dim)) < qkv.abs().max() <= bound
    pixels = math.sqrt(6 / (3 * 8 * 8 + dim))
    assert 0.95 * pixels < vit.patch_embed.proj.weight.abs().max() <= pixels
    # Raster order: along a row of patches the first half of the channels stays the same.
    table = vit.pos_embed[0, 1:].view(4, 4, dim)
    assert torch.equal(table[2, 0, : dim // 2], table[2, 3, : dim // 2])
    assert torch.equal(table[0, 3, dim // 2 :], table[2, 3, dim // 2 :])
    assert not vit.pos_embed[0, 0].any()


def test_a_recipe_gives_two_views() -> None:
    recipe = {**RECIPES["mocov3"]}
    recipe["training"] = {**recipe["training"], "views": [{"area": [0.3, 1.0]}]}
    with pytest.raises(ValueError, match="mocov3 takes two"):
        Recipe.model_validate(recipe)


def test_a_patch_projection_without_a_bias() -> None:
    """CLIP's vision transformers have a norm before their blocks in its place."""
    architecture = "vit_base_patch16_clip_quickgelu_224"
    vit = create_backbone(Backbone(**{**BACKBONE, "architecture": architecture}))
    method = MoCoV3(MoCoV3Params(name="mocov3", **HEADS), vit, MethodContext())
    assert method.export_backbone().patch_embed.proj.bias is None
