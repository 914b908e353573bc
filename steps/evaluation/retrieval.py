"""Recall at k between images and captions, where an image has several and some are said twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CaptionIndex:
    """The captions of a set: each distinct sentence once, and which images it is said of."""

    sentences: list[str]
    pairs: Tensor
    """(P, 2) int64: (image, sentence), each pair once."""
    captions: Tensor
    """(Q, 2) int64: (image, sentence) of every caption of the set, in order."""

    @classmethod
    def from_captions(cls, captions: Sequence[Sequence[str]]) -> CaptionIndex:
        """Collect the captions of each image, in order."""
        indices: dict[str, int] = {}
        said = [
            (image, indices.setdefault(sentence, len(indices)))
            for image, sentences in enumerate(captions)
            for sentence in sentences
        ]
        pairs = torch.tensor(list(dict.fromkeys(said)), dtype=torch.int64)
        every = torch.tensor(said, dtype=torch.int64)
        return cls(list(indices), pairs.view(-1, 2), every.view(-1, 2))


def ranks(queries: Tensor, candidates: Tensor, pairs: Tensor, chunk: int = 256) -> Tensor:
    """Number of wrong candidates ranked before the best right one, for each query.

    A query with several right candidates counts by the first of them, and the others take no
    place. Ties count as misses, so constant features score 0.

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


def answers(
    images: Tensor, sentences: Tensor, sayings: CaptionIndex, ks: Sequence[int]
) -> dict[str, Tensor]:
    """True where a query finds what it belongs with, by metric.

    ``text_R@k`` (N,): a sentence that is said of the image is among the k most similar of the
    distinct sentences, for each image. ``image_R@k`` (Q,): an image of which the caption is said is
    among the k most similar images, for each caption; one that is said of several images asks as
    often.

    Args:
        images: unit vectors (N, E).
        sentences: unit vectors (S, E) of the distinct sentences.
        sayings: which belong together.
        ks: the cut-offs.
    """
    of_images = ranks(images, sentences, sayings.pairs)
    of_captions = ranks(sentences, images, sayings.pairs.flip(1))[sayings.captions[:, 1]]
    texts = {f"text_R@{k}": of_images < k for k in ks}
    return {**texts, **{f"image_R@{k}": of_captions < k for k in ks}}


def by_caption(found: Mapping[str, Tensor], sayings: CaptionIndex) -> dict[str, list[float | None]]:
    """Answers in percent with a row per caption; those for an image stand at its first caption."""
    owners = sayings.captions[:, 0].tolist()
    first = [index == 0 or owners[index - 1] != image for index, image in enumerate(owners)]
    columns: dict[str, list[float | None]] = {}
    for metric, right in found.items():
        values = [100.0 * each for each in right.tolist()]
        if metric.startswith("image"):
            columns[metric] = [*values]
        else:
            columns[metric] = [
                values[image] if here else None for image, here in zip(owners, first, strict=True)
            ]
    return columns
