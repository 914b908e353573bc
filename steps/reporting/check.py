"""Render a committed report from its own records: to compare it with its files, or to update them.

Text is compared byte by byte, figures pixel by pixel to ``LEVELS``.
"""

from __future__ import annotations

from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from PIL import Image

from steps.artifacts.publish import write_whole
from steps.command import UserError
from steps.command.machine import writing
from steps.reporting.confidence import confidences
from steps.reporting.figures import DRAWN_WITH
from steps.reporting.pictures import check_pictures, read_pictures
from steps.reporting.render import render_figures, render_tables
from steps.reporting.source import read_source
from steps.reporting.summary import summarize
from steps.reporting.text import plural

LEVELS = 4
"""Largest difference of a pixel, of 255: processors round floats differently, which shifts the
shade of a line's edge by a level or two. Another number moves the line."""
_REMEDY = "run python -m steps.report --render on its folder"
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class _Rendered(NamedTuple):
    """Files that follow from a report's records."""

    tables: dict[str, bytes]
    figures: dict[str, bytes]
    records: int
    pictures: int


def _render(folder: Path) -> _Rendered:
    """Render a report's folder in memory and check that its listed pictures are unchanged."""
    source, pictures = read_source(folder), read_pictures(folder)
    records = source.records()
    sure = confidences(source, summarize(records))
    figures = render_figures(source, sure)
    check_pictures(folder, pictures, figures)
    tables = render_tables(source, pictures, sure)
    return _Rendered(tables, figures, records.height, len(pictures))


def check_report(folder: Path) -> str:
    """Compare the files of a report with what its records give.

    Figures drawn by another version of matplotlib are not compared.

    Returns:
        one line that says what was compared.

    Raises:
        UserError: naming the first file that differs, and its first line that does.
    """
    rendered = _render(folder)
    for name, content in rendered.tables.items():
        path = folder / name
        _require(path)
        if path.read_bytes() != content:
            raise UserError(
                str(path),
                f"differs from its records, first in {first_difference(path, content)}",
                remedy=_REMEDY,
            )
    skipped = []
    for name, content in rendered.figures.items():
        path = folder / name
        _require(path)
        drawn, pixels = _picture(path)
        if drawn != _HERE:
            skipped.append(f"{name} (drawn with {drawn}, here {_HERE})")
        elif not _same(pixels, content):
            raise UserError(
                str(path), "differs in its pixels from what the records give", remedy=_REMEDY
            )
    said = f"{folder}: README.md and results.csv follow from {rendered.records:,} records"
    if len(skipped) < len(rendered.figures):
        said += f", and so do {len(rendered.figures) - len(skipped)} pictures"
    if rendered.pictures:
        said += f"; {plural(rendered.pictures, 'picture')} of methods as listed"
    return said + (f"; not compared: {', '.join(skipped)}" if skipped else "")


def rewrite_report(folder: Path) -> str:
    """Write the tables and figures of a report again where they differ from its records.

    The records themselves, and the pictures of methods, stay as they are.

    Returns:
        one line that names the files written.

    Raises:
        UserError: the folder holds no report, or a picture of a method was changed.
    """
    rendered = _render(folder)
    written = [
        name
        for name, content in (rendered.tables | rendered.figures).items()
        if not _follows(folder / name, content)
    ]
    for name in written:
        with writing(folder / name):
            (folder / name).parent.mkdir(exist_ok=True)
            write_whole(folder / name, (rendered.tables | rendered.figures)[name])
    return f"{folder}: " + (f"wrote {', '.join(written)}" if written else "nothing to change")


def _follows(path: Path, content: bytes) -> bool:
    """True of a file that :func:`check_report` accepts, drawn by this version of matplotlib."""
    if not path.is_file():
        return False
    if path.suffix != ".png":
        return path.read_bytes() == content
    try:
        drawn, pixels = _picture(path)
    except UserError:
        return False
    return drawn == _HERE and _same(pixels, content)


_HERE = f"matplotlib {mpl.__version__}"


def _same(pixels: Pixels, png: bytes) -> bool:
    """True of two pictures that look the same."""
    other = np.asarray(Image.open(BytesIO(png)).convert("RGBA"))
    if pixels.shape != other.shape:
        return False
    return int(np.abs(pixels.astype(np.int16) - other.astype(np.int16)).max()) <= LEVELS


def _require(path: Path) -> None:
    if not path.is_file():
        raise UserError(str(path), "missing", remedy=_REMEDY)


def first_difference(path: Path, content: bytes) -> str:
    """The first line of a file that is not as it should be, in words."""
    lines = path.read_bytes().splitlines()
    for number, (found, wanted) in enumerate(zip_longest(lines, content.splitlines()), 1):
        if found != wanted:
            return f"line {number}"
    return "its line ends"


def _picture(path: Path) -> tuple[str, Pixels]:
    """The program that drew a figure, and its pixels."""
    try:
        with Image.open(path) as image:
            drawn = str(image.info.get(DRAWN_WITH, "an unknown program"))
            return drawn, np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError) as error:  # what Pillow raises for a damaged file
        raise UserError(str(path), "not a whole picture", remedy=_REMEDY) from error
