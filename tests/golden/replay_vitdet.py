"""Replay the golden case ``vitdet``: ViTDet's backbone and pyramid, level by level."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from steps.detection.backbone import ViTDet
from steps.detection.optimizer import decays, layer_of
from steps.detection.pyramid import SimplePyramid, pyramid_scales
from steps.models.positions import Resizing
from tests.golden.case import Case

PYRAMID_NAMES = {"fpn1": "scale.0", "fpn2": "scale.1"}
PYRAMID_LAYERS = {
    ("lateral_convs", "conv"): "lateral.{}.0",
    ("lateral_convs", "norm_layer"): "lateral.{}.1",
    ("fpn_convs", "conv"): "output.{}.0",
    ("fpn_convs", "norm_layer"): "output.{}.1",
}


def our_name(official: str) -> str:
    """The name in our detector of a parameter of mmdet's ViTDet project."""
    room, _, name = official.partition(".")
    if room == "backbone":
        name = name.replace("patch_embed.proj.", "proj.")
        name = re.sub(r"blocks\.(\d+)\.attn\.rel_pos_h", r"relative.\1.rows", name)
        name = re.sub(r"blocks\.(\d+)\.attn\.rel_pos_w", r"relative.\1.columns", name)
        return f"backbone.{name}"
    first, _, rest = name.partition(".")
    if first in PYRAMID_NAMES:
        return f"neck.{PYRAMID_NAMES[first]}.{rest}"
    index, layer, kind = rest.split(".")
    return f"neck.{PYRAMID_LAYERS[first, layer].format(index)}.{kind}"


class Parts(nn.Module):
    """The two parts of a detector that the case has weights of."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        vit = VisionTransformer(
            img_size=model["pretrain_img_size"],
            patch_size=model["patch_size"],
            embed_dim=model["embed_dim"],
            depth=model["depth"],
            num_heads=model["num_heads"],
            mlp_ratio=model["mlp_ratio"],
            qkv_bias=model["qkv_bias"],
            num_classes=0,
            norm_layer=partial(nn.LayerNorm, eps=model["backbone_norm_eps"]),
        )
        windows = set(model["window_block_indexes"])
        self.backbone = ViTDet(
            vit,
            window_size=model["window_size"],
            global_indices=tuple(i for i in range(model["depth"]) if i not in windows),
            relative_grid=model["img_size"] // model["patch_size"],
            resizing=Resizing(offset=0.0),
        )
        # The case's pyramid takes the strides of a patch of 16 for granted.
        scales = pyramid_scales(16, [4 * 2**level for level in range(model["num_outs"])])
        self.neck = SimplePyramid(
            model["embed_dim"], scales, model["out_channels"], model["neck_norm_eps"]
        )


def replay(case: Case) -> None:
    """Compare every block, the backbone's map, every level and the groups of layer-wise decay."""
    parts = Parts(case.facts["model"]).eval()
    init = {our_name(name): tensor for name, tensor in case.group("init/").items()}
    # The table's first row is of the class token, which the detector does not have.
    init["backbone.pos_embed"] = init["backbone.pos_embed"][:, 1:]
    parts.load_state_dict(init)
    with torch.no_grad():
        _compare_outputs(case, parts, case["input/images"], "output")
        _compare_outputs(case, parts, case["input/images_other"], "output_other")
    _compare_groups(case, parts)


def _compare_outputs(case: Case, parts: Parts, images: Tensor, room: str) -> None:
    x_BHWD = parts.backbone.embed(images)
    for index in range(len(parts.backbone.blocks)):
        x_BHWD = parts.backbone.block(index, x_BHWD)
        case.equal(x_BHWD, f"{room}/block{index}")
    maps = parts.backbone(images)
    case.equal(maps[0], f"{room}/backbone")
    for level, tensor in enumerate(parts.neck(maps)):
        case.equal(tensor, f"{room}/level{level}_stride{4 * 2**level}")


def _compare_groups(case: Case, parts: Parts) -> None:
    """Each parameter's share of the learning rate, and whether weight decay applies to it."""
    depth, rate = case.facts["model"]["depth"], case.facts["options"]["decay_rate"]
    groups = case.facts["optimizer"]["groups"]
    grouped = [our_name(name) for group in groups for name in group["params"]]
    assert sorted(grouped) == sorted(name for name, _ in parts.named_parameters())
    for group in groups:
        for name in map(our_name, group["params"]):
            share = rate ** (depth + 1 - layer_of(name, depth))
            case.number(share, group["lr_scale"], f"lr_scale of {name}")
            case.number(float(decays(name)), float(group["weight_decay"] > 0), f"decay of {name}")


REPLAYS = {"vitdet": replay}
