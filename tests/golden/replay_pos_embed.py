"""Replay the golden case ``pos_embed``: position tables on another grid, each method's way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steps.detection.backbone import by_offset
from steps.models.positions import (
    WITH_OFFSET,
    Resizing,
    grid_of,
    ratio_between,
    resize_map,
    resize_relative_table,
    resize_table,
    source_offsets,
)
from tests.golden.case import Case

SIZE = Resizing(offset=0.0)
REGISTERS = Resizing(offset=0.0, antialias=True)


def replay(case: Case) -> None:
    """Every part of the case that is listed, in the order of its grids."""
    for part, cases in case.facts["cases"].items():
        for index, facts in enumerate(cases):
            PARTS[part](case, f"{part}/{index}", facts)
    assert case.facts["expected"].keys() <= {"beit"}, "expectations that nothing compares"


def _mae(case: Case, room: str, facts: dict[str, Any]) -> None:
    table = case[f"{room}/input/pos_embed"]
    ours = resize_table(table, _grid(facts), resizing=SIZE)
    case.equal(ours, f"{room}/output/pos_embed")


def _dino(case: Case, room: str, facts: dict[str, Any]) -> None:
    table = case[f"{room}/input/pos_embed"]
    case.equal(resize_table(table, _grid(facts)), f"{room}/output/pos_embed")
    case.equal(_by_axis(table, _grid(facts), WITH_OFFSET), f"{room}/output/pos_embed")


def _dinov2(case: Case, room: str, facts: dict[str, Any]) -> None:
    _dino(case, room, facts)
    table = case[f"{room}/input/pos_embed"]
    for ours in (
        resize_table(table, _grid(facts), resizing=REGISTERS),
        _by_axis(table, _grid(facts), REGISTERS),
    ):
        case.equal(ours, f"{room}/output/pos_embed_registers_model")


def _by_axis(table_1ND: Tensor, grid: tuple[int, int], resizing: Resizing) -> Tensor:
    """``resize_table`` as the detector does it."""
    side = round((table_1ND.shape[1] - 1) ** 0.5)
    patches = resize_map(table_1ND[:, 1:].unflatten(1, (side, side)), grid, resizing)
    return torch.cat([table_1ND[:, :1], patches.flatten(1, 2)], dim=1)


def _beit(case: Case, room: str, facts: dict[str, Any]) -> None:
    name = "relative_position_bias_table"
    table = case[f"{room}/input/{name}"]
    (source, _), (target, _) = facts["from_grid"], facts["to_grid"]
    case.number(grid_of(len(table)), source, f"{room}: grid")
    case.equal(resize_relative_table(table, target), f"{room}/output/{name}")
    expected = dict(case.facts["expected"]["beit"][room.rpartition("/")[2]])
    # How two routines of the reference's library differ is nothing of ours.
    assert expected.pop("difference_to_rectangular_spline", 0.0) < 1e-6
    if source == target:
        assert set(expected.values()) == {None}
        return
    case.number(ratio_between(source, target), expected.pop("ratio"), f"{room}: ratio", 1e-12)
    ours = {
        "source_coordinates": source_offsets(source, target),
        "target_coordinates": [float(offset) for offset in range(1 - target, target)],
    }
    assert ours.keys() == expected.keys()
    for key, values in expected.items():
        for mine, theirs in zip(ours[key], values, strict=True):
            case.number(mine, theirs, f"{room}: {key}", 1e-12)


def _vitdet(case: Case, room: str, facts: dict[str, Any]) -> None:
    (rows, columns) = facts["from_grid"]
    table = case[f"{room}/input/pos_embed"][:, -rows * columns :]
    ours = resize_map(table.unflatten(1, (rows, columns)), _grid(facts), SIZE)
    case.equal(ours, f"{room}/output/pos_embed")


def _vitdet_rel(case: Case, room: str, facts: dict[str, Any]) -> None:
    table, tokens = case[f"{room}/input/rel_pos"], facts["tokens_per_axis"]
    case.number(len(table), facts["table_length"], f"{room}: table_length")
    case.number(2 * tokens - 1, facts["needed_length"], f"{room}: needed_length")
    case.equal(by_offset(table, tokens), f"{room}/output/rel_pos_per_pair")


def _grid(facts: dict[str, Any]) -> tuple[int, int]:
    rows, columns = facts["to_grid"]
    return rows, columns


PARTS: dict[str, Callable[[Case, str, dict[str, Any]], None]] = {
    "mae": _mae,
    "dino": _dino,
    "dinov2": _dinov2,
    "beit": _beit,
    "vitdet": _vitdet,
    "vitdet_rel": _vitdet_rel,
}
REPLAYS = {"pos_embed": replay}
