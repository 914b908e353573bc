"""Scores of k-NN by a protocol: of every k, and of few-shot training sets of classes."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from steps.evaluation.accuracy import Classified
from steps.evaluation.features import FrozenFeatures
from steps.evaluation.knn import few_shot_ks, few_shot_rows, knn_means, knn_votes
from steps.evaluation.targets import Estimated, Labelled
from steps.params.protocols import KNN


def measure(
    protocol: KNN,
    train: FrozenFeatures,
    val: FrozenFeatures,
    pooling: str,
    classes: int,
    seed: int,
    device: str,
) -> tuple[dict[str, float], Classified]:
    """Accuracies in percent by metric: of the headline, of each k, then of each few-shot size.

    Returns:
        The accuracies, and the headline's decisions.
    """
    of_k = classify(protocol, train, val, pooling, classes, protocol.k, device)
    headline = of_k[protocol.headline_k]
    values = {**headline.accuracies(classes), "balanced": headline.balanced}
    for k in protocol.k:
        values |= _named(protocol, of_k[k], classes, f"_k{k}")
    labels = torch.from_numpy(train.labels)
    for samples in protocol.samples_per_class:
        sums: dict[str, float] = defaultdict(float)
        ks = few_shot_ks(protocol.k, samples)
        for attempt in range(protocol.tries):
            rows = few_shot_rows(labels, samples, seed, attempt)
            few_shot = classify(protocol, train, val, pooling, classes, ks, device, rows)
            for k, found in few_shot.items():
                of_try = _named(protocol, found, classes, f"_{samples}shot_k{k}")
                for name, value in of_try.items():
                    sums[name] += value / protocol.tries
        values |= sums
    return values, headline


def _named(protocol: KNN, classified: Classified, classes: int, suffix: str) -> dict[str, float]:
    """Accuracies of a k that is not the headline."""
    values = classified.accuracies(classes)
    if protocol.per_class:
        values["balanced"] = classified.balanced
    return {f"{metric}{suffix}": value for metric, value in values.items()}


def classify(
    protocol: KNN,
    train: FrozenFeatures,
    val: FrozenFeatures,
    pooling: str,
    classes: int,
    ks: list[int],
    device: str,
    rows: Tensor | None = None,
) -> dict[int, Classified]:
    """Decisions on the validation set by k; ``rows`` of the training set vote, or all of it."""
    bank, bank_labels = train.arrays[pooling], torch.from_numpy(train.labels)
    if rows is not None:
        bank, bank_labels = bank[rows.numpy()], bank_labels[rows]
    parts: dict[int, list[Classified]] = defaultdict(list)
    labels = iter(torch.from_numpy(val.labels).split(protocol.chunk))
    for votes in knn_votes(
        bank,
        bank_labels,
        val.arrays[pooling],
        ks=ks,
        temperature=protocol.temperature,
        num_classes=classes,
        chunk=protocol.chunk,
        bank_chunk=protocol.bank_chunk,
        weights=protocol.votes,
        device=device,
    ):
        here = next(labels)
        for k, scores in votes.items():
            parts[k].append(Classified.from_scores(scores, here))
    return {k: Classified.together(chunks) for k, chunks in parts.items()}


def measure_targets(
    protocol: KNN,
    train: FrozenFeatures,
    val: FrozenFeatures,
    pooling: str,
    device: str,
) -> tuple[dict[str, float], Labelled | Estimated]:
    """Scores on several labels or a number per image, by metric: of the headline, then of each k.

    A label's score, or the number, is the weighted mean over the neighbours.

    Returns:
        The scores, and the headline's decisions.
    """
    several = train.labels.ndim == 2
    known = torch.from_numpy(train.labels)
    means: dict[int, list[Tensor]] = defaultdict(list)
    for found in knn_means(
        train.arrays[pooling],
        known if several else known.unsqueeze(1),
        val.arrays[pooling],
        ks=protocol.k,
        temperature=protocol.temperature,
        chunk=protocol.chunk,
        bank_chunk=protocol.bank_chunk,
        device=device,
    ):
        for k, part in found.items():
            means[k].append(part)
    of_k: dict[int, Labelled | Estimated] = {}
    for k, parts in means.items():
        predicted = torch.cat(parts).numpy()
        if several:
            of_k[k] = Labelled(val.labels > 0, predicted.astype(np.float32), threshold=0.5)
        else:
            of_k[k] = Estimated(val.labels, predicted[:, 0])
    values = of_k[protocol.headline_k].metrics()
    for k in protocol.k:
        values |= {f"{metric}_k{k}": value for metric, value in of_k[k].metrics().items()}
    return values, of_k[protocol.headline_k]
