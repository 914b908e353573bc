"""Params of a BEiT: what it changes about a plain vision transformer."""

from __future__ import annotations

from typing import Literal

from steps.params.base import Params
from steps.params.numbers import NotNegative, Positive


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
