"""What methods need of the other processes, with three real ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steps.core.distributed import gather, mean_over_processes, rank, sum_over_processes
from tests.golden.ranks import on_ranks

RANKS = 3


def _gather_and_weigh(rows: Tensor) -> dict[str, Tensor]:
    """Gather, and a loss in which each process weighs all rows by its own rank + 1."""
    rows.requires_grad_(True)
    everyone = gather(rows)
    (everyone.square().sum() * (rank() + 1)).backward()
    assert rows.grad is not None
    return {"gathered": everyone.detach(), "grad": rows.grad}


def _sums(value: Tensor) -> dict[str, Tensor]:
    value.requires_grad_(True)
    total = sum_over_processes(value)
    (total * (rank() + 1)).sum().backward()
    assert value.grad is not None
    return {"total": total.detach(), "grad": value.grad, "mean": mean_over_processes(value)}


def test_gather_is_in_the_order_of_ranks_and_its_gradient_is_the_sum_over_processes() -> None:
    rows = torch.arange(RANKS * 4, dtype=torch.float32).view(RANKS, 2, 2)
    for place, result in enumerate(on_ranks(_gather_and_weigh, [(part,) for part in rows])):
        assert torch.equal(result["gathered"], rows.flatten(0, 1))
        assert torch.equal(result["grad"], 2 * rows[place] * (1 + 2 + 3))


def test_sum_over_processes() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0], [8.0, 13.0]])
    for result in on_ranks(_sums, [(value,) for value in values]):
        assert torch.equal(result["total"], values.sum(dim=0))
        assert torch.equal(result["grad"], torch.full((2,), 6.0))
        assert torch.allclose(result["mean"], values.mean(dim=0))


def _fail() -> None:
    raise ArithmeticError(f"rank {rank()} cannot")


def test_an_error_of_a_rank_comes_out() -> None:
    with pytest.raises(Exception, match="cannot"):
        on_ranks(_fail, [(), ()])
