"""Weighted k-NN classification (Wu et al., arXiv:1805.01978, section 3.4; as used by DINO)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F


def knn_votes(
    train: npt.NDArray[np.float32] | Tensor,
    train_labels: Tensor,
    queries: Tensor,
    *,
    ks: Sequence[int],
    temperature: float,
    num_classes: int,
    chunk: int,
) -> Iterator[dict[int, Tensor]]:
    """Votes of the k nearest training samples, for a chunk of queries at a time.

    Similarity is the dot product of l2-normalised features; a neighbour's vote weighs
    exp(similarity / temperature). Memory is bounded by chunk x training samples.

    Args:
        train: (N, D).
        train_labels: (N,) int64.
        queries: (M, D).
        ks: numbers of neighbours; those above N count as N.
        temperature: of the weights.
        num_classes: C.
        chunk: queries at a time.

    Yields:
        For each chunk, votes (m, C) by k.
    """
    bank = F.normalize(torch.as_tensor(train), dim=1)
    largest = min(max(ks), len(bank))
    for block in queries.split(chunk):
        similarity, index = (F.normalize(block, dim=1) @ bank.T).topk(largest, dim=1)
        weights = (similarity / temperature).exp()
        labels = train_labels[index]
        votes = {}
        for k in ks:
            empty = torch.zeros(len(block), num_classes)
            votes[k] = empty.scatter_add_(1, labels[:, :k], weights[:, :k])
        yield votes
