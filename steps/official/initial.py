"""Weights that a pretraining starts from: an artifact, a timm model or a transformers folder.

Names and shapes must be those of the backbone that the recipe trains, all of them. A classifier is
left out. Position tables of another grid are resized, as they are when a backbone is fine-tuned or
detects at another size.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor

from steps.artifacts.manifest import MANIFEST, digest_file, digest_files, read_manifest
from steps.command import UserError
from steps.core.finite import check_weights
from steps.models.backbones import (
    BackboneModel,
    create_backbone,
    is_resnet,
    load_backbone,
    normalisation,
    own_resizing,
)
from steps.models.positions import (
    CLASS_ROWS,
    WITH_OFFSET,
    Resizing,
    grid_of,
    resize_relative_table,
    resize_table,
)
from steps.official.files import check_fit, check_tensors, read_file
from steps.official.hub import (
    CONFIG,
    FILES,
    PROCESSOR,
    hub_normalisation,
    hub_resizing,
    hub_sizes,
    hub_tensors,
    is_hub_folder,
)
from steps.params.backbone import Backbone
from steps.params.dataset import RGB
from steps.params.load import closest
from steps.params.recipe import WEIGHT_FILES, Init

_TABLES = ("state_dict_ema", "state_dict", "model", "model_ema")
"""Keys under which training scripts of timm keep the tensors."""
_CLASSIFIER = re.compile(r"^(head|head_dist|fc)\.")
_CHANNELS = "channels of an image"
_STEMS = ("conv1.weight", "patch_embed.proj.weight")
"""Names of the first layer of a ResNet and of a transformer."""
_RELATIVE = "relative_position_bias_table"
_IMPORT = "import an official file first (python -m steps.import) and start from that artifact"


@dataclass(frozen=True)
class Weights:
    """Pretrained weights, before they are held to a backbone."""

    name: str
    """Short name for tables: a row's, a file's or a model's."""
    source: str
    """Where they come from, for the manifest and for errors."""
    digest: str
    """SHA-256: of the artifact, of the file, or of a downloaded model's tensors."""
    tensors: Mapping[str, Tensor]
    """By timm's names."""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    """Architecture and sizes that are told besides by the tensors."""
    left_out: Sequence[str] = ()
    """Names of tensors that are no part of a backbone."""
    artifact: Path | None = None
    """The artifact, if they are one."""
    normalisation: tuple[list[float], list[float]] | None = None
    """Mean and standard deviation of the images that they expect; None: a file does not say."""
    resizing: Resizing = WITH_OFFSET
    """Resizing of their position table."""
    first_layer: str = ""
    """Change of the first layer for other than three channels, in words."""


@dataclass(frozen=True)
class Fitted:
    """Pretrained weights that a backbone takes."""

    weights: Weights
    tensors: dict[str, Tensor]
    """Every tensor of the backbone, in float32 unless it counts."""
    changes: list[str] = field(default_factory=list)
    """Changes to the weights, in words, for the log."""

    @property
    def facts(self) -> dict[str, str]:
        """Source, digest and a change of the first layer, for the manifest."""
        weights = self.weights
        changed = {"first_layer": weights.first_layer} if weights.first_layer else {}
        return {"source": weights.source, "digest": weights.digest, **changed}


def initial_weights(
    init: Init | None, given: Path | None, backbone: Backbone, recipe: Path, network: Path
) -> Fitted | None:
    """The weights that a run starts from; None if it starts from random ones.

    Args:
        init: as the recipe names them.
        given: a path of the command line, which takes the place of the recipe's.
        backbone: what the method trains.
        recipe, network: files of recipe and backbone, which errors name.

    Raises:
        UserError: weights are given or needed without the other, cannot be read, or do not fit.
    """
    if init is None:
        if given is None:
            return None
        raise UserError(
            f"--init {given}",
            f"{recipe} names no init, so that its row in tables stands for random weights",
            remedy="leave out --init, or take a recipe of continued pretraining, such as "
            f"continue_{recipe.stem}",
        )
    with torch.device("meta"):
        model = create_backbone(backbone)
    if given is not None:
        weights = _at(given, f"--init {given}", model)
    elif init.row is not None:
        raise UserError(
            f"{recipe}: init",
            f"row {init.row}, but no --init is given",
            remedy="give --init PATH: a backbone artifact, a file of a timm model's weights, or a "
            "folder of transformers",
        )
    elif init.path is not None:
        weights = _at(Path(init.path), f"{recipe}: init", model)
    else:
        weights = _downloaded(str(init.timm), f"{recipe}: init.timm")
    return _fitted(weights, model, network)


# --- Reading


def _at(path: Path, where: str, model: BackboneModel) -> Weights:
    """Weights of an artifact, of a file, or of a folder of transformers.

    Args:
        path: what the user gave.
        where: names it in errors.
        model: the backbone that takes them.
    """
    if is_hub_folder(path):
        return _of_hub_folder(path, model)
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise UserError(
                where,
                f"{path} is a folder without {MANIFEST}, so no artifact",
                allowed="a backbone that steps.pretrain or steps.import made, or a folder of "
                "transformers, whose config.json has a model_type",
                remedy=_IMPORT,
            )
        return _of_artifact(path)
    if not path.exists():
        raise UserError(
            where,
            f"no {path}",
            allowed="the folder of a backbone artifact or of transformers, or a file of a timm "
            "model's weights",
            remedy="correct the path, or make the artifact first",
        )
    return _of_file(path)


def _of_artifact(path: Path) -> Weights:
    model = load_backbone(path)
    manifest = read_manifest(path, "pretrain")
    return Weights(
        name=str(manifest.facts["recipe"]),
        source=f"artifact {path}",
        digest=manifest.digest,
        artifact=path,
        normalisation=normalisation(path),
        **_of_model(model),
    )


def _of_file(path: Path) -> Weights:
    content = read_file(path)
    if not isinstance(content, Mapping):
        raise UserError(str(path), f"a {type(content).__name__}", allowed="tensors by name")
    inside = next((content[key] for key in _TABLES if isinstance(content.get(key), Mapping)), None)
    table: Mapping[Any, Any] = content if inside is None else inside
    check_tensors(path, table)
    tensors = {
        str(name).removeprefix("module."): tensor
        for name, tensor in table.items()
        if isinstance(tensor, Tensor)
    }
    return Weights(path.name, f"file {path}", digest_file(path), tensors)


def _of_hub_folder(path: Path, model: BackboneModel) -> Weights:
    sizes = hub_sizes(path)
    tensors: dict[str, Tensor] = {}
    left_out: list[str] = []
    if sizes["architecture"] == _sizes_of(model.state_dict())["architecture"]:
        tensors, left_out = hub_tensors(path, model.state_dict())
    names = (CONFIG, PROCESSOR, *FILES)
    digests = {name: digest_file(path / name) for name in names if (path / name).is_file()}
    return Weights(
        path.name,
        f"transformers {path}",
        digest_files(digests),
        tensors,
        sizes=sizes,
        left_out=left_out,
        normalisation=hub_normalisation(path),
        resizing=hub_resizing(path),
    )


def _downloaded(name: str, where: str) -> Weights:
    """Weights of a pretrained model, by timm's own loading."""
    known = timm.list_models(pretrained=True)
    remote = name.startswith("hf-hub:")
    if not remote and name.partition(".")[0] not in {each.partition(".")[0] for each in known}:
        close = closest(name, known)
        raise UserError(
            where,
            f"{name}, which timm does not know as a pretrained model",
            allowed="a name of timm.list_pretrained(), or a file that ends in "
            + ", ".join(WEIGHT_FILES),
            remedy=f"did you mean '{close}'?" if close else "correct the name, or give a file",
        )
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub, the network and timm raise a dozen kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            where,
            f"{name} is neither on this machine nor downloaded: {said[0][:200]}",
            remedy="run where a network is, or give a file of its weights: init: {timm: PATH}",
        ) from error
    if not isinstance(model, BackboneModel):
        raise UserError(
            where,
            f"{name} is a {type(model).__name__}",
            allowed="a vision transformer, a BEiT or a ResNet",
        )
    config = model.pretrained_cfg
    parts = _of_model(model)
    return Weights(
        name=name,
        source=f"timm {name}",
        digest=_digest(parts["tensors"]),
        normalisation=(list(config["mean"]), list(config["std"])),
        **parts,
    )


def _of_model(model: BackboneModel) -> dict[str, Any]:
    """The fields of ``Weights`` that a model tells."""
    tensors = model.state_dict()
    return {"tensors": tensors, "resizing": own_resizing(model), "sizes": _beyond_tensors(model)}


def _beyond_tensors(model: BackboneModel) -> dict[str, Any]:
    """Sizes of a model that its tensors do not tell."""
    if is_resnet(model):
        return {}
    first = model.blocks[0]
    activation = {"QuickGELU": "quick_gelu"}.get(type(first.mlp.act).__name__)
    return {
        "attention heads": int(first.attn.num_heads),
        "activation": activation or type(first.mlp.act).__name__.lower(),
    }


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


# --- Held to the backbone that the recipe trains


def _fitted(weights: Weights, model: BackboneModel, network: Path) -> Fitted:
    """The weights as the backbone's own tensors.

    Raises:
        UserError: architecture, sizes, names or shapes differ.
    """
    ours = model.state_dict()
    weights, changes = _with_channels(weights, ours)
    wanted = {**_sizes_of(ours), **_beyond_tensors(model)}
    found = {**_sizes_of(weights.tensors), **weights.sizes}
    for what in wanted:
        if found.get(what, wanted[what]) != wanted[what]:
            raise UserError(
                weights.source,
                f"{what}: {found[what]}",
                allowed=f"{wanted[what]}, as the recipe trains it on backbone {network}",
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
        remedy=_IMPORT,
        allowed="every tensor of the backbone, and of others only a classifier's",
    )
    if left_out:
        changes.append(f"left out {', '.join(sorted(left_out))}")
    check_weights(tensors.items(), weights.source, "get the weights again")
    whole = {name: tensor.detach().to("cpu", ours[name].dtype) for name, tensor in tensors.items()}
    return Fitted(weights, whole, changes)


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
    sizes = {key: size for key, size in weights.sizes.items() if key != _CHANNELS}
    tensors = {**weights.tensors, name: adapt_input_conv(channels, first)}
    return replace(weights, tensors=tensors, sizes=sizes, first_layer=said), [said]


def _sizes_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Architecture and sizes of a backbone, by what errors call them, from its tensors."""
    if (stem := tensors.get("conv1.weight")) is not None and stem.ndim == 4:
        blocks = {match[0] for name in tensors if (match := re.match(r"layer\d\.\d+\.", name))}
        return {
            "architecture": "a ResNet",
            _CHANNELS: stem.shape[1],
            "width of the first layer": stem.shape[0],
            "side of the first filters": stem.shape[2],
            "blocks": len(blocks),
        }
    if (stem := tensors.get("patch_embed.proj.weight")) is None or stem.ndim != 4:
        return {"architecture": "neither a ResNet nor a vision transformer of timm's names"}
    beit = any(name.endswith((_RELATIVE, "attn.q_bias", ".gamma_1")) for name in tensors)
    found = {
        "architecture": "a BEiT" if beit else "a vision transformer",
        _CHANNELS: stem.shape[1],
        "patch size": stem.shape[2],
        "width": stem.shape[0],
        "blocks": len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
    }
    if (hidden := tensors.get("blocks.0.mlp.fc1.weight")) is not None:
        found["width of the MLPs"] = hidden.shape[0]
    return found


def _resized(
    name: str, tensor: Tensor, ours: Tensor, resizing: Resizing, changes: list[str]
) -> Tensor:
    """A position table for the grid of ours; any other tensor as it is."""
    try:
        if name.endswith(_RELATIVE) and tensor.shape[1:] == ours.shape[1:]:
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
