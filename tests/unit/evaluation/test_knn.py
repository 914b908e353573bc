"""Chunked k-NN: exact, whatever the chunks; ties by the order of the training set."""

from __future__ import annotations

import pytest
import torch

from steps.evaluation.accuracy import per_class_percent
from steps.evaluation.knn import few_shot_ks, few_shot_rows, knn_votes, largest, nearest


@pytest.mark.parametrize("bank_chunk", [1, 3, 10, 64, 1000])
def test_nearest_is_that_of_the_whole_matrix(bank_chunk: int) -> None:
    draw = torch.Generator().manual_seed(0)
    # Few small integers: products are exact and many are equal.
    bank = torch.randint(-1, 2, (64, 3), generator=draw).float()
    bank = bank[bank.norm(dim=1) == 1]
    queries = torch.eye(3)
    similarity, index = nearest(bank, queries, 7, bank_chunk)
    whole = (queries @ bank.T).sort(dim=1, descending=True, stable=True)
    assert torch.equal(similarity, whole.values[:, :7])
    assert torch.equal(index, whole.indices[:, :7])


def test_largest_takes_the_first_of_equals() -> None:
    scores = torch.tensor([[1.0, 2.0, 2.0, 2.0, 3.0, 0.0], [5.0, 5.0, 5.0, 5.0, 5.0, 5.0]])
    values, indices = largest(scores, 3)
    assert indices.tolist() == [[4, 1, 2], [0, 1, 2]]
    assert values.tolist() == [[3.0, 2.0, 2.0], [5.0, 5.0, 5.0]]
    assert largest(scores, 9)[1].shape == (2, 6)


def test_votes_do_not_depend_on_chunks_of_either_side() -> None:
    draw = torch.Generator().manual_seed(0)
    train, queries = torch.randn(100, 8, generator=draw), torch.randn(30, 8, generator=draw)
    labels = torch.randint(0, 5, (100,), generator=draw)

    def votes(chunk: int, bank_chunk: int) -> torch.Tensor:
        chunks = knn_votes(
            train.numpy(),
            labels,
            queries.numpy(),
            ks=[5, 200],
            temperature=0.1,
            num_classes=5,
            chunk=chunk,
            bank_chunk=bank_chunk,
        )
        return torch.cat([torch.cat([found[5], found[200]], dim=1) for found in chunks])

    whole = votes(30, 100)
    assert whole.shape == (30, 10)
    torch.testing.assert_close(votes(7, 13), whole)
    torch.testing.assert_close(votes(1, 1), whole)


def test_few_shot_sets() -> None:
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 2, 0])
    rows = few_shot_rows(labels, 2, seed=0, attempt=0)
    assert labels[rows].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(rows.unique()) == 6
    draws = {tuple(few_shot_rows(labels, 2, 0, attempt).tolist()) for attempt in range(8)}
    assert len(draws) > 1
    assert few_shot_ks([10, 20, 100], 15) == [10, 15]
    assert few_shot_ks([10, 20, 100], 20) == [10, 20]
    assert few_shot_ks([10, 20], 5) == [5]


def test_the_mean_over_classes_weighs_small_ones_alike() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    assert per_class_percent(torch.tensor([True, True, True, False]), labels) == 50.0
