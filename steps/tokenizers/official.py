"""Read the official weights of a tokenizer, and nothing else from their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from steps.command import UserError
from steps.data.sources.source import data_root
from steps.models.tokenizer import Tokenizer
from steps.official.files import Shell, check_tensors, read_file, tensors_in
from steps.official.names import from_official
from steps.params.load import validate
from steps.params.tokenizers import DalleParams, TokenizerRecipe
from steps.tokenizers.dalle import DVAE


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


def official_dalle(encoder: Path, decoder: Path, image_size: int) -> tuple[DVAE, DalleParams]:
    """The tokenizer of DALL-E from its two files, of the size that their weights have.

    Args:
        encoder, decoder: the files.
        image_size: side in pixels of the images that it will see.

    Raises:
        UserError: a file is not a state dict or a module, or not of this tokenizer.
    """
    shapes = {}
    for part, path in (("encoder", encoder), ("decoder", decoder)):
        for name, tensor in _state_dict(path).items():
            shapes[f"{part}.{name}"] = tensor.shape
    if shapes.get("encoder.blocks.input.w", (0, 3))[1] != 3:
        raise UserError(
            f"{encoder}, {decoder}",
            "the first does not read images",
            allowed="the official encoder and decoder of dalle, in this order",
        )
    try:
        sizes: dict[str, Any] = {
            "vocab_size": shapes["encoder.blocks.output.conv.w"][0],
            "encoder": {"hidden": shapes["encoder.blocks.input.w"][0]},
            "decoder": {
                "input": shapes["decoder.blocks.input.w"][0],
                "hidden": shapes["decoder.blocks.output.conv.w"][1],
            },
        }
    except KeyError as error:
        raise UserError(
            f"{encoder}, {decoder}",
            f"no {error.args[0]}",
            allowed="the official encoder and decoder of dalle, in this order",
        ) from error
    for part in ("encoder", "decoder"):
        inside = {n.split(".")[3] for n in shapes if n.startswith(f"{part}.blocks.group_1.block_")}
        sizes[part]["blocks_per_group"] = len(inside)
    params = validate({"name": "dalle", "image_size": image_size, **sizes}, DalleParams, "dalle")
    tokenizer = DVAE(params)
    read_official(tokenizer, "dalle", {"encoder": encoder, "decoder": decoder})
    return tokenizer.eval(), params


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
        f"no {name}"
        if name not in found
        else f"{name} is {tuple(found[name].shape)} of {found[name].dtype}"
        for name, tensor in ours.items()
        if name not in found
        or found[name].shape != tensor.shape
        or tensor.is_floating_point() > found[name].is_floating_point()
    ]
    if wrong:
        raise UserError(
            where,
            f"{len(wrong)} of {len(ours)} tensors do not fit, such as: {wrong[0]}",
            allowed=f"the official weights of a {kind} of the size that the params give",
            remedy="correct the sizes under 'tokenizer', or the file",
        )
    tokenizer.load_state_dict(found)


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
becomes a shell."""


def _state_dict(path: Path) -> dict[str, Tensor]:
    content = read_file(path, _MODULES)
    if isinstance(content, Shell):
        content = dict(tensors_in(content))
    content = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(str(path), "not a state dict", allowed="tensors by name")
    check_tensors(path, content)
    weights: dict[str, Tensor] = content
    return weights
