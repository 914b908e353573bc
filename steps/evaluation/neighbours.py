"""A contact sheet of images with their nearest neighbours: a picture, and a page without links."""

from __future__ import annotations

import base64
import heapq
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from steps.data.sources.source import Item
from steps.data.views import centre_crop
from steps.evaluation.embeddings import picture_of, read_rows

DUPLICATE = 0.99
"""Cosine above which two images are listed as near-duplicates."""
QUERIES = 16
LISTED = 200
"""Near-duplicates that the page names, the closest ones; all are counted."""
EVERY_PAIR = 50_000
"""Images up to which every pair is compared, with all embeddings in memory; above, queries only."""
_SIDE, _GAP, _TEXT = 112, 6, 14
_NAME = 16
"""Characters of a name that fit below a picture."""
_CHUNK = 1024
_EPS = 1e-12


@dataclass(frozen=True)
class Neighbours:
    """Nearest images, by the cosine of class tokens. Images are rows of the embeddings."""

    queries: list[int]
    nearest: list[list[tuple[float, int]]]
    """For each query its nearest images with their cosine, the nearest first."""
    duplicates: list[tuple[float, int, int]]
    """The closest near-duplicates, at most LISTED."""
    count: int
    """Near-duplicates in all."""
    every_pair: bool
    """False: only pairs with a query were looked at."""


def find_neighbours(path: Path, names: Sequence[str], neighbours: int, queries: int) -> Neighbours:
    """Search the embeddings of a file.

    Args:
        path: the Parquet file.
        names: of its rows.
        neighbours: to find of each query.
        queries: number of images, evenly spaced; fewer where there are fewer.
    """
    total = len(names)
    chosen = torch.linspace(0, total - 1, min(queries, total)).round().long().unique()
    keys = _rows(path, chosen)
    best: list[list[tuple[float, int]]] = [[] for _ in chosen]
    pairs = _Pairs(names)
    start = 0
    for rows in read_rows(path):
        cosines = keys @ F.normalize(rows, dim=1, eps=_EPS).T
        if total > EVERY_PAIR:
            pairs.add(cosines, chosen, start)
        for place, query in enumerate(chosen.tolist()):
            if start <= query < start + len(rows):
                cosines[place, query - start] = -torch.inf
        values, indices = cosines.topk(min(neighbours, len(rows)), dim=1)
        for place, found in enumerate(best):
            here = zip(values[place].tolist(), (indices[place] + start).tolist(), strict=True)
            found += [(cosine, index) for cosine, index in here if cosine > -torch.inf]
            best[place] = heapq.nlargest(neighbours, found)
        start += len(rows)
    if total <= EVERY_PAIR:
        rows = torch.cat([F.normalize(rows, dim=1, eps=_EPS) for rows in read_rows(path)])
        for first in range(0, total, _CHUNK):
            some = torch.arange(first, min(first + _CHUNK, total))
            pairs.add(rows[some] @ rows[first:].T, some, first)
    closest = sorted(pairs.closest, key=lambda pair: (-pair[0], pair[1:]))
    return Neighbours(chosen.tolist(), best, closest, pairs.count, total <= EVERY_PAIR)


class _Pairs:
    """Near-duplicates with different names: their number, and the closest of them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.closest: list[tuple[float, int, int]] = []
        self.count = 0

    def add(self, cosines: Tensor, of: Tensor, start: int) -> None:
        """Take the pairs of some images (rows) with others (columns, from ``start`` on)."""
        others = torch.arange(start, start + cosines.shape[1])
        # Each pair once: the other one is a later image, or no query.
        fresh = (others > of.unsqueeze(1)) | ~torch.isin(others, of).expand_as(cosines)
        near = (cosines > DUPLICATE) & fresh
        found = cosines[near]
        places = near.nonzero()
        if len(found) > 50 * LISTED:  # a network that knows nothing calls everything the same
            self.count += len(found) - 50 * LISTED
            found, kept = found.topk(50 * LISTED)
            places = places[kept]
        for cosine, (row, column) in zip(found.tolist(), places.tolist(), strict=True):
            pair = (cosine, int(of[row]), int(others[column]))
            if self._names[pair[1]] != self._names[pair[2]]:
                self.count += 1
                self.closest.append(pair)
        self.closest = heapq.nlargest(LISTED, self.closest)


def _rows(path: Path, chosen: Tensor) -> Tensor:
    """Normalised embeddings of some images, (Q, D)."""
    start, found = 0, []
    for rows in read_rows(path):
        here = chosen[(chosen >= start) & (chosen < start + len(rows))] - start
        found.append(rows[here])
        start += len(rows)
    return F.normalize(torch.cat(found), dim=1, eps=_EPS)


# --- The sheet


def thumbnails(items: Sequence[Item], found: Neighbours) -> dict[int, Image.Image]:
    """Small squares of the images that a sheet shows, by row."""
    shown = {*found.queries, *(index for row in found.nearest for _, index in row)}
    shown |= {index for _, *pair in found.duplicates for index in pair}
    return {index: centre_crop(picture_of(items[index]), _SIDE, 1.0) for index in sorted(shown)}


def draw(found: Neighbours, pictures: dict[int, Image.Image]) -> bytes:
    """The sheet as a PNG: a row for each query, which stands first, with the cosines below."""
    columns = 1 + max(len(row) for row in found.nearest)
    wide, tall = _SIDE + _GAP, _SIDE + _TEXT + _GAP
    size = (columns * wide + 2 * _GAP, len(found.queries) * tall + _GAP)
    paper = Image.new("RGB", size, (255, 255, 255))
    pen = ImageDraw.Draw(paper)
    for row, (query, nearest) in enumerate(zip(found.queries, found.nearest, strict=True)):
        top = _GAP + row * tall
        paper.paste(pictures[query], (_GAP, top))
        pen.text((_GAP, top + _SIDE + 1), "query", fill=(90, 90, 90))
        for column, (cosine, index) in enumerate(nearest, start=1):
            left = 2 * _GAP + column * wide
            paper.paste(pictures[index], (left, top))
            pen.text((left, top + _SIDE + 1), f"{cosine:.3f}", fill=(90, 90, 90))
    buffer = io.BytesIO()
    paper.save(buffer, "PNG")
    return buffer.getvalue()


def page(
    found: Neighbours, pictures: dict[int, Image.Image], names: Sequence[str], title: str
) -> str:
    """The sheet as one HTML page with the pictures inside."""
    rows = []
    for query, nearest in zip(found.queries, found.nearest, strict=True):
        cells = [_figure(pictures[query], names[query], "query")]
        cells += [_figure(pictures[i], names[i], f"{cosine:.3f}") for cosine, i in nearest]
        rows.append(f'<div class="row">{"".join(cells)}</div>')
    pairs = [
        f'<div class="row">{_figure(pictures[one], names[one], f"{cosine:.4f}")}'
        f"{_figure(pictures[other], names[other], '')}</div>"
        for cosine, one, other in found.duplicates
    ]
    return _PAGE.format(
        title=html.escape(title),
        images=len(names),
        rows="\n".join(rows),
        duplicates=html.escape(duplicates_said(found)),
        pairs="\n".join(pairs),
    )


def duplicates_said(found: Neighbours) -> str:
    """Near-duplicates: their number, the pairs, and the number named."""
    among = "all pairs" if found.every_pair else "pairs with a query"
    said = f"{found.count} near-duplicates among {among} (cosine above {DUPLICATE})"
    listed = len(found.duplicates)
    return f"{said}, the closest {listed} listed" if listed < found.count else said


def _figure(picture: Image.Image, name: str, caption: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    whole = html.escape(name, quote=True)
    # The end of a name is what differs within a folder, and often all that does.
    ending = name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{whole}" title="{whole}">'
        f"<figcaption><b>{caption}</b><br>{html.escape(ending)}</figcaption></figure>"
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff; }}
.row {{ display: flex; gap: 6px; margin-bottom: 10px; overflow-x: auto; }}
figure {{ margin: 0; width: 112px; flex: none; }}
.row figure:first-child img {{ outline: 3px solid #2a6; outline-offset: -3px; }}
.pairs .row figure:first-child img {{ outline: none; }}
img {{ display: block; width: 112px; height: 112px; }}
figcaption {{ font-size: 11px; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{images} images. Each row starts with a query; its nearest images follow, with the cosine of
their class tokens. Hover over a picture for its whole name.</p>
{rows}
<h2>Near-duplicates</h2>
<p>{duplicates}.</p>
<div class="pairs">
{pairs}
</div>
</body>
</html>
"""
