"""Params of the projection head that DINO, iBOT and DINOv2 share."""

from __future__ import annotations

from pydantic import model_validator

from steps.params.base import Params
from steps.params.numbers import Count


class PrototypeHead(Params):
    """Projection onto prototypes."""

    layers: Count = 3
    hidden_dim: Count
    bottleneck_dim: Count
    out_dim: Count
    norm_last_layer: bool = True
    """Keep the prototypes' lengths at 1 (True) or train them."""
    use_bn: bool = False


class PatchPrototypeHead(PrototypeHead):
    """Projection of class tokens and of patches (iBOT)."""

    patch_out_dim: Count
    """Prototypes of patches."""
    shared: bool = True
    """Whether the student has the same prototypes for both."""
    shared_teacher: bool = True
    """Whether the teacher has."""

    @model_validator(mode="after")
    def _consistent(self) -> PatchPrototypeHead:
        if (self.shared or self.shared_teacher) and self.patch_out_dim != self.out_dim:
            raise ValueError(
                f"patch_out_dim {self.patch_out_dim} is not out_dim {self.out_dim}, though "
                "student or teacher has the same prototypes for both"
            )
        if self.use_bn:
            raise ValueError("use_bn: a head of class tokens and patches has no batch norm")
        return self
