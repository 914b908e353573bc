"""Params of DropPos."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt
from pydantic import model_validator

from steps.params.base import MaskRatio, NotNegative, Params, Positive, Probability
from steps.params.masks import Incompatibility, drops_none, hides_none
from steps.params.methods.method import Decoder, Method


class PixelTask(Params):
    """The second task of the multi-task variant: MAE's pixels, from a decoder of their own."""

    pos_weight: Positive
    """Weight of the position loss; the pixel loss has weight 1."""
    norm_pix_loss: bool = True


class DropPosParams(Method):
    """Reconstructing dropped positions (arXiv:2309.03576)."""

    kind = "Generative"
    family = "position"
    takes_tokens = "sine-cosine"
    view_sizes = "backbone"
    drawn = True
    name: Literal["droppos"]
    mask_ratio: MaskRatio
    """Share of the patches that the encoder does not see."""
    pos_mask_ratio: Annotated[Probability, Gt(0)]
    """Share of the visible patches whose position is dropped."""
    dropped_position: Literal["learnt", "zeros"] = "learnt"
    """Replacement of a dropped position: a learnt vector or zeros."""
    decoder: Decoder
    label_smoothing_sigma: NotNegative = 1.0
    """Width in patches of the smoothed position labels; 0: one-hot labels."""
    sigma_decay: bool = True
    """Let sigma fall linearly to 0, epoch by epoch."""
    attn_guide: bool = True
    """Weigh each patch by its similarity to the class token (attentive reconstruction)."""
    attn_temperature: Positive = 0.1
    conf_ignore: bool = False
    """Leave out patches whose true position is predicted as surely as its label says."""
    pixel_task: PixelTask | None = None

    def incompatibility(self, patches: int, depth: int | None) -> Incompatibility | None:
        """A ratio that hides nothing, or everything; or no position that is dropped."""
        if found := drops_none("mask_ratio", self.mask_ratio, patches, "patches"):
            return found
        visible = int(patches * (1 - self.mask_ratio))
        if int(visible * (1 - self.pos_mask_ratio)) == visible:
            return hides_none("pos_mask_ratio", self.pos_mask_ratio, visible)
        return None

    @model_validator(mode="after")
    def _consistent(self) -> DropPosParams:
        if self.pixel_task is not None and self.mask_ratio == 0:
            raise ValueError("pixel_task has no pixels to predict at mask_ratio 0")
        return self
