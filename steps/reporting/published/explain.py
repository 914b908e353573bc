"""Where a cell of the published tables comes from, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steps.command import UserError
from steps.reporting.explain import file_text
from steps.reporting.published.data import (
    RANKING,
    RESULTS,
    Figure,
    Published,
    Score,
    beside_pair,
    beside_place,
    measurements_beside,
    read_published,
)
from steps.reporting.text import visible

CELLS = {"imagenet": ("score", "audited", "measured"), "coco": ("box", "mask", "measured")}
_FORM = "<folder>/<imagenet or coco>/<#>[/<cell>]"


def explain_published(folder: Path, cell: Path) -> str:
    """What stands behind a row such as ``imagenet/2``, or a cell such as ``imagenet/2/audited``.

    Args:
        folder: of the published figures.
        cell: a path below it.

    Raises:
        UserError: there is no such row or cell.
    """
    published = read_published(folder)
    parts = cell.relative_to(folder).parts
    counts = {"imagenet": len(published.ranking), "coco": len(published.detection())}
    if len(parts) not in (2, 3) or parts[0] not in CELLS:
        raise UserError(str(cell), "no cell of the published tables", allowed=_FORM)
    table, row, *rest = parts
    if not row.isdecimal() or not 1 <= int(row) <= counts[table]:
        raise UserError(str(cell), f"no row {row}", allowed=f"{table}/1 to {table}/{counts[table]}")
    if rest and rest[0] not in CELLS[table]:
        raise UserError(str(cell), f"no cell {rest[0]}", allowed=", ".join(CELLS[table]))
    wanted = rest or list(CELLS[table])
    explain = _imagenet if table == "imagenet" else _coco
    return "\n".join(text for name in wanted for text in explain(published, int(row) - 1, name))


def _imagenet(published: Published, index: int, cell: str) -> list[str]:
    place = published.ranking[index]
    if cell == "score":
        lines = {
            "file": f"{published.folder / RANKING}, line {place.line}",
            "verdict": place.verdict,
            "reason": place.reason,
            "sources": place.source_ref,
        }
        title = f"as given: {place.model} / {place.type} / {place.scale} / {place.score}"
        return [_entry(f"{title} / {place.epoch} epochs", lines)]
    if cell == "audited":
        figures = published.behind(place)
        title = f"audited: {place.source_value}, in {place.source_ref}"
        return [_entry(title, {}), *(_figure(published, figure) for figure in figures)]
    found = measurements_beside(published.folder)
    return _measured(beside_place(place, published.matching, found))


def _coco(published: Published, index: int, cell: str) -> list[str]:
    pair = published.detection()[index]
    if cell == "measured":
        rule, found = published.matching, measurements_beside(published.folder)
        both = [beside_pair(pair, m, rule, found) for m in (rule.coco.box, rule.coco.mask)]
        return _measured([score for scores in both for score in scores])
    figure = pair.box if cell == "box" else pair.mask
    return [f"{cell} AP: not published\n" if figure is None else _figure(published, figure)]


def _figure(published: Published, figure: Figure) -> str:
    return _entry(
        f"published: {figure.value} {figure.unit}, {figure.task}",
        {
            "file": f"{published.folder / RESULTS}, line {figure.line}",
            "method": f"{figure.method} ({figure.family})",
            "backbone": figure.backbone,
            "pretraining": f"{figure.pretrain_data}, {figure.pretrain_epochs or '?'} epochs",
            "protocol": figure.protocol,
            "resolution": figure.resolution,
            "source": figure.source_title,
            "where": figure.source_ref,
            "note": figure.note,
        },
    )


def _entry(title: str, lines: dict[str, str]) -> str:
    body = [f"  {name:<12} {text}" for name, text in lines.items() if text]
    return "".join(f"{visible(line)}\n" for line in (title, *body))


def _measured(scores: Sequence[Score]) -> list[str]:
    if not scores:
        return ["measured: no record of this method, scale and task\n"]
    return [
        f"measured: {score.text()} {score.first.record.unit}, "
        f"report {each.report.name}\n{file_text(each.results, each.traced, [each.record])}"
        for score in scores
        for each in score.measurements
    ]
