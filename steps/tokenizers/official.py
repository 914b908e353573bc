"""Read the official weights of a tokenizer, and nothing else from their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from steps.command import UserError
from steps.data.sources.source import data_root
from steps.models.official import from_official
from steps.params.tokenizers.recipe import TokenizerRecipe
from steps.tokenizers.tokenizer import Tokenizer


def official_files(recipe: TokenizerRecipe) -> dict[str, Path]:
    """The files that the params name, by the part of the network that each holds.

    Raises:
        UserError: one is absent.
    """
    files = {part: data_root() / name for part, name in (recipe.official or {}).items()}
    for part, path in files.items():
        if not path.is_file():
            raise UserError(
                f"official.{part}",
                f"no file {path}",
                remedy="put the official weights there, or train the tokenizer instead",
            )
    return files


def read_official(tokenizer: Tokenizer, kind: str, files: Mapping[str, Path]) -> None:
    """Load official weights into a tokenizer.

    Args:
        tokenizer: of the size that the weights have.
        kind: the tokenizer's name in params, whose official names are known.
        files: state dicts (safetensors, or torch's format, of which only tensors are read), or the
            modules that DALL-E published. A file that holds one part of the network names its
            tensors without that part.

    Raises:
        UserError: a file is not a state dict, or not of this tokenizer.
    """
    weights: dict[str, Tensor] = {}
    for part, path in files.items():
        prefix = "" if len(files) == 1 else f"{part}."
        weights.update({f"{prefix}{name}": tensor for name, tensor in _state_dict(path).items()})
    ours, renamed = tokenizer.state_dict(), from_official(kind, weights)
    # Official files of a whole training hold the tokenizer beside what it was trained with.
    inside = "tokenizer." if any(name.startswith("tokenizer.") for name in renamed) else ""
    found = {
        name.removeprefix(inside): tensor
        for name, tensor in renamed.items()
        if name.startswith(inside) and name.removeprefix(inside) in ours
    }
    where = ", ".join(str(path) for path in files.values())
    wrong = [
        f"no {name}" if name not in found else f"{name} is {tuple(found[name].shape)}"
        for name, tensor in ours.items()
        if name not in found or found[name].shape != tensor.shape
    ]
    if wrong:
        raise UserError(
            where,
            f"{len(wrong)} of {len(ours)} tensors do not fit, such as: {wrong[0]}",
            allowed=f"the official weights of a {kind} of the size that the params give",
            remedy="correct the sizes under 'tokenizer', or the file",
        )
    tokenizer.load_state_dict(found)


class _Shell:
    """What stands in for a module when its file is read: it holds what the module held."""


_MODULES = (
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.decoder.Decoder",
    "dall_e.decoder.DecoderBlock",
    "dall_e.utils.Conv2d",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
)
"""DALL-E's published files are whole modules. None of these classes is imported or run: each
becomes a shell, and anything else in a file is refused."""


def _tensors(shell: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a module that was read as shells, by name."""
    for kind in ("_parameters", "_buffers"):
        for name, tensor in getattr(shell, kind, {}).items():
            if tensor is not None:
                yield f"{prefix}{name}", tensor.detach()
    for name, child in getattr(shell, "_modules", {}).items():
        yield from _tensors(child, f"{prefix}{name}.")


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
        with safe_globals([(_Shell, name) for name in _MODULES]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a file that is not its own
        raise UserError(
            str(path),
            f"not readable as weights alone: {error}",
            remedy="a file that holds other pickled objects runs code when it is opened: save its "
            "state_dict() where you trust it",
        ) from error
    if isinstance(content, _Shell):
        content = dict(_tensors(content, ""))
    content = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(str(path), "not a state dict", allowed="tensors by name")
    weights: dict[str, Tensor] = content
    return weights
