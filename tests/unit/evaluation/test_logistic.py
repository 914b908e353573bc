"""Logistic regression: the solution is a minimum, its strength chosen on the training set alone."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from steps.evaluation.linear import fit_logistic, logistic_probe, scores
from steps.params.protocols import LogReg

PARAMS = LogReg(
    kind="logreg",
    poolings=["cls"],
    c=[1e-6, 1.0],
    held_out=0.2,
    max_iterations=1000,
    tolerance=1e-12,
)


def _classes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    features = torch.randn(count, 5, generator=draw) + 2 * F.one_hot(labels, 5)
    return features, labels


def test_the_gradient_of_the_loss_vanishes() -> None:
    features, labels = _classes(60, 0)
    features = features.double()
    point = fit_logistic(features, labels, 3, 0.5, PARAMS)
    point.requires_grad_(True)
    loss = 0.5 * F.cross_entropy(scores(features, point), labels, reduction="sum")
    (loss + point[:-1].square().sum() / 2).backward()
    assert point.grad is not None
    assert point.grad.abs().max() < 1e-5


def test_the_strength_is_chosen_on_the_training_set() -> None:
    train, labels = _classes(150, 0)
    val, val_labels = _classes(300, 1)
    predicted, c = logistic_probe(train, labels, val, PARAMS, classes=3, seed=0)
    assert c == 1.0
    assert (predicted.argmax(dim=1) == val_labels).double().mean() > 0.8
    assert logistic_probe(train, labels, val[:7], PARAMS, classes=3, seed=0)[1] == c
