"""Formats of the official files of each method: the backbone, and what stands beside it.

A file holds one or more tables of tensors, some under a key, with a prefix before the names of a
wrapped network. Official loaders often take what they find and leave the rest as it was drawn; here
a table that has names of no known part is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from steps.official.names import from_official
from steps.params.views import Normalise

IMAGENET = Normalise(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
INCEPTION = Normalise(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
CLIP = Normalise(mean=[0.48145466, 0.4578275, 0.40821073], std=[0.26862954, 0.26130258, 0.27577711])
NORMALISE = {"imagenet": IMAGENET, "inception": INCEPTION, "clip": CLIP}
"""Normalisation of images in official code."""

_FIRST = ("patch_embed.proj.weight", "conv1.weight")
"""The first layer of a transformer or a ResNet, by which a backbone is recognised."""


@dataclass(frozen=True)
class Table:
    """One table of tensors that a file may hold a network in."""

    key: str = ""
    """Key of the table in the file; "": the file is the table."""
    strip: str = ""
    """Prefix of a wrapper, removed from every name that has it."""
    inside: str = ""
    """Prefix of our names of the backbone after that."""


@dataclass(frozen=True)
class CheckpointFormat:
    """Contents of the official files of one method."""

    networks: Mapping[str, tuple[Table, ...]]
    """Tables by network, the one that evaluations take first; the first table that fits counts."""
    naming: str
    """Key of ``steps.official.names.NAMINGS``."""
    apart: str
    """Pattern of our names of what only pretraining needs."""
    heads: str = r"^$"
    """Pattern of our names of what is kept beside the backbone."""
    normalise: str = "imagenet"
    trained_on: str = "imagenet1k"
    width_to_heads: Mapping[int, int] = field(default_factory=dict)
    """Attention heads of published sizes by width, where they differ from timm's."""


@dataclass(frozen=True)
class Found:
    """Contents of a file, under our names."""

    backbone: dict[str, Tensor]
    heads: dict[str, Tensor]
    left_out: list[str]
    """Entries of the file and parts of the table that were not taken."""


_SHARED_HEAD = r"^head\.(?!.*\.patch_layer\.)"
_BEIT = {
    "encoder": (
        Table("model", "", "backbone."),
        Table("module", "", "backbone."),
        Table("", "", "backbone."),
    )
}
_SELF_DISTILLED = {
    "teacher": (
        Table("teacher", "module.", "backbone."),
        Table("teacher"),
        Table("state_dict"),
        Table(),
    ),
    "student": (Table("student", "module.", "backbone."), Table("student"), Table("state_dict")),
}

FORMATS: dict[str, CheckpointFormat] = {
    "mae": CheckpointFormat(
        {"encoder": (Table("model", "", "backbone."), Table("", "", "backbone."))},
        naming="mae",
        apart=r"^decoder\.",
    ),
    "mocov3": CheckpointFormat(
        {
            "base": (Table("state_dict", "module.", "pair.encoder.backbone."), Table("model")),
            "momentum": (Table("state_dict", "module.", "pair.momentum_encoder.backbone."),),
        },
        naming="mocov3",
        apart=r"^(pair\.|fc\.)",
        width_to_heads={384: 12},
    ),
    "dino": CheckpointFormat(_SELF_DISTILLED, naming="dino", apart=r"^head\.", heads=_SHARED_HEAD),
    "ibot": CheckpointFormat(
        _SELF_DISTILLED,
        naming="ibot",
        apart=r"^(head\.|masked_embed$|backbone\.masked_embed$)",
        heads=_SHARED_HEAD,
    ),
    "dinov2": CheckpointFormat(
        {
            "teacher": (
                Table(),
                Table("teacher", "backbone."),
                Table("model", "teacher.backbone."),
                Table("model"),
            ),
            "student": (Table("model", "student.backbone."),),
        },
        naming="dinov2",
        apart=r"^(mask_token$|dino_head\.|ibot_head\.|student\.|teacher\.|dino_loss|class_center"
        r"|ibot_patch_loss|patch_center)",
        trained_on="lvd142m",
    ),
    "beit": CheckpointFormat(
        _BEIT,
        naming="beit",
        apart=r"^(mask_token$|lm_head\.)",
        normalise="inception",
        trained_on="imagenet22k",
    ),
    "beit2": CheckpointFormat(
        _BEIT, naming="beit2", apart=r"^(mask_token$|lm_head\.|aggregation\.)"
    ),
    "droppos": CheckpointFormat(
        {
            "encoder": (
                Table("state_dict", "module.", "backbone."),
                Table("model", "module.", "backbone."),
                Table("", "module.", "backbone."),
            )
        },
        naming="droppos",
        apart=r"^(decoder\.|pixel_decoder\.|position_token$)",
    ),
    "clip": CheckpointFormat(
        {"image": (Table("", "", "backbone."), Table("state_dict", "module.", "backbone."))},
        naming="clip",
        apart=r"^(input_resolution|context_length|vocab_size)$",
        heads=r"^(text\.|text_projection\.|projection\.|logit_scale$)",
        normalise="clip",
        trained_on="wit400m",
    ),
}
"""Formats by ``--format``."""


class UnknownNamesError(ValueError):
    """A table has tensors of no known part: its message names them."""


def find(content: Mapping[str, Any], file_format: CheckpointFormat, network: str) -> Found | None:
    """A network of a file, under our names; None where no table of the format has it.

    Args:
        content: of the file, as ``files.read_file`` gives it.
        file_format: the format of its method.
        network: one of the format's.

    Raises:
        UnknownNamesError: its table has names of no known part.
    """
    for candidate in file_format.networks[network]:
        table = content.get(candidate.key) if candidate.key else content
        if not isinstance(table, Mapping):
            continue
        weights = {n: t for n, t in table.items() if isinstance(t, Tensor)}
        ours = from_official(file_format.naming, _unwrapped(weights, candidate.strip))
        if not any(f"{candidate.inside}{name}" in ours for name in _FIRST):
            continue
        found = _split(ours, file_format, candidate.inside)
        others = [name for name, entry in table.items() if not isinstance(entry, Tensor)]
        beside = [name for name in content if name != candidate.key] if candidate.key else []
        found.left_out.extend(map(str, [*others, *beside]))
        return found
    return None


def _unwrapped(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Without a wrapper's prefix, and without chunks: ``blocks.<chunk>.<block>.`` in DINOv2."""
    plain = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    chunk = re.compile(r"^blocks\.\d+\.(\d+)\.")
    return {chunk.sub(r"blocks.\1.", name): tensor for name, tensor in plain.items()}


def _split(ours: Mapping[str, Tensor], file_format: CheckpointFormat, inside: str) -> Found:
    """The backbone, what is kept beside it, and the names of the other known parts."""
    backbone: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    parts: dict[str, int] = {}
    unknown: list[str] = []
    for name, tensor in ours.items():
        within = name.startswith(inside)
        own = name.removeprefix(inside)
        if re.search(file_format.heads, own):
            heads[own] = tensor
        elif re.search(file_format.apart, own):
            part = re.split(r"\.\d", own)[0]
            parts[part] = parts.get(part, 0) + 1
        elif not within:
            unknown.append(name)
        elif own.startswith("head."):
            # A classifier that fine-tuning left.
            heads[own] = tensor
        else:
            backbone[own] = tensor
    if unknown:
        raise UnknownNamesError(", ".join(sorted(unknown)))
    return Found(backbone, heads, [f"{part} ({count} tensors)" for part, count in parts.items()])
