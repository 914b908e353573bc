"""Params of DINO."""

from __future__ import annotations

from typing import Literal

from steps.params.methods.method import PrototypeHead, SelfDistillation


class DINOParams(SelfDistillation):
    """Self-distillation with no labels (arXiv:2104.14294).

    A recipe with a ``teacher`` that dino or ibot trained distils from it, head and all.
    """

    kind = "Contrastive"
    family = "contrastive"
    takes_teacher = "optional"
    name: Literal["dino"]
    head: PrototypeHead
    """In distillation ``out_dim`` equals the teacher's."""
