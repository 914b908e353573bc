"""Position tables: the fixed sine-cosine one, and resizing a learnt one to another grid."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def sincos_table(
    dim: int, grid: int, prefix: int = 1, first: Literal["column", "row"] = "column"
) -> Tensor:
    """The fixed 2-d sine-cosine position table of MoCo v3 and MAE (arXiv:2111.06377, section 4).

    One half of the channels encodes the column, the other the row; each half is sines then
    cosines of x / 10000^(i / (dim / 4)). Computed in float64.

    Args:
        dim: channels D, a multiple of 4.
        grid: patches a side.
        prefix: tokens before the patches (the class token); their rows are zero.
        first: what the first half encodes: the column in MAE, the row in MoCo v3.

    Returns:
        (1, prefix + grid * grid, D) float32.
    """
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    at = torch.arange(grid, dtype=torch.float64)

    def encode(coordinate: Tensor) -> Tensor:
        angles = torch.outer(coordinate.flatten(), frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = torch.meshgrid(at, at, indexing="ij")
    halves = [encode(columns), encode(rows)]
    patches = torch.cat(halves if first == "column" else halves[::-1], dim=1)
    table = torch.cat([torch.zeros(prefix, dim, dtype=torch.float64), patches])
    return table.unsqueeze(0).float()


@dataclass(frozen=True)
class Resizing:
    """How a learnt position table is resized to another grid, bicubic in any case.

    The defaults are DINO's (arXiv:2104.14294, reference code). DINOv2 (arXiv:2304.07193) has them
    too, and for models with registers ``offset=0, antialias=True``.
    """

    offset: float = 0.1
    """Sampling coordinates follow from the scale factor (grid + offset) / side of the table; 0:
    from the two sizes."""
    antialias: bool = False


WITH_OFFSET = Resizing()


def resize_table(
    table_1ND: Tensor,
    grid: tuple[int, int],
    prefix: int = 1,
    resizing: Resizing = WITH_OFFSET,
) -> Tensor:
    """Resize a learnt position table to another patch grid.

    Args:
        table_1ND: (1, prefix + side * side, D).
        grid: (rows, columns) wanted.
        prefix: tokens before the patches; their rows are kept.
        resizing: the reference's way of doing it.

    Returns:
        (1, prefix + rows * columns, D); the table itself where it fits already.
    """
    side = round((table_1ND.shape[1] - prefix) ** 0.5)
    if grid == (side, side):
        return table_1ND
    weights = _bicubic(side, grid, resizing, table_1ND.device, table_1ND.dtype)
    with torch.autocast(table_1ND.device.type, enabled=False):
        return torch.cat([table_1ND[:, :prefix], weights @ table_1ND[:, prefix:]], dim=1)


def resize_map(map_1HWD: Tensor, grid: tuple[int, int], resizing: Resizing) -> Tensor:
    """Resize the rows of patches of a position table to a grid of any shape.

    The same as :func:`resize_table`, one axis after the other: a detector's grids are many and
    large, and so would be the matrices of both axes together.

    Args:
        map_1HWD: (1, rows, columns, D).
        grid: (rows, columns) wanted.
        resizing: the reference's way of doing it.

    Returns:
        (1, rows, columns, D); the map itself where it fits already.
    """
    rows, columns = map_1HWD.shape[1:3]
    if grid == (rows, columns):
        return map_1HWD
    down, across = (
        _cubic(side, wanted, resizing).to(map_1HWD)
        for side, wanted in zip((rows, columns), grid, strict=True)
    )
    return torch.einsum("rh,bhwd,cw->brcd", down, map_1HWD, across)


@functools.cache
def _cubic(side: int, wanted: int, resizing: Resizing) -> Tensor:
    """Interpolation along one axis as a matrix, (wanted, side)."""
    basis = torch.eye(side, dtype=torch.float64).view(-1, 1, side, 1)
    factor = (wanted + resizing.offset) / side
    resized = F.interpolate(
        basis.expand(-1, -1, -1, side),
        size=None if resizing.offset else (wanted, side),
        scale_factor=(factor, 1.0) if resizing.offset else None,
        mode="bicubic",
        align_corners=False,
        antialias=resizing.antialias,
    )
    return resized[:, 0, :, 0].T.contiguous()


@functools.cache
def _bicubic(
    side: int,
    grid: tuple[int, int],
    resizing: Resizing,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Interpolation as a matrix, (rows * columns, side * side), computed in float64.

    It is linear in the table, and a matrix product has a deterministic backward pass on every
    device, which interpolation has not.
    """
    basis = torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)
    factors = None
    if resizing.offset:
        factors = [(wanted + resizing.offset) / side for wanted in grid]
    resized = F.interpolate(
        basis,
        size=None if factors else grid,
        scale_factor=factors,
        mode="bicubic",
        align_corners=False,
        antialias=resizing.antialias,
    )
    return resized.flatten(1).T.contiguous().to(device, dtype)
