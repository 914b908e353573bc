"""Losses that several methods share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from steps.core.distributed import gather, rank


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
    # Cross entropy is linear in its target: all pairs of a student's view are one, with the sum.
    total = torch.stack(targets).sum(dim=0)
    others = [total - target for target in targets] + [total] * (len(log_p) - len(targets))
    across = [-(target * log_p_b).sum() for target, log_p_b in zip(others, log_p, strict=True)]
    pairs = len(targets) * (len(log_p) - 1) * len(total)
    entropy = torch.stack([-torch.xlogy(target, target).sum(dim=-1).mean() for target in targets])
    return torch.stack(across).sum() / pairs, entropy.mean()


def pixel_error(prediction_BNP: Tensor, target_BNP: Tensor, removed_BN: Tensor) -> Tensor:
    """Mean squared error over the removed patches of each sample (MAE, arXiv:2111.06377): (B,).

    Args:
        prediction_BNP, target_BNP: P values of each patch.
        removed_BN: True where the encoder did not see the patch.
    """
    error_BN = (prediction_BNP.float() - target_BNP).square().mean(dim=2)
    # A product, not an index: shapes that depend on masks would make the device wait.
    removed = removed_BN.float()
    return (error_BN * removed).sum(dim=1) / removed.sum(dim=1)


def cross_entropy(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """-sum_k t_k log softmax(s / temperature)_k for each row.

    Args:
        logits: (..., K).
        targets: probabilities (..., K).

    Returns:
        (...).
    """
    return -(targets * F.log_softmax(logits.float() / temperature, dim=-1)).sum(dim=-1)


def all_pairs(student: Sequence[Tensor], targets: Sequence[Tensor], temperature: float) -> Tensor:
    """The sum over all pairs of a student's view and a teacher's of their mean cross entropy.

    Args:
        student: logits (B, K) of each view.
        targets: probabilities (B, K) of each view.
    """
    # Cross entropy is linear in its target: all pairs of a student's view are one, with the sum.
    total = torch.stack(list(targets)).sum(dim=0)
    return torch.stack(
        [cross_entropy(logits, total, temperature).mean() for logits in student]
    ).sum()


def patch_weights(mask_RN: Tensor) -> Tensor:
    """1 / (masked patches of its row) for each masked patch, row by row: (M,)."""
    # Rows without a mask have no patch to weigh; clamp only avoids dividing by 0.
    counts = mask_RN.sum(dim=1, keepdim=True).clamp(min=1)
    return counts.reciprocal().expand_as(mask_RN)[mask_RN]


def masked_patches(
    logits_MK: Tensor, targets_MK: Tensor, weights_M: Tensor, rows: int, temperature: float
) -> Tensor:
    """The weighted sum of the cross entropies of masked patches, divided by ``rows``.

    With ``patch_weights`` it is the mean over rows of a row's mean over its masked patches
    (iBOT, arXiv:2111.07832, equation 3); a row without any counts as one whose loss is 0.

    Args:
        logits_MK: of the M masked patches of all rows.
        targets_MK: the teacher's probabilities of the same patches.
        weights_M: of the patches.
        rows: masked or not.
    """
    return (cross_entropy(logits_MK, targets_MK, temperature) * weights_M).sum() / rows


def token_prediction(
    logits_MV: Tensor, labels_M: Tensor, hidden_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross entropy over the visual tokens of hidden patches (BEiT, arXiv:2106.08254, eq. 2).

    Each hidden patch of the global batch weighs the same, whichever part of it this one is.

    Args:
        logits_MV: of the M hidden patches of the samples here, over V tokens.
        labels_M: their tokens.
        hidden_B: for each sample here, how many patches the samples of the global batch hide, in
            the mean.

    Returns:
        The loss, and the share of tokens that are predicted right (without gradient).
    """
    # A batch may hide no patch at all: then there is nothing to learn from.
    count = hidden_B.sum().clamp(min=torch.finfo(hidden_B.dtype).tiny)
    # Divided by the global batch's mean, so that micro-batches add up to its loss.
    loss = F.cross_entropy(logits_MV.float(), labels_M, reduction="sum") / count
    right = (logits_MV.detach().argmax(dim=-1) == labels_M).sum() / count
    return loss, right


def momentum_contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE of queries against the keys of all processes (MoCo v3, arXiv:2104.02057, eq. 1).

    -2 tau * mean over i of log softmax(q_i k^T / tau)_i, rows l2-normalised; the factor is that
    of the paper's algorithm 1. A query's positive is the key of its own image, its negatives are
    those of all other images of the global batch.

    Args:
        queries: (B, D), this process's.
        keys: (B, D), of the same images.
        temperature: tau.
    """
    all_keys = gather(F.normalize(keys.float(), dim=1))
    with torch.autocast(queries.device.type, enabled=False):
        logits = F.normalize(queries.float(), dim=1) @ all_keys.T / temperature
    own = torch.arange(len(queries), device=queries.device) + rank() * len(queries)
    return 2 * temperature * F.cross_entropy(logits, own)


def binary_entropy(probability: float) -> float:
    """-p log p - (1 - p) log(1 - p) in nats, of a probability p between 0 and 1."""
    shares = (probability, 1 - probability)
    return -sum(share * math.log(share) for share in shares if share > 0)


# --- The KoLeo regulariser: features spread evenly over the sphere


_EPS = 1e-8


def koleo(features_BD: Tensor) -> Tensor:
    """-mean_i log(|x_i - x_nn(i)| + eps) over l2-normalised features (arXiv:1806.03198, eq. 2).

    nn(i) is the nearest other feature of the global batch; its choice takes no gradient, but its
    vector does. DINOv2's reference looks within a process's own features; over all processes the
    loss does not depend on how many there are.

    Args:
        features_BD: this process's, (B, D), two or more over all processes.

    Returns:
        A scalar, the mean over this process's features.
    """
    own = F.normalize(features_BD.float(), dim=-1, eps=_EPS)
    everyone = gather(own)
    # In bfloat16 the nearest of close features is another one more often than not.
    with torch.no_grad(), torch.autocast(own.device.type, enabled=False):
        similarity = own @ everyone.T
        rows = torch.arange(len(own), device=own.device)
        similarity[rows, rows + rank() * len(own)] = -1
        nearest = similarity.argmax(dim=1)
    # The small number is added to the difference, not to its length, as the reference does.
    distance = F.pairwise_distance(own, everyone.index_select(0, nearest), eps=_EPS)
    return -(distance + _EPS).log().mean()
