"""Where the official files of each method keep a backbone, and what stands beside it.

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
"""What official code normalises images by."""

_FIRST = ("patch_embed.proj.weight", "conv1.weight")
"""The first layer of a transformer or a ResNet, by which a backbone is recognised."""


@dataclass(frozen=True)
class Place:
    """One way in which a file holds a network."""

    key: str = ""
    """Of the table within the file; "": the file is the table."""
    strip: str = ""
    """A wrapper's prefix, taken from every name that has it."""
    inside: str = ""
    """What our names of the backbone then begin with."""


@dataclass(frozen=True)
class Layout:
    """The files of one method."""

    networks: Mapping[str, tuple[Place, ...]]
    """By name, the one that evaluations take first; of the places the first that fits counts."""
    naming: str
    """Whose names they are, in ``steps.official.names.NAMINGS``."""
    apart: str
    """Our names of what only pretraining needs, as a pattern."""
    heads: str = r"^$"
    """Our names of what is kept beside the backbone, as a pattern."""
    normalise: str = "imagenet"
    trained_on: str = "imagenet1k"
    width_to_heads: Mapping[int, int] = field(default_factory=dict)
    """Heads of published sizes that have another number than the others of their width."""


@dataclass(frozen=True)
class Found:
    """What a file holds, under our names."""

    backbone: dict[str, Tensor]
    heads: dict[str, Tensor]
    left_out: list[str]
    """Entries of the file and parts of the table that were not taken."""


_SHARED_HEAD = r"^head\.(?!.*\.patch_layer\.)"
_BEIT = {
    "encoder": (
        Place("model", "", "backbone."),
        Place("module", "", "backbone."),
        Place("", "", "backbone."),
    )
}
_SELF_DISTILLED = {
    "teacher": (
        Place("teacher", "module.", "backbone."),
        Place("teacher"),
        Place("state_dict"),
        Place(),
    ),
    "student": (Place("student", "module.", "backbone."), Place("student"), Place("state_dict")),
}

LAYOUTS: dict[str, Layout] = {
    "mae": Layout(
        {"encoder": (Place("model", "", "backbone."), Place("", "", "backbone."))},
        naming="mae",
        apart=r"^decoder\.",
    ),
    "mocov3": Layout(
        {
            "base": (Place("state_dict", "module.", "pair.encoder.backbone."), Place("model")),
            "momentum": (Place("state_dict", "module.", "pair.momentum_encoder.backbone."),),
        },
        naming="mocov3",
        apart=r"^(pair\.|fc\.)",
        width_to_heads={384: 12},
    ),
    "dino": Layout(_SELF_DISTILLED, naming="dino", apart=r"^head\.", heads=_SHARED_HEAD),
    "ibot": Layout(
        _SELF_DISTILLED,
        naming="ibot",
        apart=r"^(head\.|masked_embed$|backbone\.masked_embed$)",
        heads=_SHARED_HEAD,
    ),
    "dinov2": Layout(
        {
            "teacher": (
                Place(),
                Place("teacher", "backbone."),
                Place("model", "teacher.backbone."),
                Place("model"),
            ),
            "student": (Place("model", "student.backbone."),),
        },
        naming="dinov2",
        apart=r"^(mask_token$|dino_head\.|ibot_head\.|student\.|teacher\.|dino_loss|class_center"
        r"|ibot_patch_loss|patch_center)",
        trained_on="lvd142m",
    ),
    "beit": Layout(
        _BEIT,
        naming="beit",
        apart=r"^(mask_token$|lm_head\.)",
        normalise="inception",
        trained_on="imagenet22k",
    ),
    "beit2": Layout(_BEIT, naming="beit2", apart=r"^(mask_token$|lm_head\.|aggregation\.)"),
    "droppos": Layout(
        {
            "encoder": (
                Place("state_dict", "module.", "backbone."),
                Place("model", "module.", "backbone."),
                Place("", "module.", "backbone."),
            )
        },
        naming="droppos",
        apart=r"^(decoder\.|pixel_decoder\.|position_token$)",
    ),
    "clip": Layout(
        {"image": (Place("", "", "backbone."), Place("state_dict", "module.", "backbone."))},
        naming="clip",
        apart=r"^(input_resolution|context_length|vocab_size)$",
        heads=r"^(text\.|text_projection\.|projection\.|logit_scale$)",
        normalise="clip",
        trained_on="wit400m",
    ),
}
"""By ``--format``."""


class UnknownNamesError(ValueError):
    """A table has tensors of no known part: its message names them."""


def find(content: Mapping[str, Any], layout: Layout, network: str) -> Found | None:
    """A network of a file, under our names; None where no place of the layout has it.

    Args:
        content: of the file, as ``files.read_file`` gives it.
        layout: of its method.
        network: one of the layout's.

    Raises:
        UnknownNamesError: its table has names of no known part.
    """
    for place in layout.networks[network]:
        table = content.get(place.key) if place.key else content
        if not isinstance(table, Mapping):
            continue
        weights = {n: t for n, t in table.items() if isinstance(t, Tensor)}
        ours = from_official(layout.naming, _unwrapped(weights, place.strip))
        if not any(f"{place.inside}{name}" in ours for name in _FIRST):
            continue
        found = _split(ours, layout, place.inside)
        others = [name for name, entry in table.items() if not isinstance(entry, Tensor)]
        beside = [name for name in content if name != place.key] if place.key else []
        found.left_out.extend(map(str, [*others, *beside]))
        return found
    return None


def _unwrapped(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Without a wrapper's prefix, and without chunks: ``blocks.<chunk>.<block>.`` in DINOv2."""
    plain = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    chunk = re.compile(r"^blocks\.\d+\.(\d+)\.")
    return {chunk.sub(r"blocks.\1.", name): tensor for name, tensor in plain.items()}


def _split(ours: Mapping[str, Tensor], layout: Layout, inside: str) -> Found:
    """The backbone, what is kept beside it, and the names of the other known parts."""
    backbone: dict[str, Tensor] = {}
    heads: dict[str, Tensor] = {}
    parts: dict[str, int] = {}
    unknown: list[str] = []
    for name, tensor in ours.items():
        within = name.startswith(inside)
        own = name.removeprefix(inside)
        if re.search(layout.heads, own):
            heads[own] = tensor
        elif re.search(layout.apart, own):
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
