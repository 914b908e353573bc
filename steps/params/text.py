"""Params of text: vocabulary, transformer, and prompts for datasets with class names."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Len
from pydantic import Field, model_validator

from steps.params.base import Count, Params
from steps.params.names import Below

Prompt = Annotated[str, Field(pattern=r"\{class\}")]
"""A sentence with ``{class}`` where the name of a class belongs."""
Prompts = Annotated[list[Prompt], Len(1)]


class Vocabulary(Params):
    """Byte-pair encoding: learnt from the training captions, or read from a file."""

    size: Annotated[int, Ge(258)] | None = None
    """Largest number of tokens to learn: 256 bytes, start and end, and merges."""
    file: Below | None = None
    """``tokenizer.json`` of the library tokenizers, below the data root."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Vocabulary:
        if (self.size is None) == (self.file is None):
            raise ValueError("give size, to learn a vocabulary, or file, to read one")
        return self


class TextTransformer(Params):
    """The text tower of an image-text method."""

    context_length: Annotated[int, Ge(3)] = 77
    """Tokens per caption, with start and end; longer captions are cut."""
    width: Count
    depth: Count
    num_heads: Count
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    """quick_gelu: x * sigmoid(1.702 x), as in CLIP's published weights."""
    causal: bool = True
    """true: a token attends only to itself and earlier ones (CLIP). false: to all (SigLIP)."""

    @model_validator(mode="after")
    def _divides(self) -> TextTransformer:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads")
        return self
