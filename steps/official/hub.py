"""Hugging Face transformers folders: the hub's names of tensors, and reading a folder as data.

The library is not needed. Names are those of the files on the hub, which every version of it reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steps.command import UserError
from steps.models.positions import WITH_OFFSET, Resizing
from steps.official.files import check_tensors, read_file

# --- From timm's names to the hub's


Rules = tuple[tuple[str, str], ...]
SHARED: Rules = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^norm\.", "layernorm."),
    (r"^fc_norm\.", "pooler.layernorm."),
    (r"^rel_pos_bias\.", "encoder.relative_position_bias."),
    (
        r"^(blocks\.\d+\.attn)\.relative_position_bias_table$",
        r"\1.attention.relative_position_bias.relative_position_bias_table",
    ),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention."),
    (r"^blocks\.", "encoder.layer."),
)
"""Names of timm to the hub's, each rule in turn."""
VIT: Rules = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.gamma_([12])$", r".lambda_\1"),
)
DINOV2: Rules = ((r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),)
GATED: Rules = ((r"\.mlp\.fc1\.", ".mlp.weights_in."), (r"\.mlp\.fc2\.", ".mlp.weights_out."))


def hub_names(name: str, rules: Rules) -> list[str]:
    """The hub's names of a tensor, by timm's: three for queries, keys and values together.

    Args:
        name: timm's.
        rules: those of the architecture, then ``SHARED``.
    """
    if match := re.fullmatch(r"(.*\.attn\.)([qv])_bias", name):
        part = {"q": "query", "v": "value"}[match[2]]
        return [_renamed(f"{match[1]}attention.{part}.bias", rules)]
    if match := re.fullmatch(r"(.*\.attn\.)qkv\.(weight|bias)", name):
        parts = ("query", "key", "value")
        return [_renamed(f"{match[1]}attention.{part}.{match[2]}", rules) for part in parts]
    return [_renamed(name, rules)]


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


# --- A folder


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
FILES = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the first one that is there counts."""
_KINDS: dict[str, tuple[str, Rules, str]] = {
    "vit": ("a vision transformer", VIT, "vit."),
    "vit_mae": ("a vision transformer", VIT, "vit."),
    "dinov2": ("a vision transformer", DINOV2, "dinov2."),
    "dinov2_with_registers": ("a vision transformer", DINOV2, "dinov2_with_registers."),
    "beit": ("a BEiT", VIT, "beit."),
}
"""By ``model_type``: the architecture, the rules of its names, and their prefix in a model that has
a head."""
_APART = re.compile(
    r"^(classifier|pooler\.dense|decoder)\.|^embeddings\.mask_token$|\.relative_position_index$"
)
"""Tensors that a backbone does without: heads, a mask token, indices that follow from the grid."""


def is_hub_folder(path: Path) -> bool:
    """True for a folder as ``save_pretrained`` of transformers writes it."""
    try:
        return "model_type" in json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def hub_sizes(path: Path) -> dict[str, Any]:
    """Architecture and sizes of a folder's backbone, by what errors call them.

    Raises:
        UserError: the architecture is none of those read here, or a size is missing.
    """
    config = json.loads((path / CONFIG).read_bytes())
    kind = config["model_type"]
    if kind not in _KINDS:
        raise UserError(
            str(path / CONFIG),
            f"model_type {kind}",
            allowed=", ".join(_KINDS),
            remedy="start from a timm model's file, or from an artifact of steps.import",
        )
    try:
        sizes = {
            "architecture": _KINDS[kind][0],
            "channels of an image": config.get("num_channels", 3),
            "patch size": config["patch_size"],
            "width": config["hidden_size"],
            "blocks": config["num_hidden_layers"],
            "attention heads": config["num_attention_heads"],
            "activation": "silu" if config.get("use_swiglu_ffn") else config["hidden_act"],
        }
    except KeyError as error:
        raise UserError(
            str(path / CONFIG), f"no {error.args[0]}", remedy="get the folder again"
        ) from error
    return sizes


def hub_tensors(path: Path, wanted: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a folder by timm's names, and the names of those that were left out.

    Args:
        path: a folder whose ``hub_sizes`` fit.
        wanted: timm's names of the backbone's tensors.

    Returns:
        Tensors that are not wanted keep the hub's name.

    Raises:
        UserError: there is no file of weights, or it cannot be read safely.
    """
    config = json.loads((path / CONFIG).read_bytes())
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    if file is None:
        raise UserError(
            str(path),
            "no file of weights",
            allowed=" or ".join(FILES),
            remedy="get the folder again, its weights in one file",
        )
    content = read_file(file)
    if not isinstance(content, Mapping):
        raise UserError(str(file), f"a {type(content).__name__}", allowed="tensors by name")
    check_tensors(file, content)
    _, rules, prefix = _KINDS[config["model_type"]]
    rules += SHARED
    found = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    if config.get("use_swiglu_ffn"):
        rules += GATED
    left_out = sorted(name for name in found if _APART.search(name))
    rest = {name: tensor for name, tensor in found.items() if not _APART.search(name)}
    tensors = {}
    for name in wanted:
        parts = hub_names(name, rules)
        if all(part in rest for part in parts):
            tensors[name] = torch.cat([rest.pop(part) for part in parts])
    if "reg_token" in tensors and "pos_embed" in tensors:
        # Beside registers timm's table has no row for the class token, whose position it adds.
        table = tensors["pos_embed"]
        tensors["cls_token"] = tensors["cls_token"] + table[:, :1]
        tensors["pos_embed"] = table[:, 1:].clone()
    return {**tensors, **rest}, left_out


def hub_resizing(path: Path) -> Resizing:
    """Resizing of a folder's position table, as the method that trained it does it."""
    kind = json.loads((path / CONFIG).read_bytes())["model_type"]
    if kind == "dinov2":
        return WITH_OFFSET
    return Resizing(offset=0.0, antialias=kind == "dinov2_with_registers")


def hub_normalisation(path: Path) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of a folder's images; None where it does not say."""
    try:
        config: Mapping[str, Any] = json.loads((path / PROCESSOR).read_bytes())
        mean, std = (list(map(float, config[key])) for key in ("image_mean", "image_std"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return mean, std
