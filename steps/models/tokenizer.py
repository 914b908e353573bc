"""Interface of tokenizers to the methods that predict their tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steps.models.teacher import FixedNetwork, Renormalise


class Tokenizer(nn.Module):
    """From images to visual tokens, and back where it can. Images are pixels in 0 to 1."""

    vocab_size: int
    """V, how many tokens there are."""
    token_pixels: int
    """The side in pixels of what a token stands for."""
    decodes = False
    """True if tokens turn back into pixels."""

    def tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in 0 to 1 to token ids (B, N) int64, raster order."""
        raise NotImplementedError

    def decode(self, tokens_BN: Tensor, rows: int | None = None) -> Tensor:
        """Token ids (B, N) int64 to pixels (B, 3, H, W) in 0 to 1.

        Args:
            tokens_BN: in raster order.
            rows: of tokens; None for square images.

        Raises:
            NotImplementedError: the tokens stand for features, not for pixels.
        """
        raise NotImplementedError(f"{type(self).__name__} does not give pixels back")


class FixedTokenizer(FixedNetwork[Tokenizer]):
    """A tokenizer as methods use it: in eval mode, without gradients, on images as batches have."""

    def __init__(self, tokenizer: Tokenizer, renormalise: Renormalise) -> None:
        super().__init__(tokenizer)
        self.renormalise = renormalise
        self.vocab_size = tokenizer.vocab_size
        self.token_pixels = tokenizer.token_pixels

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), normalised as in a batch, to token ids (B, N) int64, raster order."""
        return self.network.tokens(self.renormalise(images))

    @torch.no_grad()
    def decode(self, tokens_BN: Tensor, rows: int | None = None) -> Tensor:
        """Token ids (B, N) to pixels (B, 3, H, W) in 0 to 1; ``rows`` where they are no square."""
        return self.network.decode(tokens_BN, rows)
