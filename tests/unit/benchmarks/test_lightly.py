"""The side-by-side benchmark, as far as it goes without the other package."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from benchmarks import lightly


@pytest.mark.parametrize("method", lightly.METHODS)
def test_our_side_trains_what_learns_and_moves_what_follows(method: str) -> None:
    case = lightly.Case(method, "vit_pico", shrink=8)
    ours = lightly.Ours(case)
    before = {name: tensor.clone() for name, tensor in ours.method.named_parameters()}
    ours()
    changed = {
        name: not torch.equal(tensor, before[name])
        for name, tensor in ours.method.named_parameters()
    }
    learnt = [name for name, tensor in ours.method.named_parameters() if tensor.requires_grad]
    assert learnt
    # A bias before a batch norm has no gradient to speak of; nothing else may stand still.
    still = [name for name in learnt if not changed[name]]
    assert not still, still
    if any(name.startswith("teacher.") for name in before):
        assert changed["teacher.backbone.blocks.0.attn.qkv.weight"]


def test_both_sides_are_fed_crops_of_the_recipes_kinds() -> None:
    case = lightly.Case("dino", "vit_s16")
    assert case.sides == [96, 96] + [48] * 10
    assert [view.shape[-1] for view in case.views] == case.sides
    assert lightly.Case("simclr", "vit_pico").sides == [64, 64]
    assert lightly.Case("dino", "vit_pico", local=4).sides == [64, 64] + [32] * 4


def test_the_last_row_is_the_geometric_mean() -> None:
    ratios = [{"ratio": 2.0, "ratio_same_memory": 1.0}, {"ratio": 0.5, "ratio_same_memory": 4.0}]
    rows = [{"method": "a", **both, "images": 3} for both in ratios]
    means = {"ratio": 1.0, "ratio_same_memory": 2.0}
    assert lightly.summary(rows) == {"method": "geometric mean", **means, "images": ""}


def test_sides_take_turns() -> None:
    turns: list[str] = []

    def side(name: str) -> float:
        turns.append(name)
        return float(len(turns))

    seconds = lightly.measure([lambda: side("ours"), lambda: side("theirs")], rounds=2)
    assert turns == ["ours", "theirs"] * 3
    assert seconds == [4.0, 5.0]


def test_a_side_is_a_process_of_its_own() -> None:
    with lightly.Side("mae", "vit_pico", 8, keeps=True) as side:
        assert side.process.pid != os.getpid()
        assert side.flops() > 0
        assert side.seconds() > 0
    assert side.process.exitcode == 0


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.lightly"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="uv run --with lightly"):
        lightly.main()
