"""What the params of all tokenizers have in common."""

from __future__ import annotations

from typing import ClassVar

from steps.params.base import Params
from steps.params.methods.method import Need
from steps.params.numbers import Count


class Tokenizer(Params):
    """Params of a tokenizer, which turns an image into a grid of visual tokens."""

    takes_teacher: ClassVar[Need] = "none"
    official_files: ClassVar[tuple[str, ...]]
    """The files of official weights, by the part of the network that each holds."""
    name: str
    image_size: Count
    """The side in pixels of the images that it is trained on."""

    @property
    def token_pixels(self) -> int:
        """The side in pixels of what a token stands for."""
        raise NotImplementedError

    def check_batch(self, batch: int) -> None:
        """Raise ValueError if a batch of so many images is too small to start from."""

    def check_trained(self, trained: bool) -> None:
        """Raise ValueError if the params do not fit a tokenizer that is, or is not, trained."""
