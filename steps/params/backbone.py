"""Params of a backbone: a timm architecture and its arguments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import model_validator

from steps.command import UserError
from steps.params.base import NotNegative, Params, Positive
from steps.params.names import Label, Name

# --- Params of a BEiT: changes to a plain vision transformer


class BEiTBackbone(Params):
    """Changes that make a BEiT of the experiment's backbone, with the same width, depth and
    heads."""

    layer_scale: NotNegative = 0.1
    """Initial value of the learnt factors on residual branches; 0: no such factors."""
    relative_positions: Literal["none", "shared", "block", "both"] = "shared"
    """Attention biases by relative position: one table for all blocks (shared, as in pretraining),
    one per block (block, as in fine-tuning), or the sum of both."""
    absolute_positions: bool = False
    """Also add learnt absolute positions."""
    init_std: Positive = 0.02
    """Standard deviation of the initial weights, the head's included, which are truncated at it.
    The published value is for ViT-B; for few channels D, 0.55 / sqrt(D) is equivalent."""


_WEIGHTS = ("pretrained", "checkpoint_path", "cache_dir")
"""Beginnings of the names of timm's arguments that load weights."""
_EVA = re.compile(r"^eva(?!_large)|^vit_pe_|_(rope|dinov3|lingbot|sapiens2)")
"""Names of the architectures of timm's class Eva."""
_DRAWN = ("rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords")
"""timm's arguments that move rotary positions at random in training."""
_DROPS = re.compile(r"drop.*_rate$")
"""Ends of the names of timm's arguments that drop units, tokens or branches in training."""


class Backbone(Params):
    """``params/backbones/<backbone>.yaml``."""

    scale: Label
    """Name in tables, such as ViT-B."""
    architecture: Name
    """timm architecture that ``model_args`` modify: a plain vision transformer, a ResNet, or one of
    timm's class Eva, such as ``vit_small_patch16_dinov3`` (rotary positions). Recipes of methods
    that need another kind, such as ``beit``, have the changes (``method.backbone``)."""
    image_size: Annotated[int, Ge(1)]
    """Side in pixels that images are resized to."""
    patch_size: Annotated[int, Ge(1)] | None = None
    """Side of a patch in pixels; only for vision transformers."""
    model_args: dict[str, Any] = {}
    """Further arguments of the timm model, such as embed_dim, depth and num_heads of a transformer,
    or layers and channels of a ResNet."""

    @property
    def patches(self) -> int:
        """Number of patches per image; 0 for a ResNet."""
        if self.patch_size is None:
            return 0
        return (self.image_size // self.patch_size) ** 2

    @property
    def depth(self) -> int | None:
        """Number of blocks, if ``model_args`` say."""
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
                    f"model_args.{key} would load weights: remove it; an experiment's methods take "
                    "official weights (imported: ...)"
                )
            if key in _DRAWN and self.model_args[key] is not None:
                raise ValueError(
                    f"model_args.{key} would draw from a generator that no seed here sets: remove "
                    "it"
                )
            if _DROPS.search(key) and self.model_args[key]:
                raise ValueError(
                    f"model_args.{key} {self.model_args[key]} would draw from a generator that no "
                    "seed here sets: remove it; methods such as supervised have drop_path"
                )
        return self

    @property
    def is_resnet(self) -> bool:
        """True if it gives one vector per image instead of tokens."""
        return self.architecture.startswith("resnet")

    @property
    def is_eva(self) -> bool:
        """True for timm's class Eva, whose positions are rotary in almost all architectures."""
        return _EVA.search(self.architecture) is not None

    @model_validator(mode="after")
    def _divides(self) -> Backbone:
        if self.is_resnet:
            if self.patch_size is not None:
                raise ValueError(f"patch_size: {self.architecture} has no patches: remove the key")
            return self
        if self.patch_size is None:
            raise ValueError(f"patch_size: {self.architecture} needs this key")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        return self


def check_in_chans(where: Path, backbone: Backbone, channels: int) -> None:
    """Refuse a backbone whose params name other channels than a set's images have.

    Args:
        where: its file, for the error.
        backbone: the params.
        channels: of the images.

    Raises:
        UserError: ``model_args.in_chans`` is another number.
    """
    if (found := backbone.model_args.get("in_chans", channels)) != channels:
        raise UserError(
            f"{where}: model_args.in_chans",
            f"{found}, and the images have {channels} channels",
            allowed=f"{channels}",
            remedy="remove the key: the number follows from the dataset",
        )
