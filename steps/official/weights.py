"""Pretrained weights of an artifact, a timm model or a transformers folder, as data.

Both readers of such weights use them: the ``init`` of a recipe, and ``steps.import``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from torch import Tensor

from steps.artifacts.manifest import MANIFEST, digest_file, digest_files, read_manifest
from steps.command import UserError
from steps.models.backbones import (
    BackboneModel,
    is_resnet,
    load_backbone,
    norm_eps,
    normalisation,
    own_resizing,
)
from steps.models.positions import WITH_OFFSET, Resizing
from steps.official.files import check_tensors, read_file
from steps.official.hub import (
    A_BEIT,
    A_VIT,
    AN_EVA,
    CONFIG,
    FILES,
    PROCESSOR,
    hub_eps,
    hub_normalisation,
    hub_resizing,
    hub_sizes,
    hub_tensors,
    is_hub_folder,
)
from steps.params.load import closest
from steps.params.recipe import WEIGHT_FILES

_TABLES = ("state_dict_ema", "state_dict", "model", "model_ema")
"""Keys under which training scripts of timm keep the tensors."""
CHANNELS = "channels of an image"
RELATIVE = "relative_position_bias_table"
IMPORT = "import an official file first (python -m steps.import) and start from that artifact"


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
    norm_eps: float | None = None
    """Epsilon of their layer norms; None: not said."""
    first_layer: str = ""
    """Change of the first layer for other than three channels, in words."""
    architecture: str | None = None
    """Their architecture in timm; None: not said."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that change the architecture."""


def weights_at(path: Path, where: str, model: BackboneModel) -> Weights:
    """Weights of an artifact, of a file, or of a folder of transformers or of timm.

    Args:
        path: what the user gave.
        where: names it in errors.
        model: the backbone that takes them.

    Raises:
        UserError: there is none of these, or it cannot be read safely.
    """
    if is_hub_folder(path):
        return of_hub_folder(path, model)
    if is_timm_folder(path):
        return of_timm_folder(path)
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise UserError(
                where,
                f"{path} is a folder without {MANIFEST}, so no artifact",
                allowed="a backbone that steps.pretrain or steps.import made, or a folder of "
                "transformers, whose config.json has a model_type, or of timm, whose has an "
                "architecture",
                remedy=IMPORT,
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
    return of_file(path)


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


def is_timm_folder(path: Path) -> bool:
    """True for a folder as timm writes it for the hub, and reads it as ``local-dir:``.

    A backbone artifact of this project is none: it says more of its weights.
    """
    try:
        config = json.loads((path / CONFIG).read_bytes())
        manifest = path / MANIFEST
        node = json.loads(manifest.read_bytes())["node"] if manifest.is_file() else None
    except (OSError, ValueError, TypeError, KeyError):
        return False
    return isinstance(config, dict) and "architecture" in config and node != "pretrain"


def of_timm_folder(path: Path) -> Weights:
    """Weights of a folder as timm writes it for the hub.

    Raises:
        UserError: it has no file of weights, or the file cannot be read safely.
    """
    files = {name: path / name for name in (CONFIG, *FILES) if (path / name).is_file()}
    found = [path for name, path in files.items() if name != CONFIG]
    if not found:
        raise UserError(
            str(path),
            "no file of weights",
            allowed=" or ".join(FILES),
            remedy="get the folder again, its weights in one file",
        )
    whole = json.loads((path / CONFIG).read_bytes())
    config = whole.get("pretrained_cfg") or {}
    images = (config["mean"], config["std"]) if {"mean", "std"} <= config.keys() else None
    return Weights(
        path.name,
        f"timm folder {path}",
        digest_files({name: digest_file(file) for name, file in files.items()}),
        of_file(found[0]).tensors,
        normalisation=None if images is None else (list(images[0]), list(images[1])),
        architecture=whole["architecture"],
        model_args=whole.get("model_args") or {},
    )


def of_file(path: Path) -> Weights:
    """Weights of a file of a timm model.

    Raises:
        UserError: it cannot be read safely, or holds no tensors by name.
    """
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


def of_hub_folder(path: Path, model: BackboneModel) -> Weights:
    """Weights of a transformers folder.

    Args:
        path: the folder.
        model: the backbone that takes them; of one of another architecture no tensor is read.

    Raises:
        UserError: the architecture is none of those read here, or there is no file of weights that
            can be read safely.
    """
    sizes = hub_sizes(path)
    tensors: dict[str, Tensor] = {}
    left_out: list[str] = []
    if sizes["architecture"] == sizes_of_model(model)["architecture"]:
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
        norm_eps=hub_eps(path),
    )


def downloaded(name: str, where: str, remedy: str) -> Weights:
    """Weights of a pretrained model, by timm's own loading.

    Args:
        name: of timm, or ``hf-hub:`` and a repository.
        where: names it in errors.
        remedy: in place of the network.

    Raises:
        UserError: timm does not know the name, or cannot get the weights.
    """
    check_timm_name(name, where)
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub, the network and timm raise a dozen kinds
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            where,
            f"{name} is neither on this machine nor downloaded: {said[0][:200]}",
            remedy=f"run where a network is, or {remedy}",
        ) from error
    if not isinstance(model, BackboneModel):
        raise UserError(
            where,
            f"{name} is a {type(model).__name__}",
            allowed="a vision transformer, a BEiT, an EVA or a ResNet",
        )
    config = model.pretrained_cfg
    parts = _of_model(model)
    return Weights(
        name=name,
        source=f"timm {name}",
        digest=_digest(parts["tensors"]),
        normalisation=(list(config["mean"]), list(config["std"])),
        architecture=config.get("architecture"),
        **parts,
    )


def check_timm_name(name: str, where: str) -> None:
    """Refuse a name that timm does not know as a pretrained model.

    Raises:
        UserError: with the nearest name.
    """
    known = timm.list_models(pretrained=True)
    remote = name.startswith(("hf-hub:", "hf_hub:"))
    names = known if "." in name else {each.partition(".")[0] for each in known}
    if not remote and name not in names:
        close = closest(name, known)
        raise UserError(
            where,
            f"{name}, which timm does not know as a pretrained model",
            allowed="a name of timm.list_pretrained(), or a file that ends in "
            + ", ".join(WEIGHT_FILES),
            remedy=f"did you mean '{close}'?" if close else "correct the name, or give a file",
        )


def _of_model(model: BackboneModel) -> dict[str, Any]:
    """The fields of ``Weights`` that a model tells."""
    tensors = model.state_dict()
    return {
        "tensors": tensors,
        "resizing": own_resizing(model),
        "sizes": beyond_tensors(model),
        "norm_eps": norm_eps(model),
    }


_ACTIVATIONS = {"QuickGELU": "quick_gelu", "GELUTanh": "gelu_pytorch_tanh"}
"""Names on the hub of timm's activations, where they are not those of the class."""


def beyond_tensors(model: BackboneModel) -> dict[str, Any]:
    """Sizes of a model that its tensors do not tell."""
    if is_resnet(model):
        return {}
    first = model.blocks[0]
    act = type(first.mlp.act).__name__
    found = {
        "architecture": A_BEIT if isinstance(model, Beit) else A_VIT,
        "attention heads": int(first.attn.num_heads),
        "activation": _ACTIVATIONS.get(act, act.lower()),
    }
    if isinstance(model, Eva):
        found["architecture"] = AN_EVA
        if hasattr(model.rope, "temperature"):
            found["base of the rotary positions"] = float(model.rope.temperature)
    return found


def sizes_of_model(model: BackboneModel) -> dict[str, Any]:
    """Architecture and sizes of a model, by what errors call them."""
    return {**sizes_of(model.state_dict()), **beyond_tensors(model)}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def sizes_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Architecture and sizes of a backbone, by what errors call them, from its tensors."""
    if (stem := tensors.get("conv1.weight")) is not None and stem.ndim == 4:
        blocks = {match[0] for name in tensors if (match := re.match(r"layer\d\.\d+\.", name))}
        return {
            "architecture": "a ResNet",
            CHANNELS: stem.shape[1],
            "width of the first layer": stem.shape[0],
            "side of the first filters": stem.shape[2],
            "blocks": len(blocks),
        }
    if (stem := tensors.get("patch_embed.proj.weight")) is None or stem.ndim != 4:
        return {"architecture": "neither a ResNet nor a vision transformer of timm's names"}
    beit = any(name.endswith((RELATIVE, "attn.q_bias", ".gamma_1")) for name in tensors)
    found = {
        "architecture": A_BEIT if beit else A_VIT,
        CHANNELS: stem.shape[1],
        "patch size": stem.shape[2],
        "width": stem.shape[0],
        "blocks": len({name.split(".")[1] for name in tensors if name.startswith("blocks.")}),
    }
    if (hidden := tensors.get("blocks.0.mlp.fc1.weight")) is not None:
        found["width of the MLPs"] = hidden.shape[0]
    return found
