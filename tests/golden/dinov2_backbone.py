"""Replay of DINOv2's backbone alone: registers, layer scale, gated MLP, both kinds of drop path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from steps.models import dinov2_vit, drop_path, row_drop
from steps.models.positions import Resizing
from steps.models.tokens import embed, encode
from steps.official.names import from_official
from steps.params.recipe import Optimizer
from tests.golden.case import Case
from tests.golden.dinov2_model import backbone_of
from tests.golden.training import check_gradients, check_groups


class _Alone(nn.Module):
    """The backbone under the name that layer-wise decay looks for."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        model = case.facts["model"]
        self.backbone = dinov2_vit.for_training(backbone_of(model))
        self.resizing = Resizing(model["interpolate_offset"], model["interpolate_antialias"])

    def tokens(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        token = None if mask is None else dinov2_vit.mask_token(self.backbone)
        return embed(self.backbone, images, mask, token, self.resizing)


def replay(case: Case) -> None:
    """Evaluation, training with each kind of drop path, gradients, groups of the optimiser."""
    model, options = case.facts["model"], case.facts["options"]
    alone = _Alone(case)
    vit = alone.backbone
    vit.load_state_dict(from_official("dinov2", case.group("init/")))
    # Values for the optimiser alone: rates are compared, no step is taken.
    params = Optimizer(
        name="adamw",
        lr=1.0,
        weight_decay=1.0,
        layer_decay=options["layerwise_decay"],
        patch_embed_scale=options["patch_embed_lr_mult"],
    )
    check_groups(case, alone, params, model["depth"], prefix="backbone.")
    depth, uniform = model["depth"], model["drop_path_uniform"]
    rates = row_drop.rates(depth, model["drop_path_rate"], uniform=uniform)
    small = row_drop.rates(depth, model["drop_path_rate_small_run"], uniform=uniform)
    for ours, table in ((rates, "drop_path_per_block"), (small, "drop_path_per_block_small_run")):
        for block, rate in enumerate(model[table]):
            case.number(ours[block], rate, f"{table}[{block}]", 1e-9)

    crops, local = case["step0/input/global_crops"], case["step0/input/local_crops"]
    with torch.no_grad():
        _check_evaluation(case, alone, crops, local)
        (gate,) = gates(case, "step0/draw/single_perm", rates, [len(crops)])
        assert all(rate == 0 or rate > 0.1 for rate in rates), "smaller rates drop by sample"
        tokens = row_drop.encode(vit, alone.tokens(crops), gate)
        case.equal(vit.norm(tokens)[:, 0], "step0/output/single_train_clstoken")
        keep = torch.ones(len(crops), 2 * depth, dtype=torch.bool)
        drawn = iter(sorted(case.group("step0/draw/small_rate_keep").items()))
        for branch in range(2 * depth):
            if small[branch // 2] > 0:
                keep[:, branch] = next(drawn)[1].flatten() > 0
        _install(alone, small)
        tokens = encode(vit, alone.tokens(crops), keep)
        case.equal(vit.norm(tokens)[:, 0], "step0/output/small_rate_train_clstoken")
    _check_nested(case, alone, rates, crops, local)
    case.number(case.facts["steps"], 0, "steps")


def gates(case: Case, name: str, rates: Sequence[float], groups: list[int]) -> list[Tensor]:
    """Recorded permutations as gates, one tensor (rows, 2 * depth) for each group of crops.

    Per block with a rate, the attention's permutation of each group, then the MLP's.
    """
    permutations = iter(sorted(case.group(name).items()))
    found = [torch.ones(rows, 2 * len(rates)) for rows in groups]
    for branch in range(2 * len(rates)):
        if rates[branch // 2] == 0:
            continue
        for gate, rows in zip(found, groups, strict=True):
            _, order = next(permutations)
            size = row_drop.kept_rows(rows, rates[branch // 2])
            gate[:, branch] = 0
            gate[order[:size], branch] = rows / size
    assert next(permutations, None) is None, f"{name}: more permutations than branches that draw"
    return found


def _check_evaluation(case: Case, alone: _Alone, crops: Tensor, local: Tensor) -> None:
    vit, registers = alone.backbone, case.facts["model"]["num_register_tokens"]
    room = "step0/output/eval"
    hidden = vit.norm_pre(alone.tokens(crops))
    layers = []
    for block in vit.blocks:
        hidden = block(hidden)
        layers.append(vit.norm(hidden))
    prefix = vit.num_prefix_tokens
    recorded = [name for name in case.tensors if name.startswith(f"{room}_intermediate")]
    for index, normed in enumerate(layers[-(len(recorded) // 2) :]):
        case.equal(normed[:, 0], f"{room}_intermediate{index}_cls")
        case.equal(normed[:, prefix:], f"{room}_intermediate{index}_patch")
    case.equal(hidden, f"{room}_x_prenorm")
    case.equal(layers[-1][:, 0], f"{room}_x_norm_clstoken")
    case.equal(layers[-1][:, prefix:], f"{room}_x_norm_patchtokens")
    if registers:
        case.equal(layers[-1][:, 1:prefix], f"{room}_x_norm_regtokens")
    tokens = vit.norm(encode(vit, alone.tokens(local)))
    case.equal(tokens[:, 0], f"{room}_local_clstoken")
    # The same features from timm's own forward pass over the exported copy.
    twin = dinov2_vit.as_timm(vit)
    case.close(twin.forward_features(crops), layers[-1], "timm's forward pass", 1e-5)


def _check_nested(
    case: Case, alone: _Alone, rates: Sequence[float], crops: Tensor, local: Tensor
) -> None:
    """Global and local crops in training, a loss against fixed probes, and its gradient."""
    vit, registers = alone.backbone, case.facts["model"]["num_register_tokens"]
    found = gates(case, "step0/draw/nested_perm", rates, [len(crops), len(local)])
    drawn = len([name for name in case.tensors if name.startswith("step0/draw/nested_perm")])
    case.number(drawn, case.facts["expected"]["nested_perm_count"], "permutations")
    embedded = (alone.tokens(crops, case["step0/draw/masks"]), alone.tokens(local))
    loss = torch.zeros(())
    for index, (name, tokens) in enumerate(zip(("global", "local"), embedded, strict=True)):
        normed = vit.norm(row_drop.encode(vit, tokens, found[index]))
        case.equal(normed[:, 0], f"step0/output/nested_{name}_clstoken")
        case.equal(normed[:, 1 + registers :], f"step0/output/nested_{name}_patchtokens")
        if registers:
            case.equal(normed[:, 1 : 1 + registers], f"step0/output/nested_{name}_regtokens")
        loss = loss + (normed - case[f"step0/input/probe{index}"]).square().mean()
    (recorded,) = case.facts["expected"]["loss"]
    case.number(loss.item(), recorded, "loss")
    loss.backward()
    check_gradients(case, vit, case.facts.get("zero_gradient_tensors", []))


def _install(alone: _Alone, rates: Sequence[float]) -> None:
    for block, rate in zip(alone.backbone.blocks, rates, strict=True):
        block.drop_path1, block.drop_path2 = drop_path.DropPath(rate), drop_path.DropPath(rate)
