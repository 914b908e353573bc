"""The data path's benchmark: both sides make the same kinds of views."""

from __future__ import annotations

import pytest
import torch

from benchmarks import data


@pytest.mark.parametrize("regime", data.REGIMES)
@pytest.mark.parametrize("tensors", [False, True])
def test_torchvision_makes_views_of_our_sizes(regime: str, tensors: bool) -> None:
    views, jpeg = data.views_of(data.REGIMES[regime]), data.drawn(0)
    ours, theirs = data.our_side(views)(jpeg), data.torchvision_side(views, tensors=tensors)(jpeg)
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    assert all(one.dtype == torch.uint8 for one in [*ours, *theirs])


def test_ratios_are_to_the_faster_of_torchvisions() -> None:
    rows = data.rows("two views", data.views_of("simclr"), [data.drawn(0)], rounds=1)
    rivals = {row["side"]: row["ms_an_image"] for row in rows if "torchvision" in row["side"]}
    ratios = {row["side"]: row["ratio_to_faster_torchvision"] for row in rows}
    assert ratios[min(rivals, key=rivals.__getitem__)] == 1.0
    assert len(rows) == 4
