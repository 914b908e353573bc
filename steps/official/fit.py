"""Pretrained weights held to a backbone: every tensor there, with its shape, and none left over.

A classifier is left out. Position tables of another grid are resized, as they are when a backbone
is fine-tuned or detects at another size.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from timm.models import adapt_input_conv
from timm.models.eva import Eva
from torch import Tensor

from steps.command import UserError
from steps.core.finite import check_weights
from steps.models.backbones import BackboneModel, norm_eps
from steps.models.positions import (
    CLASS_ROWS,
    Resizing,
    grid_of,
    resize_relative_table,
    resize_table,
)
from steps.official.files import check_fit
from steps.official.weights import CHANNELS, RELATIVE, Weights, sizes_of, sizes_of_model
from steps.params.sets import RGB

_STEMS = ("conv1.weight", "patch_embed.proj.weight")
"""Names of the first layer of a ResNet and of a transformer."""
_CLASSIFIER = re.compile(r"^(head|head_dist|fc)\.")


@dataclass(frozen=True)
class Fitted:
    """Pretrained weights that a backbone takes."""

    weights: Weights
    tensors: dict[str, Tensor]
    """Every tensor of the backbone, in float32 unless it counts."""
    changes: list[str] = field(default_factory=list)
    """Changes to the weights, in words, for the log."""
    left_out: list[str] = field(default_factory=list)
    """Names of tensors that are no part of a backbone."""

    @property
    def facts(self) -> dict[str, str]:
        """Source, digest and a change of the first layer, for the manifest."""
        weights = self.weights
        changed = {"first_layer": weights.first_layer} if weights.first_layer else {}
        return {"source": weights.source, "digest": weights.digest, **changed}


def fitted(weights: Weights, model: BackboneModel, asked: str, remedy: str) -> Fitted:
    """The weights as the backbone's own tensors.

    Args:
        weights: from anywhere.
        model: the backbone.
        asked: who asks for this backbone, for errors: "the recipe trains it on backbone …".
        remedy: for errors about names of tensors.

    Raises:
        UserError: architecture, sizes, names or shapes differ.
    """
    ours = model.state_dict()
    weights, changes = _with_channels(weights, ours)
    wanted = sizes_of_model(model)
    found = {**sizes_of(weights.tensors), **weights.sizes}
    if isinstance(model, Eva) and "architecture" not in weights.sizes:
        # A file has no name for it, and tensors alone may be those of a BEiT.
        found.pop("architecture", None)
    for what in wanted:
        if found.get(what, wanted[what]) != wanted[what]:
            raise UserError(
                weights.source,
                f"{what}: {found[what]}",
                allowed=f"{wanted[what]}, as {asked}",
                remedy="name a backbone of the weights' size, or start from other weights",
            )
    tensors: dict[str, Tensor] = {}
    left_out = [*weights.left_out]
    for name, tensor in weights.tensors.items():
        if name not in ours and _CLASSIFIER.match(name):
            left_out.append(name)
        elif name in ours and tensor.shape != ours[name].shape:
            tensors[name] = _resized(name, tensor, ours[name], weights.resizing, changes)
        else:
            tensors[name] = tensor
    check_fit(
        weights.source,
        ours,
        tensors,
        remedy=remedy,
        allowed="every tensor of the backbone, and of others only a classifier's",
    )
    own = norm_eps(model)
    if weights.norm_eps is not None and own is not None and weights.norm_eps != own:
        changes.append(f"layer norms add {own:g} to the variance, not {weights.norm_eps:g}")
    if left_out:
        changes.append(f"left out {', '.join(sorted(left_out))}")
    check_weights(tensors.items(), weights.source, "get the weights again")
    whole = {name: tensor.detach().to("cpu", ours[name].dtype) for name, tensor in tensors.items()}
    return Fitted(weights, whole, changes, sorted(left_out))


def _with_channels(weights: Weights, ours: Mapping[str, Tensor]) -> tuple[Weights, list[str]]:
    """Weights for images of three channels, their first layer spread over as many as ours takes.

    As timm's ``in_chans`` does it: for one channel the filters of the three are added up, for
    others they are repeated in order and multiplied by 3 / C, so that gray images give about what
    they gave.

    Returns:
        The weights, and the change in words, if there is one.
    """
    name = next((stem for stem in _STEMS if stem in ours), "")
    first = weights.tensors.get(name)
    if first is None or first.ndim != 4:
        return weights, []
    channels = ours[name].shape[1]
    if first.shape[1] != RGB[0] or channels == RGB[0]:
        return weights, []
    said = f"filters of the first layer ({name}) for three channels "
    if channels == 1:
        said += "added up for one"
    else:
        said += f"repeated over {channels} channels, times 3/{channels}"
    sizes = {key: size for key, size in weights.sizes.items() if key != CHANNELS}
    tensors = {**weights.tensors, name: adapt_input_conv(channels, first)}
    return replace(weights, tensors=tensors, sizes=sizes, first_layer=said), [said]


def _resized(
    name: str, tensor: Tensor, ours: Tensor, resizing: Resizing, changes: list[str]
) -> Tensor:
    """A position table for the grid of ours; any other tensor as it is."""
    try:
        if name.endswith(RELATIVE) and tensor.shape[1:] == ours.shape[1:]:
            before, after = grid_of(len(tensor)), grid_of(len(ours))
            resized = resize_relative_table(tensor, after)
        elif name == "pos_embed" and tensor.ndim == 3 and tensor.shape[2] == ours.shape[2]:
            before, after, prefix = _grids(tensor.shape[1], ours.shape[1])
            resized = resize_table(tensor, (after, after), prefix, resizing)
        else:
            return tensor
    except ValueError:
        return tensor
    said = f"positions resized from {before} x {before} to {after} x {after}"
    if said not in changes:
        changes.append(said)
    return resized


def _grids(found: int, wanted: int) -> tuple[int, int, int]:
    """Patches a side of two tables with as many rows for prefix tokens, and that number.

    Raises:
        ValueError: no number of prefix tokens makes both grids square.
    """
    for prefix in range(CLASS_ROWS):
        sides = [math.isqrt(rows - prefix) for rows in (found, wanted)]
        if [side**2 + prefix for side in sides] == [found, wanted]:
            return sides[0], sides[1], prefix
    raise ValueError(f"{found} and {wanted} rows are no square grids")
