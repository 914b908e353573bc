"""The lazy centre: used as the eager one, saved a batch behind."""

from __future__ import annotations

import torch
from torch import Tensor

from steps.models.center import Center, LazyCenter
from tests.golden.ranks import on_ranks


def _values(rows: int, dim: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows))


def _lazy(batches: list[Tensor], equal_processes: bool) -> Tensor:
    center = LazyCenter(1, 3, momentum=0.9, equal_processes=equal_processes)
    for logits in batches:
        center.accumulate(logits)
        center.update()
    return center.used


def test_a_lazy_centre_is_used_as_an_eager_one_and_saved_a_batch_behind() -> None:
    lazy, eager = LazyCenter(1, 3, momentum=0.9), Center(1, 3, momentum=0.9)
    for step in range(4):
        torch.testing.assert_close(lazy.used, eager.value)
        behind = lazy.used.clone()
        for center in (lazy, eager):
            center.accumulate(_values(5 + step, 3))
            center.update()
        torch.testing.assert_close(lazy.value, behind)


def test_a_lazy_centre_without_rows_stays() -> None:
    center = LazyCenter(1, 3, momentum=0.9)
    center.accumulate(_values(5, 3))
    center.update()
    before = center.used.clone()
    center.update()
    assert torch.equal(center.used, before)


def test_a_lazy_centre_over_processes() -> None:
    logits = _values(7, 3)
    for equal in (False, True):
        parts = on_ranks(_lazy, [([logits[:2]], equal), ([logits[2:]], equal)])
        mean = logits.mean(dim=0)
        if equal:
            mean = (logits[:2].mean(dim=0) + logits[2:].mean(dim=0)) / 2
        for part in parts:
            torch.testing.assert_close(part, 0.1 * mean.unsqueeze(0))
