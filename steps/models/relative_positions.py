"""Resizing a BEiT's table of biases by relative position to another grid.

BEiT (arXiv:2106.08254, reference code) does not resize on the plain grid. Near offsets matter
most, so they keep their biases, and far ones are spread: the source's offsets are put at the sums
1, 1 + q, 1 + q + q^2, … of a geometric series that reaches the target's last offset, and a cubic
spline through all of them is read at whole offsets. Beyond the last source point it stays as it is
there.
"""

from __future__ import annotations

import functools
import math
from itertools import accumulate

import torch
from torch import Tensor

CLASS_ROWS = 3
"""Rows behind those of the patches: class to patch, patch to class, class to class."""
RATIOS = (1.01, 1.5)
"""Between which q is sought, by halving the interval."""
PRECISION = 1e-6


def grid_of(rows: int) -> int:
    """Patches a side of the grid that a table with so many rows belongs to.

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
    """What to multiply values at ``points`` with for those of their cubic spline at ``at``.

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
    for place in range(1, count - 1):
        before, after = gaps[place - 1], gaps[place]
        left[place, place - 1 : place + 2] = torch.stack([before, 2 * (before + after), after])
        slopes = torch.stack([1 / before, -1 / before - 1 / after, 1 / after])
        right[place, place - 1 : place + 2] = 6 * slopes
    for place, (first, second) in ((0, (gaps[0], gaps[1])), (-1, (gaps[-2], gaps[-1]))):
        ends = torch.stack([second, -first - second, first])
        left[place, slice(0, 3) if place == 0 else slice(-3, None)] = ends
    curvature = torch.linalg.solve(left, right)
    piece = (torch.searchsorted(points, at, right=True) - 1).clamp(0, count - 2)
    gap, values = gaps[piece].unsqueeze(1), torch.eye(count, dtype=points.dtype)
    share = ((at - points[piece]) / gaps[piece]).unsqueeze(1)
    rest = 1 - share
    bend = (rest**3 - rest) * curvature[piece] + (share**3 - share) * curvature[piece + 1]
    reading: Tensor = rest * values[piece] + share * values[piece + 1] + gap**2 / 6 * bend
    return reading
