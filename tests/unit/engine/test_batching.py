"""The global batch is the recipe's, however many devices share it."""

from __future__ import annotations

import pytest

from steps.command import UserError
from steps.data.loader import plan_batch


@pytest.mark.parametrize(
    ("batch", "limit", "world", "accumulation"),
    [(64, 64, 1, 1), (64, 16, 1, 4), (64, 16, 2, 2), (60, 16, 1, 4), (63, 16, 1, 7), (7, 2, 1, 7)],
)
def test_parts_add_up_to_the_global_batch(
    batch: int, limit: int, world: int, accumulation: int
) -> None:
    places: list[int] = []
    for rank in range(world):
        plan = plan_batch(batch, limit, rank=rank, world=world, where="r.yaml")
        assert plan.accumulation == accumulation
        assert plan.micro_batch <= limit
        for part in plan.micro_batches():
            places.extend(range(part.start, part.stop))
    assert places == list(range(batch))


def test_a_batch_that_devices_cannot_divide() -> None:
    with pytest.raises(UserError, match=r"r.yaml: training.batch_size: a global batch of 64") as e:
        plan_batch(64, 64, rank=0, world=3, where="r.yaml")
    assert "a multiple of 3, such as 63" in str(e.value)
