"""What features see in words: the bias table, and two sentences on families of methods."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import polars as pl

from steps.params.families import FAMILIES, Family
from steps.reporting.escape import code, plain
from steps.reporting.pictures import FOLDER
from steps.reporting.source import Evaluation, Heading
from steps.reporting.tables import ABSENT, Table, cells_of, model_name, ranked, row_name

FILE = f"{FOLDER}/cues.png"
"""Below the report's folder: in the folder of pictures, which engines are promised as a whole."""
FACTORS = {
    "outline": "outline",
    "texture": "texture",
    "colour": "colour",
    "ground_colour": "ground's colour",
    "ground_texture": "ground's texture",
}
"""The metrics of decode, with their names in words."""
CUES = ("texture", "colour", "ground")
"""What contradicts the outline."""
BY = {"": "linear", "_knn": "k-NN"}
"""The classifiers of bias by the ends of their metrics."""
DECIDED = 50.0
"""Least share of images in percent that are given to either class, for a bias to be told."""
_ANSWERED: dict[Family, str] = {
    "contrastive": "contrastive methods",
    "masked": "masked methods",
    "position": "position methods",
    "untrained": "random weights",
}

Row = tuple[str, str]
"""A recipe and a backbone."""


def evaluations(heading: Heading) -> list[Evaluation]:
    """Decode and bias, where the experiment has them, each by its first protocol."""
    return [
        Evaluation(task, heading.tasks[task][0])
        for task in ("decode", "bias")
        if task in heading.tasks
    ]


def shape_bias(outline: float, other: float) -> float | None:
    """Share in percent of decisions for the outline; None where too few images are decided.

    Args:
        outline, other: percent of all images that are given to the class of the outline, and to a
            class of the cue that contradicts it.
    """
    both = outline + other
    return None if both < DECIDED else 100 * outline / both


def biases(
    summary: pl.DataFrame, evaluation: Evaluation, cue: str, end: str = ""
) -> dict[Row, tuple[float | None, float]]:
    """The shape bias against a cue, and the percent of images decided, of each row.

    Args:
        summary: a report's.
        evaluation: bias by a protocol.
        cue: one of CUES.
        end: of the metric, which names the classifier.
    """
    outline = _means(summary, evaluation, f"outline_vs_{cue}{end}")
    other = _means(summary, evaluation, f"{cue}_vs_outline{end}")
    return {
        row: (shape_bias(value, other[row]), value + other[row]) for row, value in outline.items()
    }


def bias_table(summary: pl.DataFrame, heading: Heading, evaluation: Evaluation) -> Table:
    """A row a method and backbone in the ranking's order, a column a cue and classifier."""
    columns = [(cue, end) for end in BY for cue in CUES]
    found = {each: biases(summary, evaluation, *each) for each in columns}
    rows = []
    for row in ranked(summary, heading).iter_rows(named=True):
        cells = [found[each][row["recipe"], row["backbone"]] for each in columns]
        shown = [f"{ABSENT if bias is None else f'{bias:.1f}'} ({of:.0f})" for bias, of in cells]
        rows.append([row_name(row, heading), *shown])
    titles = [f"against {cue}, {BY[end]}" for cue, end in columns]
    return Table(["Model", *titles], [False, *[True] * len(titles)], rows)


BIAS_CAPTION = (
    "Shape bias: of the images given to the class of the outline or to that of the cue that "
    "contradicts it, the percent given to the outline's. In brackets the percent of all images "
    f"that the two are; where it is below {DECIDED:.0f} there is no bias ({ABSENT}). "
    "[results.csv](results.csv) has both shares."
)


def cues_section(summary: pl.DataFrame, heading: Heading) -> list[str]:
    """What features see, with its figure; nothing where no task asks it."""
    if not evaluations(heading):
        return []
    said = [*_told(summary, heading), *_followed(summary, heading)]
    return [
        "## What features see\n",
        *(f"{sentence}\n" for sentence in said),
        "Above: percent of images whose factor a linear probe tells. Below: shape bias by a linear "
        "probe, with half as a dotted line. Rows in the ranking's order.\n",
        f"![Decodability of factors and shape bias of each row]({FILE})\n",
    ]


def _told(summary: pl.DataFrame, heading: Heading) -> list[str]:
    """Which factors each family tells."""
    if "decode" not in heading.tasks:
        return []
    evaluation = Evaluation("decode", heading.tasks["decode"][0])
    values = {factor: _means(summary, evaluation, factor) for factor in FACTORS}
    said = []
    for family, rows in _families(summary, heading, evaluation).items():
        parts = [
            f"{name} {median(values[factor][row] for row in rows):.1f}"
            for factor, name in FACTORS.items()
        ]
        said.append(f"{_name(family, rows, heading)} {_listed(parts)}")
    if not said:
        return []
    return [
        "Where no factor tells another, a linear probe tells in percent of images (medians of each "
        f"family's rows), on {'; on '.join(said)}."
    ]


def _followed(summary: pl.DataFrame, heading: Heading) -> list[str]:
    """How far each family decides by the outline."""
    if "bias" not in heading.tasks:
        return []
    evaluation = Evaluation("bias", heading.tasks["bias"][0])
    found = {cue: biases(summary, evaluation, cue) for cue in CUES}
    said = []
    for family, rows in _families(summary, heading, evaluation).items():
        parts = []
        for cue in CUES:
            known = [bias for row in rows if (bias := found[cue][row][0]) is not None]
            lacking = f" ({len(rows) - len(known)} of {len(rows)} rows undecided)"
            share = f"{median(known):.1f} %" if known else "undecided"
            parts.append(f"{share} against {cue}{lacking if 0 < len(known) < len(rows) else ''}")
        said.append(f"{_name(family, rows, heading)} {_listed(parts)}")
    if not said:
        return []
    return [
        "Where one cue contradicts the outline, the outline wins these shares of the images that "
        f"go to either, on {'; on '.join(said)}."
    ]


def _families(
    summary: pl.DataFrame, heading: Heading, evaluation: Evaluation
) -> dict[Family, list[Row]]:
    """The rows of each family that sentences are about, collapsed ones left out."""
    found: dict[Family, list[Row]] = {}
    ordered = ranked(summary, heading).select("recipe", "backbone")
    mine = {
        (cell["recipe"], cell["backbone"]): cell
        for cell in cells_of(summary, evaluation).iter_rows(named=True)
    }
    for family in _ANSWERED:
        rows = [
            row
            for row in ordered.iter_rows()
            if row in mine
            and FAMILIES.get(mine[row]["method"]) == family
            and not mine[row]["collapsed"]
        ]
        if rows:
            found[family] = rows
    return found


def _name(family: Family, rows: Sequence[Row], heading: Heading) -> str:
    names = ", ".join(code(model_name(*row, heading)) for row in rows)
    return f"{plain(_ANSWERED[family])} ({names})"


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _means(summary: pl.DataFrame, evaluation: Evaluation, metric: str) -> dict[Row, float]:
    cells = cells_of(summary, evaluation, metric=metric)
    return {(c["recipe"], c["backbone"]): c["mean"] for c in cells.iter_rows(named=True)}
