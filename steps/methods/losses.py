"""Losses that several methods share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def self_distillation(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    center: Tensor,
    student_temp: float,
    teacher_temp: float,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the student's views against the teacher's (DINO, arXiv:2104.14294, eq. 3).

    The mean over all pairs of a teacher's view and another view of the student's.

    Args:
        student: logits (B, K) of each view, the teacher's views first.
        teacher: logits (B, K) of each global view.
        center: (1, K), taken from the teacher's logits.
        student_temp, teacher_temp: temperatures.

    Returns:
        The loss, and the teacher's mean entropy in nats (without gradient), which tells collapse:
        0 is one prototype for every image, log K the same for every prototype.
    """
    log_p = [F.log_softmax(logits.float() / student_temp, dim=-1) for logits in student]
    targets = [
        F.softmax((logits.detach().float() - center) / teacher_temp, dim=-1) for logits in teacher
    ]
    pairs = [
        -(target * log_p_b).sum(dim=-1).mean()
        for a, target in enumerate(targets)
        for b, log_p_b in enumerate(log_p)
        if a != b
    ]
    entropy = torch.stack([-torch.xlogy(target, target).sum(dim=-1).mean() for target in targets])
    return torch.stack(pairs).mean(), entropy.mean()


def pixel_error(prediction_BNP: Tensor, target_BNP: Tensor, removed_BN: Tensor) -> Tensor:
    """Mean squared error over the removed patches of each sample (MAE, arXiv:2111.06377): (B,).

    Args:
        prediction_BNP, target_BNP: P values of each patch.
        removed_BN: True where the encoder did not see the patch.
    """
    error_BN = (prediction_BNP.float() - target_BNP).square().mean(dim=2)
    removed = removed_BN.float()
    return (error_BN * removed).sum(dim=1) / removed.sum(dim=1)
