"""Linear classifiers on cached frozen features: trained by SGD, or solved by L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from steps.command import UserError
from steps.core.finite import check_rows, check_weights
from steps.core.seeds import generator
from steps.evaluation.targets import Estimated, Labelled
from steps.params.protocols import Linear, LogReg

# --- A linear classifier on cached frozen features
# Features are batch-normalised without affine (MAE, arXiv:2111.06377, appendix A.2), the
# classifier is trained by SGD with a cosine from ``lr * batch / 256``. All learning rates of a
# grid train side by side as one batched matrix product, so that a grid costs little more than one.


LOWER = "lower lr in the protocol"


def standardised(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Batch normalisation without affine, with the statistics of the whole training set."""
    return (features - mean) / std


Loss = Callable[[Tensor, Tensor], Tensor]
"""Mean loss of outputs (L * B, C) and targets of L * B samples."""


def train_classifiers(
    features: Tensor,
    labels: Tensor,
    lrs: Sequence[float],
    params: Linear,
    classes: int,
    seed: int,
    loss_of: Loss = F.cross_entropy,
) -> tuple[Tensor, Tensor]:
    """Train one classifier a learning rate, on the same batches.

    Args:
        features: (N, D), standardised, on the device to use.
        labels: (N,) int64, or (N, C) float32 for a loss that takes them; on that device.
        lrs: L learning rates for a batch of 256.
        params: the protocol.
        classes: C, the number of outputs.
        seed: of the order.
        loss_of: the loss.

    Returns:
        Weights (L, D, C) and biases (L, 1, C).
    """
    batch = min(params.batch_size, len(features))
    device = features.device
    weights = torch.zeros(len(lrs), features.shape[1], classes, device=device, requires_grad=True)
    biases = torch.zeros(len(lrs), 1, classes, device=device, requires_grad=True)
    peaks = torch.tensor(lrs, device=device).view(-1, 1, 1) * batch / 256
    moments = [torch.zeros_like(weights), torch.zeros_like(biases)]
    per_epoch = len(features) // batch
    total = params.epochs * per_epoch
    for step in range(total):
        epoch, index = divmod(step, per_epoch)
        if index == 0:
            # Drawn on the CPU: the same order on every device.
            order = torch.randperm(len(features), generator=generator(seed, "linear", epoch))
            order = order.to(device)
        chosen = order[index * batch : (index + 1) * batch]
        logits = torch.baddbmm(biases, features[chosen].expand(len(lrs), -1, -1), weights)
        targets = labels[chosen].repeat(len(lrs), *[1] * (labels.ndim - 1))
        # The sum over classifiers leaves each one's gradient its own.
        loss = loss_of(logits.flatten(0, 1), targets) * len(lrs)
        gradients = torch.autograd.grad(loss, (weights, biases))
        rate = peaks * 0.5 * (1 + math.cos(math.pi * step / total))
        with torch.no_grad():
            for values, moment, gradient in zip((weights, biases), moments, gradients, strict=True):
                decay = params.weight_decay if values is weights else 0.0
                moment.mul_(params.momentum).add_(gradient + decay * values)
                values.sub_(rate * moment)
    return weights.detach(), biases.detach()


def split_held_out(count: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (kept, held out) of a random split, at least one each.

    Raises:
        UserError: there are fewer than two.
    """
    if count < 2:
        raise UserError(
            "protocol: held_out",
            f"{count} training image, of which a part is to be held out to choose by",
            allowed="two images or more",
            remedy="give one lr or c, or take a larger set",
        )
    order = torch.randperm(count, generator=generator(seed, "held out"))
    held = min(max(round(count * share), 1), count - 1)
    return order[held:], order[:held]


def cached_probe(
    train: Tensor, train_labels: Tensor, val: Tensor, params: Linear, classes: int, seed: int
) -> tuple[Tensor, float]:
    """Choose a learning rate on a held-out part of the training set, train on all, and predict.

    Args:
        train: (N, D) features, on the device to use, as the others.
        train_labels: (N,).
        val: (M, D).
        params: the protocol.
        classes: C.
        seed: of the split and the order.

    Returns:
        Scores (M, C) of the validation samples, and the learning rate chosen. One with which the
        classifier diverged is not chosen.

    Raises:
        UserError: features are not finite, or every learning rate diverged.
    """
    check_rows(train, "features of train")
    check_rows(val, "features of val")
    std, mean = torch.std_mean(train, dim=0, correction=0)
    std = (std.square() + 1e-6).sqrt()
    train, val = standardised(train, mean, std), standardised(val, mean, std)
    lr = params.lr[0]
    if len(params.lr) > 1:
        kept, held = split_held_out(len(train), params.held_out, seed)
        weights, biases = train_classifiers(
            train[kept], train_labels[kept], params.lr, params, classes, seed
        )
        predictions = torch.baddbmm(biases, train[held].expand(len(weights), -1, -1), weights)
        hits = (predictions.argmax(dim=2) == train_labels[held]).sum(dim=1)
        hits[~predictions.isfinite().flatten(1).all(dim=1)] = -1
        lr = params.lr[int(hits.argmax())]
    weights, biases = train_classifiers(train, train_labels, [lr], params, classes, seed)
    check_weights([("the classifier", weights), ("its bias", biases)], f"lr {lr}", LOWER)
    return val @ weights[0] + biases[0], lr


# --- The same linear layer for several labels per image, or for numbers
# A sigmoid and the binary cross entropy for each label; the squared error for standardised numbers.
# The learning rate with the lowest loss on the held-out part is taken.


def label_probe(
    train: Tensor,
    train_labels: npt.NDArray[np.float32],
    val: Tensor,
    val_labels: npt.NDArray[np.float32],
    params: Linear,
    seed: int,
) -> tuple[Labelled, float]:
    """Train one classifier for each label, and predict.

    Args:
        train: (N, D) features.
        train_labels: (N, C), 1 and 0.
        val: (M, D).
        val_labels: (M, C).
        params: the protocol.
        seed: of the split and the order.

    Returns:
        Decisions on the validation samples, and the learning rate chosen.

    Raises:
        UserError: features are not finite, or every learning rate diverged.
    """
    scores, lr = _fitted(
        train,
        torch.from_numpy(train_labels),
        val,
        params,
        seed,
        F.binary_cross_entropy_with_logits,
    )
    return Labelled(val_labels > 0, scores.numpy(), threshold=0.0), lr


def number_probe(
    train: Tensor,
    train_numbers: npt.NDArray[np.float64],
    val: Tensor,
    val_numbers: npt.NDArray[np.float64],
    params: Linear,
    seed: int,
) -> tuple[Estimated, float]:
    """Train a linear regression of numbers, standardised by mean and deviation of the training set,
    and predict.

    Args:
        train: (N, D) features.
        train_numbers: (N,).
        val: (M, D).
        val_numbers: (M,).
        params: the protocol.
        seed: of the split and the order.

    Returns:
        Numbers predicted for the validation samples, and the learning rate chosen.

    Raises:
        UserError: features are not finite, or every learning rate diverged.
    """
    mean, std = float(train_numbers.mean()), float(train_numbers.std())
    standard = torch.from_numpy((train_numbers - mean) / std).float().unsqueeze(1)
    outputs, lr = _fitted(train, standard, val, params, seed, F.mse_loss)
    return Estimated(val_numbers, outputs[:, 0].double().numpy() * std + mean), lr


def _fitted(
    train: Tensor, targets: Tensor, val: Tensor, params: Linear, seed: int, loss_of: Loss
) -> tuple[Tensor, float]:
    """Outputs (M, C) for the validation samples, and the learning rate chosen.

    Args:
        train: (N, D) features.
        targets: (N, C) float32.
        val: (M, D).
        params: the protocol.
        seed: of the split and the order.
        loss_of: the loss.
    """
    check_rows(train, "features of train")
    check_rows(val, "features of val")
    std, mean = torch.std_mean(train, dim=0, correction=0)
    std = (std.square() + 1e-6).sqrt()
    train, val = standardised(train, mean, std), standardised(val, mean, std)
    outputs, lr = targets.shape[1], params.lr[0]
    fit: dict[str, Any] = {"params": params, "classes": outputs, "seed": seed, "loss_of": loss_of}
    if len(params.lr) > 1:
        kept, held = split_held_out(len(train), params.held_out, seed)
        weights, biases = train_classifiers(train[kept], targets[kept], params.lr, **fit)
        found = torch.baddbmm(biases, train[held].expand(len(weights), -1, -1), weights)
        losses = torch.stack([loss_of(each, targets[held]) for each in found])
        lr = params.lr[int(losses.nan_to_num(nan=torch.inf).argmin())]
    weights, biases = train_classifiers(train, targets, [lr], **fit)
    check_weights([("the classifier", weights), ("its bias", biases)], f"lr {lr}", LOWER)
    return val @ weights[0] + biases[0], lr


# --- Logistic regression on frozen features, solved by L-BFGS in float64
# min over w, b of c * sum_i CE(w x_i + b, y_i) + |w|^2 / 2, here divided by c N: the protocol
# ``log_regression`` of DINOv2's official code (facebookresearch/dinov2, dinov2/eval).


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


def logistic_probe(
    train: Tensor, train_labels: Tensor, val: Tensor, params: LogReg, classes: int, seed: int
) -> tuple[Tensor, float]:
    """Choose c on a held-out part of the training set, fit on all of it, and predict.

    Args:
        train: (N, D) features, on the device to use, as the others.
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
