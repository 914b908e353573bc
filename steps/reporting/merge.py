"""Merge reports of one experiment whose seeds ran on other machines or at other times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import polars as pl

from steps.command import UserError
from steps.params.load import shortened
from steps.reporting.decided import TABLE
from steps.reporting.pictures import FOLDER, check_pictures, read_pictures
from steps.reporting.render import check_folder, render_figures, write_report
from steps.reporting.source import HEADING, RECORDS, Source, TracedRecord, make_source, read_source

_OWN = {"seeds", "experiment", "results", "out"}
"""Keys of a spec that may differ between the reports."""
_CELL = ["recipe", "backbone", "seed"]


def merge_reports(folders: Sequence[Path], out: Path, printed: str) -> str:
    """Write one report of the seeds of several.

    Pictures are those of the first seed, as in any report.

    Args:
        folders: reports of one experiment, each with seeds of its own.
        out: folder of the report to write; it may be one of them.
        printed: name of ``out`` in the commands that the page prints.

    Returns:
        One line that says what was merged.

    Raises:
        UserError: as :func:`merged`; or a picture is not the one that its report lists, or ``out``
            holds files that no report has.
    """
    check_folder(out)
    sources = {folder: read_source(folder) for folder in folders}
    source = merged(sources, printed)
    (first,) = (folder for folder in sources if source.heading.seeds[0] in _seeds(sources[folder]))
    pictures = read_pictures(first)
    check_pictures(first, pictures, render_figures(sources[first]))
    drawn = {each.file: (first / FOLDER / each.file).read_bytes() for each in pictures}
    write_report(source, out, pictures, drawn)
    seeds = ", ".join(map(str, source.heading.seeds))
    return f"{out}: seeds {seeds}, of {len(sources)} reports"


def merged(sources: Mapping[Path, Source], printed: str) -> Source:
    """The source of an experiment with the seeds of all.

    It equals what :func:`steps.reporting.collect.collect` would read if all results lay in one
    place.

    Args:
        sources: source of each report, by its folder.
        printed: as for :func:`merge_reports`.

    Raises:
        UserError: there is one report alone, or two differ in the experiment, in the params or
            images of a row or an evaluation, or have a seed in common.
    """
    if len(sources) < 2:
        raise UserError(
            "--merge", ", ".join(map(str, sources)), allowed="two reports or more, each named once"
        )
    first = next(iter(sources.values()))
    for one, other in combinations(sources, 2):
        _check_specs(sources, one, other)
    _check_settings(sources)
    seeds = tuple(sorted(seed for each in sources.values() for seed in _seeds(each)))
    heading = first.heading.model_copy(update={"seeds": seeds, "out": printed})
    curves = _in_order(
        pl.concat(each.curves for each in sources.values()),
        ["backbone", "recipe", "seed"],
        product(heading.backbones, heading.methods, seeds),
    )
    made = make_source(heading, [item for each in sources.values() for item in each.traced], curves)
    # Sorted as the records are, since a report that was collected at once is.
    decisions = _in_order(
        pl.concat(each.decisions for each in sources.values()),
        [*TABLE, *_CELL],
        (
            (*heading.evaluation_of(record), *(getattr(record, key) for key in _CELL))
            for record in (item.records[0] for item in made.traced)
        ),
    )
    images = _in_order(
        pl.concat(each.images for each in sources.values()).unique("images", maintain_order=True),
        ["images"],
        ((digest,) for digest in decisions["images"].unique(maintain_order=True)),
    )
    return replace(made, decisions=decisions, images=images)


def _seeds(source: Source) -> tuple[int, ...]:
    return source.heading.seeds


def _in_order(
    frame: pl.DataFrame, keys: list[str], order: Iterable[tuple[Any, ...]]
) -> pl.DataFrame:
    """Rows of a frame by groups of equal keys, in the order given; the rows of a group stay."""
    groups = frame.partition_by(keys, as_dict=True, maintain_order=True)
    return pl.concat([frame.clear(), *(groups[key] for key in order if key in groups)])


def _check_specs(sources: Mapping[Path, Source], one: Path, other: Path) -> None:
    """Two reports are of one experiment, and have no seed in common."""
    if common := sorted({*_seeds(sources[one])} & {*_seeds(sources[other])}):
        raise UserError(
            str(other / HEADING),
            f"has seed {common[0]}, as {one} has",
            allowed="each seed in one report",
            remedy="leave one of the two reports out, or run the experiment with other seeds",
        )
    specs = [sources[folder].heading.model_dump(exclude=_OWN) for folder in (one, other)]
    for key, wanted in specs[0].items():
        if (found := specs[1][key]) != wanted:
            raise UserError(
                f"{other / HEADING}: {key}",
                shortened(str(found), 300),
                allowed=f"{shortened(str(wanted), 300)}, as in {one}",
                remedy="merge reports of one experiment, which differ in seeds alone",
            )


def _check_settings(sources: Mapping[Path, Source]) -> None:
    """A row has the same params and images in every report, and so has an evaluation."""
    seen: dict[tuple[Any, ...], tuple[Path, Any]] = {}
    for folder, source in sources.items():
        for item in source.traced:
            for key, found in _settings(source, item):
                first, wanted = seen.setdefault(key, (folder, found))
                if found != wanted:
                    *names, subject = key
                    raise UserError(
                        f"{folder / RECORDS}: {'/'.join(names)}",
                        f"other {subject} than in {first}",
                        allowed="the same in all reports",
                        remedy="run one of the two again with the params and data of the other",
                    )


def _settings(source: Source, item: TracedRecord) -> list[tuple[tuple[Any, ...], Any]]:
    """Params and images that have to be the same at every seed, each with a key that names it."""
    record = item.records[0]
    row = (record.recipe, record.backbone)
    evaluation = source.heading.evaluation_of(record)
    table = tuple(filter(None, evaluation))
    # Bits and draws of two seeds are compared image by image.
    same = (pl.col(key) == value for key, value in zip(TABLE, evaluation, strict=True))
    decided = source.decisions.filter(*same)
    return [
        ((*row, "params of pretraining"), item.pretrained.params),
        ((*row, "images of pretraining"), item.pretrained.inputs.get("data")),
        ((*table, "params"), item.measured.params),
        ((*table, "images"), item.measured.inputs.get("data")),
        ((*table, "images that were decided"), sorted(decided["images"].unique())),
    ]
