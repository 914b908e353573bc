"""Position tables: the fixed sine-cosine one, and resizing a learnt one to another grid."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from itertools import accumulate
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
    # In float64, as the references' NumPy: sines of large angles lose digits in float32.
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
    """Bicubic resizing of a learnt position table to another grid.

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
    # With an offset, resizing a grid to itself would move every position a little.
    if grid == (side, side):
        return table_1ND
    weights = _bicubic(side, grid, resizing, table_1ND.device, table_1ND.dtype)
    # bfloat16 would round positions to two or three digits.
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
    # Bicubic weights of a point are products of those of its row and its column.
    down, across = (
        _cubic(side, wanted, resizing).to(map_1HWD)
        for side, wanted in zip((rows, columns), grid, strict=True)
    )
    return torch.einsum("rh,bhwd,cw->brcd", down, map_1HWD, across)


@functools.cache
def _cubic(side: int, wanted: int, resizing: Resizing) -> Tensor:
    """Interpolation along one axis as a matrix, (wanted, side)."""
    # The basis is as wide as high, so that only the wanted axis is resized; any column tells it.
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
    device, unlike interpolation.
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


# --- Resizing a BEiT's table of biases by relative position to another grid
# BEiT (arXiv:2106.08254, reference code) does not resize on the plain grid. Near offsets matter
# most, so they keep their biases, and far ones are spread: the source's offsets are put at the
# sums 1, 1 + q, 1 + q + q^2, … of a geometric series that reaches the target's last offset, and a
# cubic spline through all of them is read at whole offsets. Beyond the last source point it stays
# as it is there.


CLASS_ROWS = 3
"""Rows behind those of the patches: class to patch, patch to class, class to class."""
RATIOS = (1.01, 1.5)
"""Between which q is sought, by halving the interval."""
PRECISION = 1e-6


def grid_of(rows: int) -> int:
    """Patches per side of the grid that a table of this size belongs to.

    Raises:
        ValueError: no square grid has such a table.
    """
    offsets = math.isqrt(max(rows - CLASS_ROWS, 0))
    if offsets**2 + CLASS_ROWS != rows or offsets % 2 == 0:
        raise ValueError(f"{rows} rows are not (2 * grid - 1)^2 + {CLASS_ROWS} of any grid")
    return (offsets + 1) // 2


def resize_relative_table(table_RH: Tensor, grid: int) -> Tensor:
    """The table of another square grid.

    Args:
        table_RH: ((2 * source - 1)^2 + 3, heads).
        grid: patches a side of the grid wanted.

    Returns:
        ((2 * grid - 1)^2 + 3, heads); the table itself where it fits already.

    Raises:
        ValueError: the table is of no square grid, or of one below 3 x 3: a cubic spline needs
            four points.
    """
    source = grid_of(len(table_RH))
    if source == grid:
        return table_RH
    patches, classes = table_RH[:-CLASS_ROWS], table_RH[-CLASS_ROWS:]
    maps = patches.T.double().unflatten(1, (2 * source - 1, 2 * source - 1))
    reading = _spline(source, grid).to(maps)
    resized = reading @ maps @ reading.T
    return torch.cat([resized.flatten(1).T.to(table_RH), classes])


def ratio_between(source: int, target: int) -> float:
    """q of the series whose sum of source - 1 terms is target - 1, as far as RATIOS allow."""
    low, high = RATIOS
    # By halving, as the reference: q in closed form would differ in its last digits.
    middle = low
    while high - low > PRECISION:
        middle = (low + high) / 2
        reach = (1 - middle ** (source - 1)) / (1 - middle)
        low, high = (low, middle) if reach > target - 1 else (middle, high)
    return middle


def source_offsets(source: int, target: int) -> list[float]:
    """Where the source's offsets -(source - 1) … source - 1 are put on the target's scale."""
    ratio = ratio_between(source, target)
    ahead = list(accumulate(ratio**power for power in range(source - 1)))
    return [*(-offset for offset in reversed(ahead)), 0.0, *ahead]


@functools.cache
def _spline(source: int, target: int) -> Tensor:
    """One axis as a matrix (2 * target - 1, 2 * source - 1): the spline is linear in its values."""
    points = torch.tensor(source_offsets(source, target), dtype=torch.float64)
    at = torch.arange(1 - target, target, dtype=torch.float64)
    return cubic_spline(points, at.clamp(points[0], points[-1]))


def cubic_spline(points: Tensor, at: Tensor) -> Tensor:
    """Matrix from values at ``points`` to values of their cubic spline at ``at``.

    The third derivative is continuous at the second and the last point but one ("not a knot"), so
    that a cubic polynomial is met exactly.

    Args:
        points: (P,) float64, rising, four or more.
        at: (A,), within them.

    Returns:
        (A, P).

    Raises:
        ValueError: fewer than four points.
    """
    count = len(points)
    if count < 4:
        raise ValueError(f"a cubic spline needs four points, not {count}")
    gaps = points.diff()
    # The second derivatives M follow from left @ M = right @ values.
    left, right = points.new_zeros(count, count), points.new_zeros(count, count)
    for row in range(1, count - 1):
        before, after = gaps[row - 1], gaps[row]
        left[row, row - 1 : row + 2] = torch.stack([before, 2 * (before + after), after])
        slopes = torch.stack([1 / before, -1 / before - 1 / after, 1 / after])
        right[row, row - 1 : row + 2] = 6 * slopes
    for row, (first, second) in ((0, (gaps[0], gaps[1])), (-1, (gaps[-2], gaps[-1]))):
        ends = torch.stack([second, -first - second, first])
        left[row, slice(0, 3) if row == 0 else slice(-3, None)] = ends
    curvature = torch.linalg.solve(left, right)
    piece = (torch.searchsorted(points, at, right=True) - 1).clamp(0, count - 2)
    gap, values = gaps[piece].unsqueeze(1), torch.eye(count, dtype=points.dtype)
    share = ((at - points[piece]) / gaps[piece]).unsqueeze(1)
    rest = 1 - share
    bend = (rest**3 - rest) * curvature[piece] + (share**3 - share) * curvature[piece + 1]
    reading: Tensor = rest * values[piece] + share * values[piece + 1] + gap**2 / 6 * bend
    return reading
