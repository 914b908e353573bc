"""The benchmark of packing measures both ways."""

from __future__ import annotations

import pytest
import torch

from benchmarks import multicrop
from benchmarks.lightly import MANY_CROPS, Case, Ours
from steps.models import last_block
from steps.models.backbones import Transformer


@pytest.mark.parametrize("method", MANY_CROPS)
def test_the_student_learns_from_all_crops(method: str) -> None:
    case = Case(method, "vit_pico", 8, 4)
    assert case.sides == [64, 64] + [32] * 4
    step = Ours(case)
    for view in step.batch.views:
        view.requires_grad_()
    multicrop.student_pass(step)
    for view in step.batch.views:
        assert view.grad is not None
        assert view.grad.abs().sum() > 0


def test_plain_and_packed_take_turns() -> None:
    backbone: Transformer = Ours(Case("dino", "vit_pico", 8)).method.export_backbone()
    turns: list[bool] = []
    plain, together = multicrop.measure(
        lambda: turns.append(last_block.can_pack(backbone)), rounds=2
    )
    assert turns == [False, True] * 3
    assert len(plain) == len(together) == 2


def test_a_row_says_what_was_measured() -> None:
    torch.set_num_threads(1)
    found = multicrop.row(Case("ibot", "vit_pico", 8, 2), "vit_pico", rounds=1)
    assert found["crops"] == "2 x 64 + 2 x 32"
    assert found["student_ratio"] > 0
    assert found["step_packed_ms"] > 0
