"""The codebook's clusters and moves, on vectors whose answer is plain."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from steps.tokenizers.codebook import Codebook, kmeans, perplexity


def _around(directions: list[list[float]], each: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor(directions).repeat_interleave(each, dim=0)
    noise = torch.randn(len(centres), 3, generator=generator)
    return F.normalize(centres + 0.05 * noise, dim=-1)


def test_kmeans_finds_separate_bundles() -> None:
    features = _around([[1, 0, 0], [0, 1, 0], [0, 0, 1]], each=20)
    centres, sizes = kmeans(features, torch.tensor([0, 20, 40, *range(1, 20)]), clusters=3)
    assert sizes.tolist() == [20, 20, 20]
    means = F.normalize(features.view(3, 20, 3).mean(dim=1), dim=-1)
    torch.testing.assert_close(centres, means)


def test_a_cluster_without_features_keeps_its_centre() -> None:
    features = _around([[1, 0, 0]], each=4)
    # Equal centres: the first takes every feature, the others none.
    same = features[:1].repeat(4, 1)
    centres, sizes = kmeans(same, torch.arange(4), clusters=3)
    assert sizes.tolist() == [4, 0, 0]
    torch.testing.assert_close(centres[1:], same[1:3])


def test_fewer_features_than_clusters_start_again_from_the_first() -> None:
    features = _around([[1, 0, 0], [0, 1, 0]], each=1)
    centres, sizes = kmeans(features, torch.tensor([1, 0]), clusters=5)
    torch.testing.assert_close(centres, features[[1, 0, 1, 0, 1]])
    assert sizes.sum() == 2


def test_codes_move_alike_however_the_batch_was_cut() -> None:
    torch.manual_seed(0)
    whole = Codebook(4, 3, 0.9, kmeans_init=False)
    parts = copy.deepcopy(whole)
    features = F.normalize(torch.randn(10, 3), dim=-1)
    indices = whole.nearest(features)
    whole.accumulate(features, indices)
    for part in (slice(0, 7), slice(7, 10)):
        parts.accumulate(features[part], indices[part])
    assert whole.update(new_epoch=True).tolist() == torch.bincount(indices, minlength=4).tolist()
    parts.update(new_epoch=True)
    torch.testing.assert_close(whole.codes, parts.codes)
    torch.testing.assert_close(whole.cluster_size, parts.cluster_size)


def test_an_unused_code_stays_and_the_statistic_starts_over_in_each_epoch() -> None:
    book = Codebook(2, 3, 0.5, kmeans_init=False)
    book.codes.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]))
    features = torch.tensor([[0.0, 0, 1]])
    for new_epoch, size in ((True, 0.5), (False, 0.75), (True, 0.5)):
        before = book.codes.clone()
        book.accumulate(features, torch.tensor([0]))
        book.update(new_epoch=new_epoch)
        torch.testing.assert_close(book.codes[1], before[1])
        assert book.codes[0, 2] > before[0, 2]
        assert book.cluster_size.tolist() == [size, 0]


def test_ties_go_to_the_first_code() -> None:
    book = Codebook(3, 2, 0.9, kmeans_init=False)
    book.codes.copy_(torch.tensor([[0.0, 1], [1, 0], [1, 0]]))
    assert book.nearest(torch.tensor([[1.0, 0]])).tolist() == [1]


def test_perplexity() -> None:
    assert perplexity(torch.tensor([5, 5, 5, 5, 0])).item() == 4.0
    assert perplexity(torch.tensor([0, 7])).item() == 1.0
