"""The moving average of a network: teacher, target network."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def teacher_of(student: M) -> M:
    """A copy of ``student`` that takes no gradient."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter.

    By name, over those that both have: one that the student lacks stays as it is.
    """
    students = dict(student.named_parameters())
    common = [pair for pair in teacher.named_parameters() if pair[0] in students]
    theirs = [parameter.detach() for _, parameter in common]
    ours = [students[name].detach() for name, _ in common]
    torch._foreach_lerp_(theirs, ours, 1 - momentum)
