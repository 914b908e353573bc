"""Render a committed report again from its own records and compare it with what stands there."""

from __future__ import annotations

from io import BytesIO
from itertools import zip_longest
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, UnidentifiedImageError

from steps.command import UserError
from steps.reporting.confidence import confidences
from steps.reporting.figures import DRAWN_WITH
from steps.reporting.pictures import check_pictures, read_pictures
from steps.reporting.render import render_figures, render_tables
from steps.reporting.source import read_source
from steps.reporting.summary import summarize
from steps.reporting.text import plural

LEVELS = 4
"""By how much of 255 a pixel may differ: processors differ in the last bits of a float, which
shifts the shade of a line's edge by a level or two. Another number moves the line."""
_REMEDY = "make the report anew with the commands at the end of its page"


def check_report(folder: Path) -> str:
    """Compare the files of a report with what its records give.

    Text is compared byte by byte, pictures pixel by pixel to ``LEVELS``; pictures that another
    matplotlib drew are not compared.

    Returns:
        what was compared, in a line.

    Raises:
        UserError: naming the first file that differs, and its first line that does.
    """
    source, pictures = read_source(folder), read_pictures(folder)
    sure = confidences(source, summarize(source.records()))
    figures = render_figures(source, sure)
    check_pictures(folder, pictures, figures)
    for name, content in render_tables(source, pictures, sure).items():
        path = folder / name
        _require(path)
        if path.read_bytes() != content:
            raise UserError(
                str(path),
                f"differs from its records, first in {first_difference(path, content)}",
                remedy=_REMEDY,
            )
    skipped = []
    for name, content in figures.items():
        path = folder / name
        _require(path)
        drawn, pixels = _picture(path)
        if drawn != f"matplotlib {mpl.__version__}":
            skipped.append(f"{name} (drawn with {drawn}, here matplotlib {mpl.__version__})")
            continue
        if not _same(pixels, np.asarray(Image.open(BytesIO(content)).convert("RGBA"))):
            raise UserError(
                str(path), "differs in its pixels from what the records give", remedy=_REMEDY
            )
    said = f"{folder}: README.md and results.csv follow from {source.records().height:,} records"
    if len(skipped) < len(figures):
        said += f", and so do {len(figures) - len(skipped)} pictures"
    if pictures:
        said += f"; {plural(len(pictures), 'picture')} of methods as listed"
    return said + (f"; not compared: {', '.join(skipped)}" if skipped else "")


def _same(
    one: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    other: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> bool:
    """True of two pictures that show the same."""
    if one.shape != other.shape:
        return False
    return int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max()) <= LEVELS


def _require(path: Path) -> None:
    if not path.is_file():
        raise UserError(str(path), "missing", remedy=_REMEDY)


def first_difference(path: Path, content: bytes) -> str:
    """Where a file departs from what it should hold, in words."""
    there = path.read_bytes().splitlines()
    for number, (found, wanted) in enumerate(zip_longest(there, content.splitlines()), 1):
        if found != wanted:
            return f"line {number}"
    return "its line ends"


def _picture(path: Path) -> tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    try:
        with Image.open(path) as image:
            drawn = str(image.info.get(DRAWN_WITH, "an unknown program"))
            return drawn, np.asarray(image.convert("RGBA"))
    except UnidentifiedImageError as error:
        raise UserError(str(path), "not a picture", remedy=_REMEDY) from error
