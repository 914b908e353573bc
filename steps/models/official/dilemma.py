"""Separius/DILEMMA: as MoCo v3, with a position table that has no row for the class token."""

from steps.models.official.mocov3 import RULES
from steps.models.official.naming import Naming

NAMING = Naming((*RULES, (r"^dilemma_head\.", "detector.")), without_class_row=r"\.pos_embed$")
