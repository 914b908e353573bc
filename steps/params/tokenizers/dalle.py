"""Params of the discrete VAE of DALL-E."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from steps.params.base import Params
from steps.params.numbers import Count, Momentum, NotNegative, Positive
from steps.params.tokenizers.tokenizer import Tokenizer


class Anneal(Params):
    """A value that a half cosine takes from ``start`` to ``end``, where it stays."""

    start: NotNegative
    end: NotNegative
    epochs: Positive


class DalleTraining(Params):
    """How a discrete VAE is trained (arXiv:2102.12092, appendix A.2)."""

    temperature: Anneal
    """Of the Gumbel-softmax relaxation."""
    kl_weight: Anneal
    """Beta, the weight of KL(q || uniform) summed over tokens, against the negative log likelihood
    summed over pixels and channels."""
    momentum: Momentum = 0.999
    """Of the moving average of the weights, which is what is kept."""


class DalleNetwork(Params):
    """Widths of the encoder or the decoder: four groups of residual blocks."""

    hidden: Count
    """Width of the group next to the image; the others are 2, 4 and 8 times as wide."""
    blocks_per_group: Count

    @model_validator(mode="after")
    def _quarters(self) -> DalleNetwork:
        if self.hidden % 4:
            raise ValueError(f"hidden {self.hidden} is not a multiple of 4")
        return self


class DalleDecoder(DalleNetwork):
    """The decoder's widths."""

    input: Count
    """Width of its first layer, which reads the tokens."""


class DalleParams(Tokenizer):
    """The discrete VAE of DALL-E (arXiv:2102.12092), a token for 8 x 8 pixels."""

    official_files = ("encoder", "decoder")
    name: Literal["dalle"]
    vocab_size: Count
    encoder: DalleNetwork
    decoder: DalleDecoder
    logit_laplace_eps: Positive = 0.1
    """Pixels are mapped from [0, 1] to [eps, 1 - eps]."""
    learning: DalleTraining | None = None

    @property
    def token_pixels(self) -> int:
        """Three of the four groups halve the image."""
        return 8

    def check_trained(self, trained: bool) -> None:
        """Annealing belongs to training."""
        if trained and self.learning is None:
            raise ValueError("tokenizer dalle is trained by the key 'tokenizer.learning': add it")
        if not trained and self.learning is not None:
            raise ValueError("official weights are not trained: remove 'tokenizer.learning'")
