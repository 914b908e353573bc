from __future__ import annotations

import pytest

from steps.core.durations import duration
from steps.reporting.text import flops_unit, measured, plural, significant


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.012345, "0.0123"),
        (1.2345, "1.23"),
        (9.999, "10.0"),
        (12.345, "12.3"),
        (123.4, "123"),
        (1234.0, "1,230"),
        (99_950.0, "100,000"),
    ],
)
def test_significant_keeps_three_digits_without_exponent(value: float, text: str) -> None:
    assert significant(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (8.44, "8.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125.2, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (11_220.0, "3 h 07 min"),
    ],
)
def test_duration_reads_as_a_clock(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("largest", "name"),
    [
        (0.0, "GFLOPs"),
        (5e11, "GFLOPs"),
        (9.998e11, "TFLOPs"),
        (2e13, "TFLOPs"),
        (1e15, "PFLOPs"),
        (3e20, "PFLOPs"),
    ],
)
def test_flops_unit_fits_the_largest(largest: float, name: str) -> None:
    assert flops_unit(largest)[1] == name


def test_measured_gives_percent_one_decimal_and_other_units_four_digits() -> None:
    assert measured(71.25001, "%") == "71.3"
    assert measured(0.123456, "nats") == "0.1235"


def test_plural() -> None:
    assert [plural(1, "seed"), plural(3000, "image")] == ["1 seed", "3,000 images"]
