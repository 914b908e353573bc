"""Hugging Face transformers folders: the hub's names of tensors, and reading a folder as data.

The library is not needed. Names are those of the files on the hub, which every version of it reads.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steps.command import UserError
from steps.models.beit import as_beit
from steps.models.dinov2_vit import GATED as GATED_VIT
from steps.models.dinov2_vit import mlp_ratio
from steps.models.positions import WITH_OFFSET, Resizing
from steps.official.files import check_tensors, read_file
from steps.official.read import PLAIN, QUICK_GELU, SCALES
from steps.params.backbone import Backbone, BEiTBackbone

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
DINOV3: Rules = (
    (r"^cls_token$", "embeddings.cls_token"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings."),
    (r"\.attn\.attention\.([qkv])\w+\.", r".attention.\1_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.gamma_([12])$", r".layer_scale\1.lambda1"),
    (r"\.mlp\.fc1_g\.", ".mlp.gate_proj."),
    (r"\.mlp\.fc1(_x)?\.", ".mlp.up_proj."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
    (r"^blocks\.", "layer."),
)
CLIP: Rules = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding.weight"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm_pre\.", "pre_layrnorm."),
    (r"^norm\.", "post_layernorm."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.attention\.([qkv])\w+\.", r".self_attn.\1_proj."),
    (r"\.attn\.proj\.", ".self_attn.out_proj."),
    (r"^blocks\.", "encoder.layers."),
    (r"^attn_pool\.latent$", "head.probe"),
    (r"^attn_pool\.(q|kv)\.", r"head.attention.\1."),
    (r"^attn_pool\.proj\.", "head.attention.out_proj."),
    (r"^attn_pool\.norm\.", "head.layernorm."),
    (r"^attn_pool\.mlp\.", "head.mlp."),
)
"""Image tower of CLIP, and of SigLIP, which adds a pooling head."""


def hub_names(name: str, rules: Rules) -> list[str]:
    """The hub's names of a tensor, by timm's: three for queries, keys and values together.

    Args:
        name: timm's.
        rules: those of the architecture, for all but DINOv3, CLIP and SigLIP with ``SHARED`` after
            them.
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
A_VIT, A_BEIT, AN_EVA = (
    "a vision transformer",
    "a BEiT",
    "a transformer of timm's class Eva",
)
"""Architectures as errors call them."""


@dataclass(frozen=True)
class _Kind:
    """Contents of folders of one ``model_type``."""

    architecture: str
    rules: Rules
    prefixes: tuple[str, ...] = ()
    """Prefixes of the backbone's tensors in a model that has more, such as a head."""
    tower: str = ""
    """Key of the backbone's part of the config; "": the config itself."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values that the library leaves out of a part of a config."""


_CLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_SIGLIP = {**_CLIP, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_VISION = ("vision_model.",)
_KINDS = {
    "vit": _Kind(A_VIT, VIT + SHARED, ("vit.",)),
    "vit_mae": _Kind(A_VIT, VIT + SHARED, ("vit.",)),
    "dinov2": _Kind(A_VIT, DINOV2 + SHARED, ("dinov2.",)),
    "dinov2_with_registers": _Kind(A_VIT, DINOV2 + SHARED, ("dinov2_with_registers.",)),
    "beit": _Kind(A_BEIT, VIT + SHARED, ("beit.",)),
    "dinov3_vit": _Kind(AN_EVA, DINOV3, ("dinov3_vit.", "model.")),
    "clip": _Kind(A_VIT, CLIP, _VISION, "vision_config", _CLIP),
    "clip_vision_model": _Kind(A_VIT, CLIP, _VISION, defaults=_CLIP),
    "siglip": _Kind(A_VIT, CLIP, _VISION, "vision_config", _SIGLIP),
    "siglip_vision_model": _Kind(A_VIT, CLIP, _VISION, defaults=_SIGLIP),
}
"""By ``model_type``."""
_APART = re.compile(
    r"^(classifier|pooler\.dense|decoder|lm_head|text_model|text_projection|visual_projection)\."
    r"|^embeddings\.mask_token$|\.relative_position_index$|^logit_(scale|bias)$|\.position_ids$"
)
"""Tensors that a backbone does without: heads, decoders, text towers, a mask token, indices that
follow from the grid."""
_MANY = ("decoder", "text_model")
"""Parts whose tensors are counted instead of named."""
_ACTIVATIONS = {"gelu": "gelu", "quick_gelu": "quick_gelu", "gelu_pytorch_tanh": "gelu_tanh"}
"""Names of activations that timm builds vision transformers with, by the hub's."""


def is_hub_folder(path: Path) -> bool:
    """True for a folder as ``save_pretrained`` of transformers writes it."""
    try:
        return "model_type" in json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def hub_kind(path: Path) -> str:
    """The ``model_type`` of a folder.

    Raises:
        UserError: it is none of those read here.
    """
    kind: str = json.loads((path / CONFIG).read_bytes())["model_type"]
    if kind not in _KINDS:
        raise UserError(
            str(path / CONFIG),
            f"model_type {kind}",
            allowed=", ".join(_KINDS),
            remedy="start from a timm model's file, or from an artifact of steps.import",
        )
    return kind


def hub_sizes(path: Path) -> dict[str, Any]:
    """Architecture and sizes of a folder's backbone, by what errors call them.

    Raises:
        UserError: the architecture is none of those read here, or a size is missing.
    """
    kind = _KINDS[hub_kind(path)]
    config = _Config(path)
    sizes = {
        "architecture": kind.architecture,
        "channels of an image": config.get("num_channels", 3),
        "patch size": config["patch_size"],
        "width": config["hidden_size"],
        "blocks": config["num_hidden_layers"],
        "attention heads": config["num_attention_heads"],
        "activation": "silu" if config.get("use_swiglu_ffn") else config["hidden_act"],
    }
    if kind.architecture == AN_EVA:
        sizes["base of the rotary positions"] = float(config.get("rope_theta", 100.0))
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
    kind, config = _KINDS[hub_kind(path)], _Config(path)
    rules = kind.rules + (GATED if config.get("use_swiglu_ffn") else ())
    found = _apart_from_others(content, kind.prefixes)
    rest = {name: tensor for name, tensor in found.items() if not _APART.search(name)}
    left_out = _named(name for name in found if name not in rest)
    for kept in ("weight", "bias"):
        if (fused := rest.pop(f"head.attention.in_proj_{kept}", None)) is not None:
            third = len(fused) // 3
            rest[f"head.attention.q.{kept}"] = fused[:third]
            rest[f"head.attention.kv.{kept}"] = fused[third:]
    tensors = {}
    for name in wanted:
        parts = hub_names(name, rules)
        if all(part in rest for part in parts):
            tensors[name] = torch.cat([rest.pop(part) for part in parts])
    if kind.rules is CLIP:
        # Vectors and tables of nn.Embedding there, with axes for the batch here.
        for name, ndim in (("cls_token", 1), ("pos_embed", 2)):
            if name in tensors and tensors[name].ndim == ndim:
                tensors[name] = tensors[name].reshape(1, -1, tensors[name].shape[-1])
    if "reg_token" in tensors and "pos_embed" in tensors:
        # Beside registers timm's table has no row for the class token, whose position it adds.
        table = tensors["pos_embed"]
        tensors["cls_token"] = tensors["cls_token"] + table[:, :1]
        tensors["pos_embed"] = table[:, 1:].clone()
    return {**tensors, **rest}, left_out


def hub_backbone(path: Path) -> Backbone:
    """The params of a folder's backbone, by its config.

    Raises:
        UserError: the architecture is none of those read here, a value is missing, or timm cannot
            build what it says.
    """
    kind, config = hub_kind(path), _Config(path)
    width, depth = config.count("hidden_size"), config.count("num_hidden_layers")
    arguments: dict[str, Any] = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": config.count("num_attention_heads"),
    }
    if (channels := config.get("num_channels", 3)) != 3:
        arguments["in_chans"] = channels
    gated = bool(config.get("use_swiglu_ffn") or config.get("use_gated_mlp"))
    if kind.startswith("dinov2"):
        hidden = width * config.count("mlp_ratio")
        if gated:
            hidden = 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
    else:
        hidden = config.count("intermediate_size")
    arguments["mlp_ratio"] = mlp_ratio(hidden, width)
    architecture = PLAIN
    if kind.startswith("dinov2"):
        architecture = GATED_VIT if gated else PLAIN
        arguments |= {"init_values": 1e-5, "qkv_bias": config.get("qkv_bias", True)}
        if kind == "dinov2_with_registers":
            arguments |= {"reg_tokens": config.count("num_register_tokens"), "no_embed_class": True}
    elif kind == "dinov3_vit":
        # The architecture whose queries and values have a bias that the weights fill.
        architecture = "vit_small_patch16_dinov3"
        arguments |= {
            "init_values": 1e-5,
            "num_reg_tokens": config.count("num_register_tokens", least=0),
            "qkv_bias": bool(config.get("query_bias", True)),
            "rope_temperature": float(config.get("rope_theta", 100.0)),
        }
        if gated:
            arguments |= {"swiglu_mlp": True, "swiglu_align_to": 1}
    elif kind.startswith("clip"):
        architecture = QUICK_GELU
    elif kind.startswith("siglip"):
        architecture = "vit_base_patch16_siglip_224"
        if not config.get("vision_use_head", True):
            arguments |= {"global_pool": "avg", "fc_norm": False}
    elif kind != "beit":
        arguments["qkv_bias"] = config.get("qkv_bias", True)
    _set_activation(config, kind, gated, arguments)
    side, patch = config.side("image_size"), config.side("patch_size")
    if side < patch:
        raise config.refusal(f"image_size {side} below patch_size {patch}", "one patch or more")
    if side % patch:
        # SigLIP's 384 px with patches of 14: its first layer does not see the rest either.
        logging.info("%s: %d of its %d px are whole patches", path, side - side % patch, side)
    backbone = Backbone(
        scale=SCALES.get((width, depth), f"ViT-{width}x{depth}"),
        architecture=architecture,
        image_size=side - side % patch,
        patch_size=patch,
        model_args=arguments,
    )
    return _as_beit(backbone, config) if kind == "beit" else backbone


def hub_eps(path: Path) -> float | None:
    """Epsilon of a folder's layer norms; None where it does not say."""
    value = _Config(path).get("layer_norm_eps")
    return None if value is None else float(value)


def hub_resizing(path: Path) -> Resizing:
    """Resizing of a folder's position table, as the method that trained it does it."""
    kind = hub_kind(path)
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


class _Config:
    """The backbone's part of a folder's config."""

    def __init__(self, path: Path) -> None:
        self._file = path / CONFIG
        kind = _KINDS[hub_kind(path)]
        config = json.loads(self._file.read_bytes())
        part = config.get(kind.tower) if kind.tower else config
        part = part if isinstance(part, dict) else {}
        self._values: dict[str, Any] = {**kind.defaults, **part}

    def __getitem__(self, key: str) -> Any:
        if self._values.get(key) is None:
            raise UserError(str(self._file), f"no {key}", remedy="get the folder again")
        return self._values[key]

    def count(self, key: str, least: int = 1) -> int:
        """A whole number."""
        value = self[key]
        if not isinstance(value, int) or value < least:
            raise self.refusal(f"{key} {value!r}", f"a whole number of {least} or more")
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """A value that may be absent."""
        return self._values.get(key, default)

    def side(self, key: str) -> int:
        """A size in pixels, of a square."""
        value = self[key]
        if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
            value = value[0]
        if not isinstance(value, int) or value < 1:
            raise self.refusal(f"{key} {value!r}", "the side of a square in pixels")
        return value

    def refusal(self, found: str, allowed: str) -> UserError:
        """The error for a value that no backbone here has."""
        return UserError(str(self._file), found, allowed=allowed, remedy="take another folder")


def _apart_from_others(content: Mapping[str, Any], prefixes: Iterable[str]) -> dict[str, Tensor]:
    """A folder's tensors, the backbone's without the prefix of a model that has more."""
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    for prefix in prefixes:
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _named(names: Iterable[str]) -> list[str]:
    """Names of tensors; those of large parts as one entry each."""
    names = sorted(names)
    counts = Counter(name.split(".")[0] for name in names)
    parts = [f"{part} ({counts[part]} tensors)" for part in _MANY if counts[part]]
    return [name for name in names if name.split(".")[0] not in _MANY] + parts


def _set_activation(config: _Config, kind: str, gated: bool, arguments: dict[str, Any]) -> None:
    """Give a vision transformer the config's activation; BEiT, EVA and gated MLPs have one only."""
    found = config["hidden_act"]
    if gated:
        # DINOv2's config names an activation that its gated MLPs do not have.
        if kind == "dinov3_vit" and found != "silu":
            raise config.refusal(f"hidden_act {found} of gated MLPs", "silu")
        return
    allowed = ["gelu"] if kind in ("beit", "dinov3_vit") else list(_ACTIVATIONS)
    if found not in allowed:
        raise config.refusal(f"hidden_act {found}", ", ".join(allowed))
    if kind not in ("beit", "dinov3_vit"):
        usual = "quick_gelu" if kind.startswith("clip") else "gelu"
        if found != usual:
            arguments["act_layer"] = _ACTIVATIONS[found]


def _as_beit(backbone: Backbone, config: _Config) -> Backbone:
    shared = bool(config.get("use_shared_relative_position_bias"))
    own = bool(config.get("use_relative_position_bias"))
    options = BEiTBackbone(
        layer_scale=0.1 if config.get("layer_scale_init_value", 0.1) > 0 else 0.0,
        relative_positions=("both" if own else "shared") if shared else "block" if own else "none",
        absolute_positions=bool(config.get("use_absolute_position_embeddings")),
    )
    beit = as_beit(backbone, options)
    changes = {"use_fc_norm": bool(config.get("use_mean_pooling", True))}
    return beit.model_copy(update={"model_args": {**beit.model_args, **changes}})
