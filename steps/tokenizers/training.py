"""The training of a tokenizer, as the loop sees it: a method."""

from __future__ import annotations

from torch import Tensor

from steps.methods.method import Batch, Method
from steps.models.tokenizer import Tokenizer


class TokenizerTraining(Method):
    """A training whose outcome is a tokenizer. Its batches hold pixels in 0 to 1."""

    def trained(self) -> Tokenizer:
        """The tokenizer as it is kept."""
        raise NotImplementedError

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """Further measures of the tokenizer by name, one value per image (B,)."""
        return {}
