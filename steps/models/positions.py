"""Position tables: the fixed sine-cosine one, and resizing a learnt one to another grid."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F


def sincos_table(dim: int, grid: int, prefix: int = 1) -> Tensor:
    """The fixed 2-d sine-cosine position table of MAE (arXiv:2111.06377, section 4).

    The first half of the channels encodes the column, the second half the row; each half is
    sines then cosines of x / 10000^(i / (dim / 4)). Computed in float64.

    Args:
        dim: channels D, a multiple of 4.
        grid: patches a side.
        prefix: tokens before the patches (the class token); their rows are zero.

    Returns:
        (1, prefix + grid * grid, D) float32.
    """
    frequencies = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    at = torch.arange(grid, dtype=torch.float64)

    def encode(coordinate: Tensor) -> Tensor:
        angles = torch.outer(coordinate.flatten(), frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    rows, columns = torch.meshgrid(at, at, indexing="ij")
    patches = torch.cat([encode(columns), encode(rows)], dim=1)
    table = torch.cat([torch.zeros(prefix, dim, dtype=torch.float64), patches])
    return table.unsqueeze(0).float()


def resize_table(table_1ND: Tensor, grid: tuple[int, int], prefix: int = 1) -> Tensor:
    """Resize a learnt position table to another patch grid, as DINO does inside its forward pass.

    Bicubic, without antialiasing, with the scale factor (grid + 0.1) / side of the table: the
    fractional factor sets the sampling coordinates (DINO, arXiv:2104.14294, reference code).

    Args:
        table_1ND: (1, prefix + side * side, D).
        grid: (rows, columns) wanted.
        prefix: tokens before the patches; their rows are kept.

    Returns:
        (1, prefix + rows * columns, D); the table itself where it fits already.
    """
    side = round((table_1ND.shape[1] - prefix) ** 0.5)
    if grid == (side, side):
        return table_1ND
    weights = _bicubic(side, grid).to(table_1ND)
    return torch.cat([table_1ND[:, :prefix], weights @ table_1ND[:, prefix:]], dim=1)


@functools.cache
def _bicubic(side: int, grid: tuple[int, int]) -> Tensor:
    """Interpolation as a matrix, (rows * columns, side * side).

    It is linear in the table, and a matrix product has a deterministic backward pass on every
    device, which interpolation has not.
    """
    basis = torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)
    factors = [(wanted + 0.1) / side for wanted in grid]
    resized = F.interpolate(basis, scale_factor=factors, mode="bicubic", align_corners=False)
    return resized.flatten(1).T.contiguous()
