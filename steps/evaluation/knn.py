"""Weighted k-NN classification (Wu et al., arXiv:1805.01978, section 3.4; as used by DINO, DINOv2).

Similarity is the dot product of l2-normalised features. Both sides go by chunks, and the best
neighbours so far are merged with those of each new chunk of the bank: the result is the same as
from the whole similarity matrix, which is never in memory. Of equally similar
neighbours the one that comes first in the bank is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from steps.core.finite import check_rows
from steps.core.seeds import generator

Features = npt.NDArray[np.float32] | Tensor
BANK_CHUNK = 16384
_LARGEST = 60.0
"""Largest logarithm of a vote: float32 ends at 88, and thousands of votes are added up."""
_TIED_ROWS = 64
"""Rows with ties that are sorted in full at a time."""


def knn_votes(
    train: Features,
    train_labels: Tensor,
    queries: Features,
    *,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
    chunk: int,
    bank_chunk: int = BANK_CHUNK,
    weights: Literal["exp", "softmax"] = "exp",
    device: torch.device | str = "cpu",
) -> Iterator[dict[int, Tensor]]:
    """Votes of the k nearest training samples, for a chunk of queries at a time.

    Args:
        train: (N, D); may be a memory map.
        train_labels: (N,) int64.
        queries: (M, D); may be a memory map.
        ks: numbers of neighbours; those above N count as N.
        temperature: T of the weights.
        num_classes: C.
        chunk, bank_chunk: queries and training samples at a time.
        weights: of a vote. "exp": exp(similarity / T), as DINO, at most e^60 (below T = 1/60 a
            query's votes are scaled to that); "softmax": the same divided by its sum over the
            largest of ``ks``, as DINOv2, whatever the k. Predictions are the same.
        device: that computes.

    Yields:
        For each chunk, votes (m, C) by k, on the CPU.

    Raises:
        UserError: features that are not finite.
    """
    for start in range(0, len(queries), chunk):
        block = _rows(queries, start, start + chunk, device)
        index, given = _weighed(train, block, max(ks), temperature, bank_chunk, weights)
        labels = train_labels[index.cpu()].to(device)
        votes = {}
        for k in ks:
            empty = torch.zeros(len(block), num_classes, device=device)
            votes[k] = empty.scatter_add_(1, labels[:, :k], given[:, :k]).cpu()
        yield votes


def knn_means(
    train: Features,
    train_values: Tensor,
    queries: Features,
    *,
    ks: Sequence[int],
    temperature: float,
    chunk: int,
    bank_chunk: int = BANK_CHUNK,
    device: torch.device | str = "cpu",
) -> Iterator[dict[int, Tensor]]:
    """Weighted means of the k nearest training samples' values, for a chunk of queries at a time.

    The weights are those of ``knn_votes``, which a mean only needs up to a factor.

    Args:
        train: (N, D); may be a memory map.
        train_values: (N, T) float, such as 1 and 0 per label.
        queries: (M, D); may be a memory map.
        ks: numbers of neighbours; those above N count as N.
        temperature: T of the weights.
        chunk, bank_chunk: queries and training samples at a time.
        device: that computes.

    Yields:
        For each chunk, means (m, T) float64 by k, on the CPU.

    Raises:
        UserError: features that are not finite.
    """
    for start in range(0, len(queries), chunk):
        block = _rows(queries, start, start + chunk, device)
        index, given = _weighed(train, block, max(ks), temperature, bank_chunk, "exp")
        given, values = given.cpu().double(), train_values.double()[index.cpu()]
        yield {
            k: torch.einsum("mk,mkt->mt", given[:, :k], values[:, :k])
            / given[:, :k].sum(dim=1, keepdim=True)
            for k in ks
        }


def _weighed(
    train: Features,
    block: Tensor,
    k: int,
    temperature: float,
    bank_chunk: int,
    weights: Literal["exp", "softmax"],
) -> tuple[Tensor, Tensor]:
    """Indices of the k nearest training samples of each query, and their weights (m, k)."""
    similarity, index = nearest(train, block, k, bank_chunk)
    logits = similarity / temperature
    # Votes are only compared within a row, so that a row may be scaled before it overflows.
    logits = logits - (logits[:, :1] - _LARGEST).clamp(min=0)
    return index, logits.exp() if weights == "exp" else logits.softmax(dim=1)


def nearest(train: Features, queries: Tensor, k: int, bank_chunk: int) -> tuple[Tensor, Tensor]:
    """The k most similar training samples of each query, most similar first.

    Args:
        train: (N, D), normalised here.
        queries: (m, D), normalised, on the device that computes.
        k: above N counts as N.
        bank_chunk: training samples at a time.

    Returns:
        Similarities (m, k) and indices (m, k) int64.
    """
    best = torch.empty(len(queries), 0, device=queries.device)
    index = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(train), bank_chunk):
        bank = _rows(train, start, start + bank_chunk, queries.device)
        values, indices = largest(queries @ bank.T, k)
        # Those so far come first: a stable sort keeps them ahead of newcomers that are as similar.
        best, order = torch.cat([best, values], dim=1).sort(dim=1, descending=True, stable=True)
        index = torch.cat([index, indices + start], dim=1).gather(1, order)
        best, index = best[:, :k], index[:, :k]
    return best, index


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first; of equals, those that stand first in the row.

    ``torch.topk`` leaves open which of several equals it takes.

    Args:
        scores: (m, n).
        k: above n counts as n.

    Returns:
        Values and indices (m, k).
    """
    if k >= scores.shape[1]:
        values, indices = scores.sort(dim=1, descending=True, stable=True)
        return values, indices
    values, indices = scores.topk(k + 1, dim=1)
    open_rows = (values[:, k - 1] == values[:, k]).nonzero().flatten()
    values, indices = values[:, :k], indices[:, :k]
    for rows in open_rows.split(_TIED_ROWS):
        ordered = scores[rows].sort(dim=1, descending=True, stable=True)
        values[rows], indices[rows] = ordered.values[:, :k], ordered.indices[:, :k]
    indices, order = indices.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, indices.gather(1, order)


def few_shot_ks(ks: Sequence[int], samples_per_class: int) -> list[int]:
    """The numbers of neighbours of a few-shot try, as DINOv2: none above the samples of a class,
    and that number itself.
    """
    return sorted({k for k in ks if k <= samples_per_class} | {samples_per_class})


def few_shot_rows(labels: Tensor, samples_per_class: int, seed: int, attempt: int) -> Tensor:
    """Rows of a few-shot training set, class by class: all of a class that has no more.

    Args:
        labels: (N,) int64.
        samples_per_class: drawn of each class, without replacement.
        seed, attempt: of the draw.
    """
    draw = generator(seed, "few-shot", samples_per_class, attempt)
    rows = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        rows.append(members[torch.randperm(len(members), generator=draw)[:samples_per_class]])
    return torch.cat(rows)


def _rows(features: Features, start: int, stop: int, device: torch.device | str) -> Tensor:
    """Some rows, normalised, in memory and on the device."""
    rows = features[start:stop]
    if not isinstance(rows, Tensor):
        rows = torch.from_numpy(np.ascontiguousarray(rows))
    rows = rows.to(device)
    check_rows(rows, "features", start)
    return F.normalize(rows, dim=1)
