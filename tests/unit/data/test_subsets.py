from __future__ import annotations

import torch

from steps.data.subsets import labelled_rows, training_rows

LABELS = torch.tensor([2, 0, 1] * 200 + [0] * 50)


def test_each_class_gives_its_share() -> None:
    rows = labelled_rows(LABELS, 0.1, seed=0)
    assert LABELS[rows].bincount().tolist() == [25, 20, 20]
    assert rows.unique().tolist() == rows.tolist()


def test_a_small_share_is_part_of_a_larger_one() -> None:
    small, large = (set(labelled_rows(LABELS, share, 3).tolist()) for share in (0.01, 0.1))
    assert len(small) == 6
    assert small < large


def test_seeds_differ_and_repeat() -> None:
    first, again, other = (labelled_rows(LABELS, 0.1, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_at_least_one_and_at_most_all() -> None:
    assert LABELS[labelled_rows(LABELS, 1e-6, 0)].tolist().count(0) == 1
    assert labelled_rows(LABELS, 1.0, 0).tolist() == list(range(650))


def test_training_rows_of_a_share_are_among_those_of_a_larger() -> None:
    small, large = (training_rows(1000, share, seed=3).tolist() for share in (0.1, 0.4))
    assert (len(small), len(large)) == (100, 400)
    assert set(small) < set(large)
    assert small == sorted(small)
    assert training_rows(1000, 0.1, seed=4).tolist() != small
    assert training_rows(10, 1.0, seed=0).tolist() == list(range(10))
    assert len(training_rows(10, 1e-6, seed=0)) == 1
