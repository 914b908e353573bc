"""Recall against a count by hand, with captions that several images share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from steps.evaluation.retrieval import CaptionIndex, answers, by_caption, ranks

CAPTIONS = [["a star", "red"], ["a ring"], ["red", "blue", "red"], ["a heart"]]


def test_sayings_keep_each_sentence_once() -> None:
    sayings = CaptionIndex.from_captions(CAPTIONS)
    assert sayings.sentences == ["a star", "red", "a ring", "blue", "a heart"]
    assert sayings.captions.tolist() == [[0, 0], [0, 1], [1, 2], [2, 1], [2, 3], [2, 1], [3, 4]]
    assert sayings.pairs.tolist() == [[0, 0], [0, 1], [1, 2], [2, 1], [2, 3], [3, 4]]


def _random(count: int) -> Tensor:
    return F.normalize(torch.randn(count, 4), dim=1)


def recalls(
    images: Tensor, sentences: Tensor, sayings: CaptionIndex, ks: list[int]
) -> dict[str, Any]:
    """Right queries and all queries, by metric."""
    found = answers(images, sentences, sayings, ks)
    return {metric: (int(right.sum()), len(right)) for metric, right in found.items()}


def _expected(images: Tensor, k: int) -> tuple[float, float]:
    """By sorting lists, query by query."""
    sayings = CaptionIndex.from_captions(CAPTIONS)
    sentences = dict(zip(sayings.sentences, _SENTENCES, strict=True))
    texts = 0
    for image, captions in zip(images, CAPTIONS, strict=True):
        order = sorted(sentences, key=lambda s: -float(image @ sentences[s]))
        # Of the captions that are said of the image the best one alone takes a place.
        best = next(s for s in order if s in captions)
        order = [s for s in order if s == best or s not in captions]
        texts += order.index(best) < k
    pictures = 0
    for captions in CAPTIONS:
        for caption in captions:
            order = sorted(range(4), key=lambda i: -float(images[i] @ sentences[caption]))
            said_of = [i for i in range(4) if caption in CAPTIONS[i]]
            best_image = next(i for i in order if i in said_of)
            order = [i for i in order if i == best_image or i not in said_of]
            pictures += order.index(best_image) < k
    return texts, pictures


torch.manual_seed(5)
_SENTENCES = _random(5)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_recalls_are_those_counted_by_hand(k: int) -> None:
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        images = _random(4)
        found = recalls(images, _SENTENCES, CaptionIndex.from_captions(CAPTIONS), [k])
        texts, pictures = _expected(images, k)
        assert found == {f"text_R@{k}": (texts, 4), f"image_R@{k}": (pictures, 7)}
        seen.add((texts, pictures))
    assert len(seen) > 3, "the cases tell nothing apart"


def test_ranks_do_not_depend_on_chunks() -> None:
    torch.manual_seed(0)
    queries, candidates = _random(11), _random(9)
    pairs = torch.tensor([[q, (q * 2) % 9] for q in range(11)] + [[3, 8], [10, 0]])
    whole = ranks(queries, candidates, pairs)
    assert torch.equal(ranks(queries, candidates, pairs, chunk=3), whole)
    assert whole.max() > 0


def test_what_tells_nothing_apart_finds_nothing() -> None:
    same = torch.ones(4, 4) / 2
    found = recalls(same, torch.ones(5, 4) / 2, CaptionIndex.from_captions(CAPTIONS), [1])
    assert found == {"text_R@1": (0, 4), "image_R@1": (0, 7)}


def test_perfect_towers_find_everything() -> None:
    images = torch.eye(3)
    sayings = CaptionIndex.from_captions([["a"], ["b"], ["c"]])
    assert recalls(images, images, sayings, [1]) == {"text_R@1": (3, 3), "image_R@1": (3, 3)}


def test_answers_by_caption_have_the_metrics_as_their_means() -> None:
    torch.manual_seed(3)
    images, sayings = _random(4), CaptionIndex.from_captions(CAPTIONS)
    found = answers(images, _SENTENCES, sayings, [2])
    columns = by_caption(found, sayings)
    assert len(sayings.captions) == 7
    assert [value is None for value in columns["text_R@2"]] == [
        *(False, True),
        False,
        *(False, True, True),
        False,
    ]
    for metric, right in found.items():
        values = [value for value in columns[metric] if value is not None]
        assert sum(values) / len(values) == pytest.approx(100 * float(right.float().mean()))
    assert 0 < sum(values) < 100 * len(values)
