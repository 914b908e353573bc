"""The side-by-side benchmark, as far as it goes without the other package."""

from __future__ import annotations

import importlib.util

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


def test_the_last_row_is_the_geometric_mean() -> None:
    rows = [{"method": "a", "ratio": 2.0, "images": 3}, {"method": "b", "ratio": 0.5, "images": 3}]
    assert lightly.summary(rows) == {"method": "geometric mean", "ratio": 1.0, "images": ""}


def test_sides_take_turns() -> None:
    turns: list[str] = []
    lightly.measure([lambda: turns.append("ours"), lambda: turns.append("theirs")], rounds=2)
    assert turns == ["ours", "theirs"] * 3


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks.lightly"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="uv run --with lightly"):
        lightly.main()
