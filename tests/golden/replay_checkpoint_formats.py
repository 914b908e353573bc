"""Replay the golden case ``checkpoint_formats``: official files, imported as a user does it."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from steps.artifacts.manifest import verify
from steps.models.backbones import HEADS, image_size, load_backbone, own_resizing
from steps.models.features import frozen_features
from steps.models.positions import Resizing
from steps.models.tokens import embed, encode
from tests.golden.case import LOSS, Case

FORMATS = {"beitv2": "beit2"}
"""Ours of the case's methods, where the names differ."""
PICKLED = argparse.Namespace(lr=1e-3, output_dir="out", betas=(0.9, 0.95), resume=None)


def replay(case: Case) -> None:
    """Each file through ``steps.import``, then block by block, at every size that is recorded."""
    for name, facts in case.facts["formats"].items():
        with tempfile.TemporaryDirectory() as folder:
            _replay_format(case, name, facts, Path(folder))


def _replay_format(case: Case, name: str, facts: dict[str, Any], folder: Path) -> None:
    path = folder / "official.pth"
    flat = case.group(f"{name}/checkpoint/")
    case.number(len(flat), facts["tensor_count"], f"{name}: tensor_count")
    torch.save(_nested(flat, facts["other_entries"]), path)
    outputs = {room.split("/")[1] for room in facts["outputs"] if room.count("/") == 2}
    for network in sorted(outputs) or [None]:
        out = folder / f"artifact-{network}"
        _import(path, FORMATS.get(facts["method"], facts["method"]), facts["model"], network, out)
        _compare(case, name, facts, network, out)


def _nested(flat: dict[str, Tensor], others: dict[str, str]) -> dict[str, Any]:
    """The dictionary of the official file, with the entries that are no tensors."""
    content: dict[str, Any] = {}
    for path, tensor in flat.items():
        *keys, last = path.split("/")
        table = content
        for key in keys:
            table = table.setdefault(key, {})
        table[last] = tensor
    for key, what in others.items():
        if "namespace" in what:
            content[key] = PICKLED
        elif what.startswith("str"):
            content[key] = "vit_base"
        elif what.startswith("int"):
            content[key] = 300
        else:
            content[key] = {
                "state": {0: {"exp_avg": torch.zeros(2)}},
                "param_groups": [{"lr": 0.1}],
            }
    return content


def _import(path: Path, kind: str, model: dict[str, Any], network: str | None, out: Path) -> None:
    """Run the step in this process: ``import`` cannot be imported by its name."""
    options = ["--format", kind, "--checkpoint", str(path), "--out", str(out)]
    options += ["--heads", str(model["num_heads"])]
    if network is not None:
        options += ["--network", network]
    with mock.patch.object(sys, "argv", ["steps.import", *options]):
        importlib.import_module("steps.import").main()


@torch.no_grad()
def _compare(case: Case, name: str, facts: dict[str, Any], network: str | None, out: Path) -> None:
    verify(out)
    backbone: Any = load_backbone(out)
    case.number(image_size(backbone), facts["model"]["img_size"], f"{name}: img_size")
    case.number(backbone.blocks[0].norm1.eps, facts["model"]["norm_eps"], f"{name}: norm_eps")
    variant = facts.get("variant")
    if variant is not None:
        wanted = Resizing(variant["interpolate_offset"], variant["interpolate_antialias"])
        assert own_resizing(backbone) == wanted, f"{name}: another interpolation"
    sub = f"/{network}" if network else ""
    for images, room in (("images", "output"), ("images_other", "output_other")):
        if f"{name}/input/{images}" not in case.tensors:
            continue
        pixels = case[f"{name}/input/{images}"]
        ours = _outputs(backbone, pixels, out)
        recorded = f"{name}/{room}{sub}/"
        wanted_names = [key for key in case.tensors if key.startswith(recorded)]
        assert wanted_names, f"{name}: no outputs under {recorded}"
        for key in wanted_names:
            case.equal(ours[key.removeprefix(recorded)], key)
    _check_timm(case, name, backbone, out)


def _outputs(backbone: Any, images: Tensor, out: Path) -> dict[str, Tensor]:
    """Everything that a case may have recorded, by its names."""
    tokens = embed(backbone, images)
    ours: dict[str, Tensor] = {}
    for index in range(len(backbone.blocks)):
        tokens = encode(backbone, tokens, start=index, stop=index + 1)
        ours[f"block{index}"] = tokens
    normed = backbone.norm(tokens)
    prefix = backbone.num_prefix_tokens
    ours |= {"cls": normed[:, 0], "registers": normed[:, 1:prefix], "patch": normed[:, prefix:]}
    ours["pooled"] = frozen_features(backbone, images, ["mean"])["mean"]
    heads = load_file(out / HEADS) if (out / HEADS).is_file() else {}
    if "head.weight" in heads:
        ours["logits"] = F.linear(ours["pooled"], heads["head.weight"], heads["head.bias"])
    if "projection.weight" in heads:
        ours["projected"] = F.linear(ours["cls"], heads["projection.weight"])
    return ours


def _check_timm(case: Case, name: str, backbone: Any, out: Path) -> None:
    """timm's own way through the artifact, without any code of ours."""
    images = case[f"{name}/input/images"]
    loaded = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    ours = backbone.norm(encode(backbone, embed(backbone, images)))
    case.close(loaded.forward_features(images), ours, f"{name}: timm's forward pass", LOSS)


REPLAYS = {"checkpoint_formats": replay}
