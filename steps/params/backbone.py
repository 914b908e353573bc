"""Params of a backbone: a timm architecture and its arguments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import model_validator

from steps.params.base import NotNegative, Params, Positive
from steps.params.names import Label, Name

# --- Params of a BEiT: what it changes about a plain vision transformer


class BEiTBackbone(Params):
    """How the experiment's backbone becomes a BEiT of the same width, depth and heads."""

    layer_scale: NotNegative = 0.1
    """What the residual branches' learnt factors start at; 0: none."""
    relative_positions: Literal["none", "shared", "block", "both"] = "shared"
    """Biases on the attention logits by relative position: one table for all blocks (pretraining),
    one a block (fine-tuning), or the sum of both."""
    absolute_positions: bool = False
    """A learnt position table besides."""
    init_std: Positive = 0.02
    """Deviation of the initial weights, the head's too, which are cut at it. Of few channels D it
    leaves the branches silent: 0.55 / sqrt(D) is to them what the published value is to ViT-B."""


_WEIGHTS = ("pretrained", "checkpoint_path", "cache_dir")
"""Arguments of timm that read weights, by how their names begin."""


class Backbone(Params):
    """``params/backbones/<backbone>.yaml``."""

    scale: Label
    """How tables print it, such as ViT-B."""
    architecture: Name
    """The timm architecture that ``model_args`` vary: a plain vision transformer, or a ResNet.
    Methods that need another kind (``beit``) say in their recipes what they change about it."""
    image_size: Annotated[int, Ge(1)]
    patch_size: Annotated[int, Ge(1)] | None = None
    """Of a vision transformer; a ResNet has none."""
    model_args: dict[str, Any] = {}
    """Further arguments of the timm model: embed_dim, depth, num_heads, ... of a transformer,
    layers, channels, ... of a ResNet."""

    @property
    def patches(self) -> int:
        """How many patches an image has; a ResNet has none."""
        if self.patch_size is None:
            return 0
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
        for key in self.model_args:
            if key.startswith(_WEIGHTS):
                raise ValueError(
                    f"model_args.{key}: an architecture has no weights; an experiment's methods "
                    "take those of others (imported: ...)"
                )
        return self

    @property
    def is_resnet(self) -> bool:
        """Whether it gives one vector an image and no tokens."""
        return self.architecture.startswith("resnet")

    @model_validator(mode="after")
    def _divides(self) -> Backbone:
        if self.is_resnet:
            if self.patch_size is not None:
                raise ValueError(f"patch_size: {self.architecture} has no patches, remove the key")
            return self
        if self.patch_size is None:
            raise ValueError(f"patch_size: {self.architecture} needs it")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        return self
