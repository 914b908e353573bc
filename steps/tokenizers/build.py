"""From a tokenizer's params to its modules, drawn from torch's global generator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter
from safetensors.torch import load_file

from steps.artifacts import verify
from steps.models.backbones import CONFIG, WEIGHTS, save_weights
from steps.models.teacher import PIXELS, Renormalise, Teacher
from steps.models.tokenizer import FixedTokenizer, Tokenizer
from steps.params.tokenizers import DalleParams, TokenizerParams, VQKDParams
from steps.tokenizers.dalle import DVAE, DVAETraining
from steps.tokenizers.training import TokenizerTraining
from steps.tokenizers.vqkd import VQKD, VQTokenizer


def build_tokenizer(params: TokenizerParams) -> Tokenizer:
    """The tokenizer by itself, untrained."""
    match params:
        case DalleParams():
            return DVAE(params)
        case VQKDParams():
            return VQTokenizer(params)


def build_training(params: TokenizerParams, teacher: Teacher | None) -> TokenizerTraining:
    """The training of a tokenizer.

    Raises:
        ValueError: it needs a teacher.
    """
    match params:
        case DalleParams():
            return DVAETraining(params)
        case VQKDParams():
            if teacher is None:
                raise ValueError("vqkd is trained against a teacher")
            return VQKD(params, teacher, teacher.width(projected=params.projected))


# --- A tokenizer on disk: ``config.json`` with its params, ``model.safetensors`` with its weights


def save_tokenizer(tokenizer: Tokenizer, params: TokenizerParams, folder: Path) -> None:
    """Write both files into an existing folder."""
    config = {"tokenizer": params.resolved()}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_weights(tokenizer.state_dict(), folder / WEIGHTS)


def load_tokenizer(
    artifact: Path, *, mean: Sequence[float] = PIXELS[0], std: Sequence[float] = PIXELS[1]
) -> FixedTokenizer:
    """The tokenizer of an artifact: in eval mode, without gradients, on the CPU.

    Args:
        artifact: a folder that ``steps.tokenizer`` published.
        mean, std: per channel, of pixels in 0 to 1: how the images that it will see are normalised;
            without them they are pixels in 0 to 1.

    Raises:
        UserError: the folder holds no tokenizer artifact.
    """
    verify(artifact, "tokenizer")
    config = json.loads((artifact / CONFIG).read_bytes())
    params: TokenizerParams = TypeAdapter(TokenizerParams).validate_python(config["tokenizer"])
    tokenizer = build_tokenizer(params)
    tokenizer.load_state_dict(load_file(artifact / WEIGHTS))
    return FixedTokenizer(tokenizer, Renormalise((mean, std), PIXELS))
