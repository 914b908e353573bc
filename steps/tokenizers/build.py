"""From a tokenizer's params to its modules, drawn from torch's global generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from safetensors.torch import load_file

from steps.artifacts import verify
from steps.command import UserError
from steps.models.backbones import CONFIG, WEIGHTS, save_weights
from steps.models.teacher import Renormalise, Teacher, pixels_of
from steps.models.tokenizer import FixedTokenizer, Tokenizer
from steps.params.sets import RGB
from steps.params.tokenizers import DalleParams, TokenizerParams, VQKDParams
from steps.tokenizers.dalle import DVAE, DVAETraining
from steps.tokenizers.training import TokenizerTraining
from steps.tokenizers.vqkd import VQKD, VQTokenizer


def build_tokenizer(params: TokenizerParams, channels: int = 3) -> Tokenizer:
    """The tokenizer by itself, untrained, for images of a number of channels."""
    match params:
        case DalleParams():
            return DVAE(params, channels)
        case VQKDParams():
            return VQTokenizer(params, channels)


def build_training(
    params: TokenizerParams, teacher: Teacher | None, channels: int = 3
) -> TokenizerTraining:
    """The training of a tokenizer for images of a number of channels.

    Raises:
        ValueError: it needs a teacher.
        UserError: it takes the teacher's projection, and there is none.
    """
    match params:
        case DalleParams():
            return DVAETraining(params, channels)
        case VQKDParams():
            if teacher is None:
                raise ValueError("vqkd is trained against a teacher")
            if params.projected and teacher.projection is None:
                raise UserError(
                    "tokenizer.projected",
                    "true, and the teacher has no projection into a space shared with text",
                    allowed="false, or a teacher that was pretrained by clip",
                )
            width = teacher.width(projected=params.projected)
            return VQKD(params, teacher, width, channels)


# --- A tokenizer on disk: ``config.json`` with its params, ``model.safetensors`` with its weights


def save_tokenizer(
    tokenizer: Tokenizer, params: TokenizerParams, folder: Path, channels: int = RGB[0]
) -> None:
    """Write both files into an existing folder."""
    config: dict[str, Any] = {"tokenizer": params.resolved()}
    if channels != RGB[0]:
        config["channels"] = channels
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_weights(tokenizer.state_dict(), folder / WEIGHTS)


def load_tokenizer(
    artifact: Path, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> FixedTokenizer:
    """The tokenizer of an artifact: in eval mode, without gradients, on the CPU.

    Args:
        artifact: a folder that ``steps.tokenizer`` published.
        mean, std: per channel, of pixels in 0 to 1: how the images that it will see are normalised;
            without them they are pixels in 0 to 1.

    Raises:
        UserError: the folder holds no tokenizer artifact, or one for other channels.
    """
    verify(artifact, "tokenizer")
    config = json.loads((artifact / CONFIG).read_bytes())
    params: TokenizerParams = TypeAdapter(TokenizerParams).validate_python(config["tokenizer"])
    channels = config.get("channels", RGB[0])
    pixels = pixels_of(channels)
    if mean is not None and len(mean) != channels:
        raise UserError(
            str(artifact),
            f"a tokenizer for images of {channels} channels, and these have {len(mean)}",
            allowed="a tokenizer that was trained on as many",
        )
    tokenizer = build_tokenizer(params, channels)
    tokenizer.load_state_dict(load_file(artifact / WEIGHTS))
    return FixedTokenizer(tokenizer, Renormalise((mean or pixels[0], std or pixels[1]), pixels))
