"""Sinkhorn-Knopp balances; over two processes it is that over one."""

from __future__ import annotations

import torch
from torch import Tensor

from steps.models.center import sinkhorn_knopp
from tests.golden.ranks import on_ranks


def _values(rows: int, dim: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows))


def test_sinkhorn_balances_prototypes() -> None:
    targets = sinkhorn_knopp(_values(60, 5), 0.5, 50)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(60))
    torch.testing.assert_close(targets.sum(dim=0), torch.full((5,), 12.0), rtol=1e-4, atol=0)


def test_sinkhorn_of_no_rows() -> None:
    assert sinkhorn_knopp(torch.zeros(0, 5), 0.1, 3).shape == (0, 5)


def test_sinkhorn_over_processes() -> None:
    logits = _values(7, 4)
    whole = sinkhorn_knopp(logits, 0.3, 3)
    for cut in (3, 0):
        parts = on_ranks(sinkhorn_knopp, [(logits[:cut], 0.3, 3), (logits[cut:], 0.3, 3)])
        torch.testing.assert_close(torch.cat(parts), whole)
