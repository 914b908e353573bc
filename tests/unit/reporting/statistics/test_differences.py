from __future__ import annotations

import numpy as np

from steps.reporting.statistics.differences import all_pairs, better, differences, levels, ranks
from steps.reporting.statistics.scores import Images, Scores, of_decisions, scores

GENERATOR = np.random.default_rng(0)


def _table(score: list[float], error: float) -> Scores:
    images = Images(
        np.array(score), error**2 * np.eye(len(score)), np.zeros(len(score)), None, 10_000
    )
    return scores(images, np.array(score)[:, None], np.ones(len(score), bool))


def test_differences_are_paired_by_image() -> None:
    """Rows that fail on the same images differ by less chance than rows that do not."""
    one = GENERATOR.random(2000) < 0.7
    other = one.copy()
    other[:40] = ~other[:40]
    correct = np.stack([one, other, GENERATOR.permutation(one)])[:, None]
    found = differences(
        scores(of_decisions(correct), 100 * correct.mean(-1), np.ones(3, bool)), all_pairs(3)
    )
    width = found.high - found.low
    # 40 images of 2,000 tell the first two apart: sqrt(40) / 2,000 = 0.32 points; of three pairs
    # the largest is within 2.1 to 2.4 standard errors, Bonferroni's bound.
    assert 2.1 * 0.316 < width[0] / 2 < 2.45 * 0.316
    assert width[1] > 3 * width[0]


def test_a_larger_family_has_wider_intervals() -> None:
    table = _table([50.0, 53.0, 60.0], 1.0)
    one = differences(table, np.array([[1, 0]]))
    three = differences(table, all_pairs(3))
    assert one.apart[0]
    assert not three.apart[0]
    assert three.apart[1:].all()


def test_ranks_are_intervals_and_levels_the_longest_chain() -> None:
    table = _table([60.0, 52.0, 50.0, 40.0], 1.0)
    above = better(differences(table, all_pairs(4)), 4)
    first, last = ranks(above)
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == [(1, 1), (2, 3), (2, 3), (4, 4)]
    assert levels(above, table.score) == [0, 1, 3]


def test_equal_rows_make_one_level() -> None:
    above = better(differences(_table([50.0] * 3, 1.0), all_pairs(3)), 3)
    assert [each.tolist() for each in ranks(above)] == [[1, 1, 1], [3, 3, 3]]
    assert len(levels(above, np.full(3, 50.0))) == 1


def test_no_claim_rests_on_an_unstable_row() -> None:
    values = 50 + np.array([[0.1, 0.0, -0.1]]) * np.array([1.0, 1.5, 0.7, 1.2, 0.9])[:, None]
    values = np.vstack([values, [[90.0, 10.0, 95.0]]])
    images = Images(values.mean(1), 1e-4 * np.eye(6), np.zeros(6), None, 1000)
    table = scores(images, values, np.ones(6, bool))
    assert table.unstable.tolist() == [False] * 5 + [True]
    found = differences(table, all_pairs(6))
    assert not found.apart[(found.pairs == 5).any(1)].any()


def test_few_images_do_not_tell_equal_rows_apart() -> None:
    """Tables of equal rows on 5 or 20 images rarely hold a pair told apart: nominally 5 %."""
    generator = np.random.default_rng(1)
    for n in (5, 20):
        told = 0
        for _ in range(300):
            correct = generator.random((4, 1, n)) < 0.5
            table = scores(of_decisions(correct), 100 * correct.mean(-1), np.ones(4, bool))
            told += bool(differences(table, all_pairs(4)).apart.any())
        assert told / 300 < 0.11, n
