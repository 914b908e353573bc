"""From a tokenizer's params to its modules, drawn from torch's global generator."""

from __future__ import annotations

from steps.models.teacher import Teacher
from steps.params.tokenizers import DalleParams, TokenizerParams, VQKDParams
from steps.tokenizers.dalle import DVAE, DVAETraining
from steps.tokenizers.tokenizer import Tokenizer
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
