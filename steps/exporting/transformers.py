"""A backbone as a Hugging Face transformers folder: ViT, DINOv2 with or without registers, BEiT.

Weights have the names of the files on the hub, which every version of the library reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timm.layers.mlp import GluMlp, Mlp
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from steps.command import UserError
from steps.models.backbones import BackboneModel, Transformer, image_size, save_weights
from steps.official.hub import DINOV2, GATED, SHARED, VIT, Rules, hub_names

GROUP = "transformers"
"""The dependency group that brings the library."""


def write_transformers(
    model: BackboneModel,
    folder: Path,
    *,
    mean: list[float],
    std: list[float],
    crop_fraction: float,
    where: str,
) -> Callable[[Tensor], Tensor]:
    """Write ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.

    Args:
        model: in eval mode, on the CPU.
        folder: an existing folder.
        mean, std: per channel, of pixels in 0 to 1.
        crop_fraction: side of the centre crop over the short side of the resized image.
        where: names the backbone in errors.

    Returns:
        The written model as the library reads it: (B, 3, H, W) to all tokens (B, P + N, D).

    Raises:
        UserError: the library is missing, or none of its architectures holds the backbone.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing_package("--to transformers", GROUP, error) from error
    name, config, rules = _described(model, where)
    assert isinstance(model, Transformer)
    side = image_size(model)
    config |= {"image_size": side, "num_channels": 3, "architectures": [f"{name}Model"]}
    getattr(transformers, f"{name}Config")(**config).save_pretrained(folder)
    save_weights(dict(_hub_weights(model, rules)), folder / "model.safetensors")
    processor = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": round(side / crop_fraction)},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
    text = json.dumps(processor, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    return _read(getattr(transformers, f"{name}Model"), folder, where)


def missing_package(what: str, group: str, error: ImportError) -> UserError:
    """The error for an optional package, with the line that installs it."""
    return UserError(
        what,
        f"a package that it needs is not installed ({error})",
        remedy=f"uv sync --frozen --group {group}",
    )


def _read(kind: Any, folder: Path, where: str) -> Callable[[Tensor], Tensor]:
    """The model of a folder, every tensor accounted for."""
    options = {"output_loading_info": True, "dtype": torch.float32}
    if kind.__name__ == "ViTModel":
        options["add_pooling_layer"] = False
    found, report = kind.from_pretrained(str(folder), **options)
    wrong = {key: sorted(names) for key, names in report.items() if names}
    # The library computes these itself.
    if wrong := {key: names for key, names in wrong.items() if "index" not in str(names)}:
        raise UserError(where, f"transformers does not take the tensors as written: {wrong}")
    found = found.eval()

    def run(images: Tensor) -> Tensor:
        tokens: Tensor = found(pixel_values=images).last_hidden_state
        return tokens

    return run


def _hub_weights(model: Transformer, rules: Rules) -> Iterator[tuple[str, Tensor]]:
    """Tensors under the hub's names; queries, keys and values apart."""
    for name, tensor in model.state_dict().items():
        names = hub_names(name, rules)
        if name == "pos_embed" and getattr(model, "no_embed_class", False):
            # The hub's table has a row for the class token, whose position ours already holds.
            yield names[0], F.pad(tensor, (0, 0, 1, 0))
        else:
            yield from zip(names, tensor.chunk(len(names)), strict=True)
    if rules[: len(DINOV2)] == DINOV2:
        # The hub's files always have one; only pretraining reads it.
        yield "embeddings.mask_token", torch.zeros_like(model.cls_token[0])


def _described(model: BackboneModel, where: str) -> tuple[str, dict[str, Any], Rules]:
    """The architecture that holds a backbone, its config, and the rules of names."""
    if not isinstance(model, Transformer):
        raise _cannot_hold(where, "a ResNet, whose layout differs from that of ResNetModel")
    if isinstance(model, Eva):
        raise _cannot_hold(where, "a transformer of timm's class Eva (rotary positions)")
    first = model.blocks[0]
    norm = model.norm if isinstance(model.norm, nn.LayerNorm) else model.fc_norm
    config = {
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": first.attn.num_heads,
        "patch_size": model.patch_embed.patch_size[0],
        "layer_norm_eps": norm.eps,
        "hidden_act": "gelu",
    }
    if isinstance(model, Beit):
        return "Beit", {**config, **_beit(model, where)}, VIT + SHARED
    _check_plain(model, where)
    config["qkv_bias"] = first.attn.qkv.bias is not None
    gated = isinstance(first.mlp, GluMlp)
    if isinstance(first.ls1, nn.Identity):
        if model.reg_token is not None or model.no_embed_class or gated:
            raise _cannot_hold(where, "registers or gated MLPs without layer scale")
        return "ViT", {**config, "intermediate_size": first.mlp.fc1.out_features}, VIT + SHARED
    config |= {"mlp_ratio": _ratio(first, where), "use_swiglu_ffn": gated}
    rules = DINOV2 + SHARED + (GATED if gated else ())
    if model.reg_token is None:
        return "Dinov2", config, rules
    if not model.no_embed_class:
        raise _cannot_hold(where, "registers with positions")
    return "Dinov2WithRegisters", {**config, "num_register_tokens": model.reg_token.shape[1]}, rules


def _beit(model: Beit, where: str) -> dict[str, Any]:
    """Keys that a BEiT adds to the config."""
    first = model.blocks[0]
    if type(first.mlp) is not Mlp or not isinstance(first.mlp.norm, nn.Identity):
        raise _cannot_hold(where, "MLPs that are gated or have a norm")
    if not isinstance(first.mlp.act, nn.GELU) or first.attn.q_bias is None:
        raise _cannot_hold(where, "another activation than GELU, or attention without bias")
    return {
        "intermediate_size": first.mlp.fc1.out_features,
        "use_absolute_position_embeddings": model.pos_embed is not None,
        "use_shared_relative_position_bias": model.rel_pos_bias is not None,
        "use_relative_position_bias": first.attn.relative_position_bias_table is not None,
        "layer_scale_init_value": 0.0 if first.gamma_1 is None else 0.1,
        "use_mean_pooling": not isinstance(model.norm, nn.LayerNorm),
        "drop_path_rate": 0.0,
    }


def _check_plain(model: VisionTransformer, where: str) -> None:
    """Raise unless nothing is in a vision transformer that ViT and DINOv2 lack."""
    first = model.blocks[0]
    identities = {
        "a norm before the blocks": model.norm_pre,
        "a norm of patch embeddings": model.patch_embed.norm,
        "a norm of queries and keys": first.attn.q_norm,
        "a norm in the MLP": first.mlp.norm,
        "a norm of the mean token": model.fc_norm,
    }
    for found, module in identities.items():
        if not isinstance(module, nn.Identity):
            raise _cannot_hold(where, found)
    wrong = {
        "no class token": model.cls_token is None,
        "a patch embedding without bias": model.patch_embed.proj.bias is None,
        f"blocks of the kind {type(first).__name__}": type(first) is not Block,
        f"the activation {first.mlp.act}": (
            not isinstance(first.mlp.act, nn.GELU | nn.SiLU)
            or getattr(first.mlp.act, "approximate", "none") != "none"
        ),
    }
    for found, holds in wrong.items():
        if holds:
            raise _cannot_hold(where, found)


def _ratio(block: Block, where: str) -> int:
    """``mlp_ratio`` from which DINOv2's config computes the width of the MLP."""
    width = block.norm1.weight.numel()
    hidden = block.mlp.fc1.out_features
    for ratio in range(1, 17):
        gated = 2 * ((int(width * ratio * 2 / 3) + 7) // 8 * 8)
        if hidden == (gated if isinstance(block.mlp, GluMlp) else width * ratio):
            return ratio
    raise _cannot_hold(where, f"MLPs of width {hidden}, no whole multiple of {width}")


def _cannot_hold(where: str, found: str) -> UserError:
    return UserError(
        where,
        f"{found}: no architecture of transformers holds it",
        allowed="a plain vision transformer, one with DINOv2's layer scale, or a BEiT",
        remedy="export --to timm, onnx or torchscript",
    )
