"""Recall at k between images and captions, where an image has several and some are said twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sayings:
    """The captions of a set: each distinct sentence once, and which images it is said of."""

    sentences: list[str]
    pairs: Tensor
    """(P, 2) int64: (image, sentence), each pair once."""
    counts: Tensor
    """(S,) int64: how many captions of the set read so."""

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]]) -> Sayings:
        """Collect the captions of each image, in order."""
        places: dict[str, int] = {}
        counts: list[int] = []
        pairs: dict[tuple[int, int], None] = {}
        for image, sentences in enumerate(captions):
            for sentence in sentences:
                place = places.setdefault(sentence, len(places))
                if place == len(counts):
                    counts.append(0)
                counts[place] += 1
                pairs[image, place] = None
        return cls(
            list(places), torch.tensor(list(pairs)).view(-1, 2), torch.tensor(counts).view(-1)
        )


def ranks(queries: Tensor, candidates: Tensor, pairs: Tensor, chunk: int = 256) -> Tensor:
    """How many wrong candidates stand before the best right one, for each query.

    A query with several right candidates counts by the first of them, and the others take no
    place. Equal similarities count against the query: what tells nothing apart finds nothing.

    Args:
        queries: (Q, E).
        candidates: (C, E).
        pairs: (P, 2) int64: (query, candidate) that belong together, at least one a query.
        chunk: queries at a time: chunk x C similarities are in memory.

    Returns:
        (Q,) int64, from 0.
    """
    found = []
    for start in range(0, len(queries), chunk):
        similarity = queries[start : start + chunk] @ candidates.T
        here = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < start + chunk)]
        right = torch.zeros_like(similarity, dtype=torch.bool)
        right[here[:, 0] - start, here[:, 1]] = True
        best = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        found.append(((similarity >= best) & ~right).sum(dim=1))
    return torch.cat(found)


def recalls(
    images: Tensor, sentences: Tensor, sayings: Sayings, ks: Sequence[int]
) -> dict[str, tuple[int, int]]:
    """Right queries and all queries, by metric.

    ``text_R@k``: a sentence that is said of the image is among the k most similar of the distinct
    sentences, for each image. ``image_R@k``: an image of which the caption is said is among the k
    most similar images, for each caption; one that is said of several images asks as often.

    Args:
        images: unit vectors (N, E).
        sentences: unit vectors (S, E) of the distinct sentences.
        sayings: which belong together.
        ks: the cut-offs.
    """
    of_images = ranks(images, sentences, sayings.pairs)
    of_sentences = ranks(sentences, images, sayings.pairs.flip(1))
    asked = int(sayings.counts.sum())
    texts = {f"text_R@{k}": (int((of_images < k).sum()), len(images)) for k in ks}
    pictures = {f"image_R@{k}": (int(sayings.counts[of_sentences < k].sum()), asked) for k in ks}
    return {**texts, **pictures}
