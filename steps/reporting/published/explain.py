"""The origin of a cell of the published tables, as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.command import UserError
from steps.reporting.explain import file_text
from steps.reporting.published.data import (
    BOX,
    MASK,
    ONE_SOURCE,
    RANKING,
    RESULTS,
    Published,
    beside_coco,
    beside_ranking,
    measurements,
    read_published,
    reports_beside,
)
from steps.reporting.tables import score
from steps.reporting.text import visible

CELLS = {"imagenet": ("score", "audited", "measured"), "coco": ("box", "mask", "measured")}
_FORM = "<folder>/<imagenet or coco>/<#>[/<cell>]"


def explain_published(folder: Path, cell: Path) -> str:
    """The origin of a row such as ``imagenet/2``, or of a cell such as ``imagenet/2/audited``.

    Args:
        folder: of the published figures.
        cell: a path below it.

    Raises:
        UserError: there is no such row or cell.
    """
    published = read_published(folder)
    parts = cell.relative_to(folder).parts
    if len(parts) not in (2, 3) or parts[0] not in CELLS:
        raise UserError(str(cell), "no cell of the published tables", allowed=_FORM)
    table, row, *rest = parts
    count = (published.ranking if table == "imagenet" else published.coco).height
    if not row.isdecimal() or not 1 <= int(row) <= count:
        raise UserError(str(cell), f"no row {row}", allowed=f"{table}/1 to {table}/{count}")
    if rest and rest[0] not in CELLS[table]:
        raise UserError(str(cell), f"no cell {rest[0]}", allowed=", ".join(CELLS[table]))
    wanted = rest or CELLS[table]
    return "\n".join(text for name in wanted for text in _texts(published, table, int(row), name))


def _texts(published: Published, table: str, row: int, cell: str) -> Iterable[str]:
    if cell == "measured":
        return _measured(published, table, row)
    if table == "coco":
        found = published.figures.join(
            published.coco.filter(row=row), on=ONE_SOURCE, how="semi"
        ).filter(task=BOX if cell == "box" else MASK)
        figures = [_figure(published, figure) for figure in found.iter_rows(named=True)]
        return figures or [f"{cell} AP: not published\n"]
    place = published.ranking.row(row - 1, named=True)
    if cell == "audited":
        title = f"audited: {place['source_value']}, in {place['source_ref']}"
        audited = published.audited(row).iter_rows(named=True)
        return [_entry(title, {}), *(_figure(published, figure) for figure in audited)]
    title = " / ".join(place[name] for name in ("model", "type", "scale", "score", "epoch"))
    lines = {
        "file": f"{published.folder / RANKING}, line {place['line']}",
        "verdict": place["verdict"],
        "reason": place["reason"],
        "sources": place["source_ref"],
    }
    return [_entry(f"as given: {title} epochs", lines)]


def _measured(published: Published, table: str, row: int) -> list[str]:
    records = measurements(reports_beside(published.folder))
    beside = beside_ranking if table == "imagenet" else beside_coco
    found = beside(published, records).filter(row=row)
    if found.is_empty():
        return ["measured: no record of this method, scale and task\n"]
    return [
        f"measured: {score(row)} {row['unit']}, report {each.report}\n"
        f"{file_text(each.results, each.traced, [each.record])}"
        for row in found.iter_rows(named=True)
        for each in (records[position] for position in row["position"])
    ]


def _figure(published: Published, figure: dict[str, Any]) -> str:
    return _entry(
        f"published: {figure['value']} {figure['unit']}, {figure['task']}",
        {
            "file": f"{published.folder / RESULTS}, line {figure['line']}",
            "method": f"{figure['method']} ({figure['family']})",
            "backbone": figure["backbone"],
            "pretraining": f"{figure['pretrain_data']}, {figure['pretrain_epochs'] or '?'} epochs",
            "protocol": figure["protocol"],
            "resolution": figure["resolution"],
            "source": figure["source_title"],
            "where": figure["source_ref"],
            "note": figure["note"],
        },
    )


def _entry(title: str, lines: dict[str, str]) -> str:
    body = [f"  {name:<12} {text}" for name, text in lines.items() if text]
    return "".join(f"{visible(line)}\n" for line in (title, *body))
