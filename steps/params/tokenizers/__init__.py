"""Params of tokenizers: one file a kind, all of them in the union that a tokenizer's file takes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from steps.params.tokenizers.dalle import DalleParams
from steps.params.tokenizers.vqkd import VQKDParams

TokenizerParams = Annotated[DalleParams | VQKDParams, Field(discriminator="name")]

__all__ = ["DalleParams", "TokenizerParams", "VQKDParams"]
