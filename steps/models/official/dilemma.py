"""Separius/DILEMMA: as MoCo v3, with a position table that has no row for the class token."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from steps.models.official.mocov3 import RULES
from steps.models.official.naming import Naming


def _with_class_row(table_1ND: Tensor) -> Tensor:
    """(1, N, D) to (1, 1 + N, D): the class token's row is zero."""
    return F.pad(table_1ND, (0, 0, 1, 0))


NAMING = Naming(
    (*RULES, (r"^dilemma_head\.", "detector.")), forms=((r"\.pos_embed$", _with_class_row),)
)
