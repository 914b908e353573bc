"""What a classifier decided, and the accuracies that follow: by hand."""

from __future__ import annotations

import pytest
import torch

from steps.command import UserError
from steps.evaluation.accuracy import Classified, correct_in_top

# Six images of three classes; the fifth has two best scores, of which the first counts.
SCORES = torch.tensor(
    [[3.0, 1, 0], [2, 5, 1], [0, 1, 4], [9, 1, 2], [1, 7, 7], [0, 2, 6]],
)
LABELS = torch.tensor([0, 0, 2, 0, 1, 0])


def test_decisions_by_hand() -> None:
    decided = Classified.from_scores(SCORES, LABELS)
    assert decided.top[:, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert decided.top.tolist()[4] == [1, 2, 0]
    assert decided.margin.tolist() == [2, 3, 3, 7, 0, 4]
    assert decided.correct().tolist() == [True, False, True, True, True, False]
    assert decided.accuracy() == pytest.approx(100 * 4 / 6)
    assert decided.accuracy(2) == pytest.approx(100 * 5 / 6)
    # Recalls: two of four, one of one, one of one; the fourth class has no image.
    assert decided.balanced == pytest.approx(100 * (0.5 + 1 + 1) / 3)
    assert decided.facts(["red", "green", "blue", "grey"]) == {
        "class_counts": {"red": 4, "green": 1, "blue": 1, "grey": 0},
        "recall": {"red": 50.0, "green": 100.0, "blue": 100.0},
    }
    table = decided.decisions([f"val/{index}" for index in range(6)]).table.to_pydict()
    assert table["label"] == LABELS.tolist()
    assert table["top"] == decided.top.tolist()


def test_batches_are_put_together_in_order() -> None:
    whole = Classified.from_scores(SCORES, LABELS)
    parts = Classified.together(
        [Classified.from_scores(SCORES[rows], LABELS[rows]) for rows in (slice(4), slice(4, None))]
    )
    for name in ("labels", "top", "margin"):
        assert torch.equal(getattr(parts, name), getattr(whole, name)), name


@pytest.mark.parametrize(("classes", "metrics"), [(10, ["top1"]), (11, ["top1", "top5"])])
def test_five_guesses_count_among_more_than_ten_classes(classes: int, metrics: list[str]) -> None:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (200, classes), generator=draw).double()  # with many ties
    labels = torch.randint(0, classes, (200,), generator=draw)
    decided = Classified.from_scores(scores, labels)
    assert list(decided.accuracies(classes)) == metrics
    assert list(decided.scores(classes)) == [*metrics, "balanced"]
    order = scores.sort(dim=1, descending=True, stable=True).indices
    for k in (1, 5):
        right = int((order[:, :k] == labels.unsqueeze(1)).any(dim=1).sum())
        assert decided.accuracy(k) == pytest.approx(100 * right / 200)
        assert correct_in_top(scores, labels, k) == right


def test_scores_that_are_not_finite_decide_nothing() -> None:
    with pytest.raises(UserError, match="scores"):
        Classified.from_scores(torch.tensor([[0.0, float("nan")]]), torch.tensor([0]))
