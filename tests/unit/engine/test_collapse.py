"""A constant embedding is flagged, a healthy one is not, and the watch changes nothing."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor, nn

from steps.engine.watch import LIMITS, CollapseWatch, embedding_statistics
from steps.methods import Batch, Method


class Fixed(Method):
    """Gives the embeddings it was made with, through a batch norm that would move in training."""

    def __init__(self, embeddings: Tensor | None) -> None:
        super().__init__()
        self.given = embeddings
        self.norm = nn.BatchNorm1d(1 if embeddings is None else embeddings.shape[1])
        self.frozen_part = nn.Dropout().eval()

    def embeddings(self, batch: Batch) -> Tensor | None:
        return self.given if self.given is None else self.norm(self.given)


def _random(rows: int, dim: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(0))


def _batch() -> Batch:
    return Batch([torch.zeros(1, 3, 8, 8)], torch.zeros(1))


def _judge(embeddings: Tensor | None, step: int = 50, **losses: float) -> CollapseWatch:
    watch = CollapseWatch("dino", total_steps=100, quiet=False)
    watch.see(Fixed(embeddings), _batch())
    watch.judge(step, losses)
    return watch


@pytest.mark.parametrize("shape", [(4000, 16), (16, 4000)])
def test_embeddings_spread_over_the_sphere(shape: tuple[int, int]) -> None:
    statistics = embedding_statistics(_random(*shape))
    assert statistics["embedding_std"] == pytest.approx(1.0, abs=0.05)
    assert statistics["effective_rank"] == pytest.approx(16, rel=0.01)


def test_statistics_are_those_of_their_formulas() -> None:
    rows = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [0.0, -5.0]])
    statistics = embedding_statistics(rows)
    # Normalised, the first axis holds 1, 1, 0, 0 and the second 0, 0, 1, -1.
    std = (0.5 + math.sqrt(0.5)) / 2 * math.sqrt(2)
    assert statistics["embedding_std"] == pytest.approx(std)
    assert statistics["effective_rank"] == pytest.approx(2)  # two equal singular values


def test_a_constant_embedding_is_flagged_by_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        watch = _judge(_random(1, 16).expand(32, -1))
    assert watch.collapsed
    text = caplog.text
    for part in ("collapse: dino at step 50", "embedding_std is", "below 0.02", "remedy:"):
        assert part in text
    assert "effective_rank is 1, below 2" in text


def test_embeddings_along_one_direction_are_flagged(caplog: pytest.LogCaptureFixture) -> None:
    signs = torch.tensor([1.0, -1.0]).repeat(16).unsqueeze(1)
    assert _judge(signs * _random(1, 16)).collapsed
    assert "effective_rank" in caplog.text
    assert "embedding_std" not in caplog.text


def test_a_healthy_embedding_is_not_flagged(caplog: pytest.LogCaptureFixture) -> None:
    # A common mean ten times the spread: cosines of 0.99, as an untrained network gives them.
    assert not _judge(_random(32, 16) + 10, kl=0.3).collapsed
    assert not caplog.records


def test_a_vanishing_kl_is_flagged(caplog: pytest.LogCaptureFixture) -> None:
    assert _judge(_random(32, 16), kl=1e-5).collapsed
    assert "kl is 1e-05, below 0.05" in caplog.text


def test_the_first_tenth_of_a_run_is_measured_but_not_judged() -> None:
    assert not _judge(torch.ones(32, 16), step=9).collapsed
    assert _judge(torch.ones(32, 16), step=10).collapsed


def test_each_sign_is_warned_of_once_and_a_run_may_recover(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = CollapseWatch("dino", total_steps=100, quiet=False)
    for step in (20, 30):
        watch.see(Fixed(torch.ones(32, 16)), _batch())
        assert watch.judge(step, {})["embedding_std"] == pytest.approx(0)
    assert len(caplog.records) == len(LIMITS) - 1  # both of the embedding's, once
    watch.see(Fixed(_random(32, 16)), _batch())
    watch.judge(40, {})
    assert not watch.collapsed


def test_micro_batches_are_measured_together() -> None:
    rows = _random(32, 16)
    watch = CollapseWatch("dino", total_steps=100, quiet=False)
    for part in rows.chunk(4):
        watch.see(Fixed(part), _batch())
    together = Fixed(rows).eval().embeddings(_batch())
    assert together is not None
    assert watch.judge(50, {}) == pytest.approx(embedding_statistics(together))


def test_a_method_without_embeddings_is_not_watched() -> None:
    watch = CollapseWatch("mae", total_steps=100, quiet=False)
    watch.see(Fixed(None), _batch())
    assert watch.judge(50, {"loss": 0.0}) == {}
    assert not watch.collapsed


def test_watching_changes_neither_mode_nor_buffers() -> None:
    method = Fixed(_random(32, 16))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    CollapseWatch("dino", total_steps=100, quiet=False).see(method, _batch())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert method.training
    assert method.norm.training
    assert not method.frozen_part.training
