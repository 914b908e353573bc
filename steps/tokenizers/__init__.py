"""Tokenizers: one file a kind, each with its training."""

from steps.models.tokenizer import FixedTokenizer, Tokenizer
from steps.tokenizers.build import build_tokenizer, build_training, load_tokenizer, save_tokenizer
from steps.tokenizers.training import TokenizerTraining

__all__ = [
    "FixedTokenizer",
    "Tokenizer",
    "TokenizerTraining",
    "build_tokenizer",
    "build_training",
    "load_tokenizer",
    "save_tokenizer",
]
