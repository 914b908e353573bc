"""A BEiT's table on another grid: what a spline must keep, and what stands apart."""

from __future__ import annotations

import pytest
import torch

from steps.models.positions import cubic_spline, grid_of, resize_relative_table


def test_a_cubic_polynomial_is_met_between_uneven_points() -> None:
    points = torch.tensor([-3.0, -1.2, 0.0, 0.4, 2.0], dtype=torch.float64)
    at = torch.linspace(-3, 2, 21, dtype=torch.float64)
    values = cubic_spline(points, at) @ (points**3 - 2 * points + 1)
    torch.testing.assert_close(values, at**3 - 2 * at + 1)


def test_class_rows_are_copied_and_a_fitting_table_is_itself() -> None:
    table = torch.randn(7**2 + 3, 2)
    resized = resize_relative_table(table, 6)
    assert resized.shape == (11**2 + 3, 2)
    assert torch.equal(resized[-3:], table[-3:])
    assert resize_relative_table(table, 4) is table


def test_the_centre_keeps_its_place() -> None:
    table = torch.randn(7**2 + 3, 2)
    # No offset is in the middle of both grids, and next to it the first ones are not moved.
    source = table[:-3].unflatten(0, (7, 7))
    resized = resize_relative_table(table, 6)[:-3].unflatten(0, (11, 11))
    torch.testing.assert_close(resized[4:7, 4:7], source[2:5, 2:5])


def test_tables_of_no_grid() -> None:
    assert grid_of(27**2 + 3) == 14
    with pytest.raises(ValueError, match="50 rows"):
        grid_of(50)
    with pytest.raises(ValueError, match="four points"):
        resize_relative_table(torch.randn(12, 2), 4)
