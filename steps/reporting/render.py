"""Render a source to the files of its page, and write them into a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from steps.artifacts.publish import write_whole
from steps.command import UserError
from steps.command.machine import writing
from steps.reporting.confidence import Confidences, confidences
from steps.reporting.cues import FILE as CUES_FIGURE
from steps.reporting.cues import cues_figure, evaluations
from steps.reporting.decided import DECISIONS, IMAGES
from steps.reporting.figures import (
    COMPUTE_FILE,
    apart_figure,
    compute_figure,
    curves_figure,
    ranking_figure,
)
from steps.reporting.figures import FILE as APART_FIGURE
from steps.reporting.markdown import page
from steps.reporting.pictures import FOLDER, PICTURES, Picture, pictures_json
from steps.reporting.scaling import study
from steps.reporting.scaling.figure import FILE as SCALING_FIGURE
from steps.reporting.scaling.figure import scaling_figure
from steps.reporting.source import CURVES, HEADING, RECORDS, Source, source_files
from steps.reporting.summary import figure_methods, results_csv, summarize

PAGE, RESULTS, RANKING_FIGURE, CURVES_FIGURE = (
    "README.md",
    "results.csv",
    "ranking.png",
    "curves.png",
)


def check_folder(out: Path) -> None:
    """Refuse a folder in which the user's own files would be lost.

    Raises:
        UserError: it holds a file that no report has.
    """
    if not out.exists() or is_report(out):
        return
    allowed = "the folder of a report, an empty one, or nothing"
    remedy = "give another --out"
    if not out.is_dir():
        raise UserError(str(out), "a file", allowed=allowed, remedy=remedy)
    # Before a rule runs again, engines remove its outputs, such as the page.
    ours = {RESULTS, RECORDS, CURVES, PICTURES, RANKING_FIGURE, CURVES_FIGURE, DECISIONS, IMAGES}
    for path in sorted(out.iterdir()):
        empty = path.name == FOLDER and path.is_dir() and not any(path.iterdir())
        if path.name not in ours and not empty and not path.name.startswith("."):
            raise UserError(
                str(out), f"no report, and it holds {path.name}", allowed=allowed, remedy=remedy
            )


def is_report(folder: Path) -> bool:
    """True if a report stands in a folder."""
    try:
        heading = json.loads((folder / HEADING).read_bytes())
        return bool({"title", "methods", "backbones"} <= heading.keys())
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def render_tables(
    source: Source, pictures: Sequence[Picture] = (), sure: Confidences | None = None
) -> dict[str, bytes]:
    """README.md and results.csv: a pure function of the source and the list of pictures.

    Args:
        source: the records and decisions.
        pictures: the list.
        sure: confidences of ``source``, if known already.
    """
    summary = summarize(source.records())
    sure = confidences(source, summary) if sure is None else sure
    text = page(source, summary, pictures, sure, with_curves=not source.curves.is_empty())
    return {PAGE: text.encode(), RESULTS: results_csv(summary)}


def render_figures(source: Source, sure: Confidences | None = None) -> dict[str, bytes]:
    """The figures, by file name: a pure function of the source and the matplotlib version.

    Args:
        source: the records and decisions.
        sure: confidences of ``source``, if known already.
    """
    summary = summarize(source.records())
    sure = confidences(source, summary) if sure is None else sure
    files = {RANKING_FIGURE: ranking_figure(summary, source.heading, sure.known)}
    kinds = {item.records[0].recipe: item.records[0].kind for item in source.traced}
    shown = figure_methods(source.trained, summary, source.heading)
    files[CURVES_FIGURE] = curves_figure(source.curves, kinds, source.heading, shown)
    if over_compute := compute_figure(source, shown):
        files[COMPUTE_FILE] = over_compute
    if source.heading.scaling and study.evaluations(summary, source.heading):
        files[SCALING_FIGURE] = scaling_figure(summary, source.heading)
    if matrices := apart_figure(summary, source.heading, list(sure.known.values())):
        files[APART_FIGURE] = matrices
    if evaluations(source.heading):
        files[CUES_FIGURE] = cues_figure(summary, source.heading)
    return files


def write_report(
    source: Source,
    out: Path,
    pictures: Sequence[Picture] = (),
    drawn: Mapping[str, bytes] | None = None,
) -> None:
    """Render a source into ``out``, each file whole or unchanged; remove older pictures.

    Args:
        source: the records.
        out: the report's folder.
        pictures: the list of its pictures.
        drawn: their files' content by name.

    Raises:
        UserError: the folder holds a file that no report has, or the disk refuses the write.
    """
    check_folder(out)
    drawn = drawn or {}
    sure = confidences(source, summarize(source.records()))
    files = {
        **source_files(source),
        PICTURES: pictures_json(pictures),
        **render_tables(source, pictures, sure),
        **render_figures(source, sure),
    }
    files |= {f"{FOLDER}/{name}": content for name, content in drawn.items()}
    for name, content in files.items():
        with writing(out / name):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(out / name, content)
    # The folder is an output of the engines' rule, with or without pictures.
    (out / FOLDER).mkdir(exist_ok=True)
    for old in (out / FOLDER).iterdir():
        if f"{FOLDER}/{old.name}" not in files:
            old.unlink()
