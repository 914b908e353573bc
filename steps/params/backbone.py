"""Params of a backbone: a timm architecture and its arguments."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge
from pydantic import model_validator

from steps.params.base import Params


class Backbone(Params):
    """``params/backbones/<backbone>.yaml``."""

    scale: str
    """How tables print it, such as ViT-B."""
    architecture: str
    """The timm architecture that ``model_args`` vary: a plain vision transformer. Methods that
    need another kind (``beit``) say in their recipes what they change about it."""
    image_size: Annotated[int, Ge(1)]
    patch_size: Annotated[int, Ge(1)]
    model_args: dict[str, Any] = {}
    """Further arguments of the timm model: embed_dim, depth, num_heads, ..."""

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def depth(self) -> int | None:
        """How many blocks it has, where ``model_args`` say."""
        return self.model_args.get("depth")

    @model_validator(mode="after")
    def _plain(self) -> Backbone:
        if self.architecture.startswith("beit"):
            raise ValueError(
                f"architecture {self.architecture}: name the vision transformer of its size, such "
                "as vit_base_patch16_224; recipes make a BEiT of it (method.backbone)"
            )
        return self

    @model_validator(mode="after")
    def _divides(self) -> Backbone:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        return self
