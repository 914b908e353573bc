"""Logistic regression on frozen features, solved by L-BFGS in float64.

min over w, b of  c * sum_i CE(w x_i + b, y_i) + |w|^2 / 2, here divided by c N: the protocol
``log_regression`` of DINOv2's official code (facebookresearch/dinov2, dinov2/eval).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from steps.evaluation.linear import split_held_out
from steps.models.finite import check_rows
from steps.params.probes import LogReg

_HISTORY = 10


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    c: float,
    params: LogReg,
    start: Tensor | None = None,
) -> Tensor:
    """Weights and biases (D + 1, C) at the minimum, the biases last.

    Args:
        features: (N, D) float64.
        labels: (N,) int64.
        classes: C.
        c: inverse strength of regularisation; biases have none.
        params: of the solver.
        start: where to begin, such as the solution for a neighbouring ``c``.
    """
    count, width = features.shape
    point = features.new_zeros(width + 1, classes) if start is None else start.clone()
    point.requires_grad_(True)
    solver = torch.optim.LBFGS(
        [point],
        max_iter=params.max_iterations,
        tolerance_grad=params.tolerance,
        tolerance_change=params.tolerance,
        history_size=_HISTORY,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        penalty = point[:-1].square().sum() / (2 * c * count)
        value = F.cross_entropy(scores(features, point), labels) + penalty
        value.backward()
        return value

    solver.step(loss)
    return point.detach()


def scores(features: Tensor, point: Tensor) -> Tensor:
    """Logits (N, C) of a solution (D + 1, C)."""
    return torch.addmm(point[-1], features, point[:-1])


def regress(
    train: Tensor, train_labels: Tensor, val: Tensor, params: LogReg, classes: int, seed: int
) -> tuple[Tensor, float]:
    """Choose c on a held-out part of the training set, fit on all of it, and predict.

    Args:
        train: (N, D) features.
        train_labels: (N,).
        val: (M, D).
        params: the protocol.
        classes: how many.
        seed: of the split.

    Returns:
        Scores (M, C) of the validation samples, and the c chosen: the smallest of the best.

    Raises:
        UserError: features are not finite.
    """
    check_rows(train, "features of train")
    check_rows(val, "features of val")
    train, val = train.double(), val.double()
    chosen = params.c[0]
    if len(params.c) > 1:
        kept, held = split_held_out(len(train), params.held_out, seed)
        best, point = -1, None
        for c in sorted(params.c):
            point = fit_logistic(train[kept], train_labels[kept], classes, c, params, point)
            hits = int((scores(train[held], point).argmax(dim=1) == train_labels[held]).sum())
            if hits > best:
                best, chosen = hits, c
    return scores(val, fit_logistic(train, train_labels, classes, chosen, params)), chosen
