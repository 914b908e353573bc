"""The tasks decode and bias on a page: tables, a figure and two sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from steps.params.methods import FAMILIES, Family
from steps.reporting.figures import (
    COLOURS,
    INK,
    OTHER,
    SOFT,
    TITLE,
    WIDTH,
    finish_bars,
    png,
    styled,
)
from steps.reporting.pictures import FOLDER
from steps.reporting.source import Evaluation, ReportSpec
from steps.reporting.summary import (
    Row,
    by_row,
    cells_of,
    figure_rows,
    model_name,
    ranked,
    row_name,
)
from steps.reporting.tables import ABSENT, Table
from steps.reporting.text import code, drawn, plain

# --- What features see, drawn: bars of each row's decodability of factors, and of its shape bias


_MOST = 100.0


def cues_figure(summary: pl.DataFrame, heading: ReportSpec) -> bytes:
    """One panel per factor, then one per cue, with one bar per row that has room. PNG."""
    order = figure_rows(summary, heading)
    panels_of = [_panels(summary, each.task, each) for each in evaluations(heading)]
    with styled():
        height = (0.2 * order.height + 0.75) * len(panels_of)
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(len(panels_of), len(FACTORS), sharey=True, squeeze=False)
        for line, chosen in zip(grid, panels_of, strict=True):
            for panel, (title, values) in zip(line, chosen.items(), strict=False):
                _bars(panel, order, values)
                panel.set_title(drawn(title), **TITLE)
                if title.startswith("against"):
                    panel.axvline(_MOST / 2, color=SOFT, linewidth=1.0, linestyle=":", zorder=0)
            for panel in line[len(chosen) :]:
                panel.set_visible(False)
            names = [drawn(row_name(row, heading)) for row in order.iter_rows(named=True)]
            line[0].set_yticks(range(len(names)), names, fontsize=8.5, color=INK)
            line[0].set_ylim(len(names) - 0.4, -0.6)
        return png(figure)


def _panels(
    summary: pl.DataFrame, task: str, evaluation: Evaluation
) -> dict[str, Mapping[Row, float | None]]:
    """Values of each panel of a task, by its title."""
    if task == "bias":
        return {
            f"against {cue}": {
                row: bias for row, (bias, _) in biases(summary, evaluation, cue).items()
            }
            for cue in CUES
        }
    return {name: _means(summary, evaluation, factor) for factor, name in FACTORS.items()}


def _bars(panel: Axes, order: pl.DataFrame, values: Mapping[Row, float | None]) -> None:
    for place, row in enumerate(order.iter_rows(named=True)):
        value = values.get((row["recipe"], row["backbone"]))
        if value is not None:
            panel.barh(place, value, height=0.7, color=COLOURS.get(row["kind"], OTHER))
        panel.annotate(
            ABSENT if value is None else f"{value:.0f}",
            (value or 0.0, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=7.5,
            color=INK,
            path_effects=[withStroke(linewidth=2.0, foreground="white")],
        )
    panel.set_xlim(0, _MOST * 1.18)
    panel.set_xticks([0, 50, 100])
    finish_bars(panel)


# --- What features see in words: the bias table, and two sentences on families of methods


FILE = f"{FOLDER}/cues.png"
"""Path in the report: in the folder of pictures, which is one output of the engines' rule."""
FACTORS = {
    "outline": "outline",
    "texture": "texture",
    "colour": "colour",
    "ground_colour": "ground's colour",
    "ground_texture": "ground's texture",
}
"""The metrics of decode, with names for readers."""
CUES = ("texture", "colour", "ground")
"""Cues that contradict the outline."""
BY = {"": "linear", "_knn": "k-NN"}
"""The classifiers of bias by the suffixes of their metrics."""
DECIDED = 50.0
"""Smallest percentage of images given to either class for which a bias is stated."""
_ANSWERED: dict[Family, str] = {
    "contrastive": "contrastive methods",
    "masked": "masked methods",
    "position": "position methods",
    "untrained": "random weights",
}


def evaluations(heading: ReportSpec) -> list[Evaluation]:
    """Decode and bias, where the experiment has them, each by its first protocol."""
    return [
        Evaluation(task, heading.tasks[task][0])
        for task in ("decode", "bias")
        if task in heading.tasks
    ]


def shape_bias(outline: float, other: float) -> float | None:
    """Percentage of decisions for the outline; None if too few images are decided.

    Args:
        outline, other: percent of all images that are given to the class of the outline, and to a
            class of the cue that contradicts it.
    """
    both = outline + other
    return None if both < DECIDED else 100 * outline / both


def biases(
    summary: pl.DataFrame, evaluation: Evaluation, cue: str, end: str = ""
) -> dict[Row, tuple[float | None, float]]:
    """The shape bias of each row against a cue, and its percentage of decided images.

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


def bias_table(summary: pl.DataFrame, heading: ReportSpec, evaluation: Evaluation) -> Table:
    """One row per method and backbone in the ranking's order, one column per cue and classifier."""
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
    "Shape bias: the percentage of decisions for the outline, among images that were given to the "
    "class of the outline or to the class of the cue that contradicts it. Brackets hold the "
    f"percentage of all images that these are; below {DECIDED:.0f}, no bias is given ({ABSENT}). "
    "[results.csv](results.csv) has both shares."
)


def cues_section(summary: pl.DataFrame, heading: ReportSpec) -> list[str]:
    """The section and its figure; nothing if the experiment has neither task."""
    if not evaluations(heading):
        return []
    said = [*_told(summary, heading), *_followed(summary, heading)]
    return [
        "## What features see\n",
        *(f"{sentence}\n" for sentence in said),
        "Top: percentage of images whose factor a linear probe names. Bottom: shape bias of a "
        "linear probe; the dotted line marks 50 %. Rows are in the order of the ranking.\n",
        f"![Decodability of factors and shape bias of each row]({FILE})\n",
    ]


def _told(summary: pl.DataFrame, heading: ReportSpec) -> list[str]:
    """Factors that each family recognises."""
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
        "Where factors are independent, a linear probe names them on these percentages of images "
        f"(medians of each family's rows): {'; '.join(said)}."
    ]


def _followed(summary: pl.DataFrame, heading: ReportSpec) -> list[str]:
    """Share of decisions for the outline, per family."""
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
        "Where one cue contradicts the outline, the outline wins these shares of the images given "
        f"to either: {'; '.join(said)}."
    ]


def _families(
    summary: pl.DataFrame, heading: ReportSpec, evaluation: Evaluation
) -> dict[Family, list[Row]]:
    """The rows of each family in the sentences, without collapsed ones."""
    found: dict[Family, list[Row]] = {}
    ordered = ranked(summary, heading).select("recipe", "backbone")
    mine = by_row(cells_of(summary, evaluation))
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


def _name(family: Family, rows: Sequence[Row], heading: ReportSpec) -> str:
    names = ", ".join(code(model_name(*row, heading)) for row in rows)
    return f"{plain(_ANSWERED[family])} ({names})"


def _listed(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _means(summary: pl.DataFrame, evaluation: Evaluation, metric: str) -> dict[Row, float]:
    cells = by_row(cells_of(summary, evaluation, metric=metric))
    return {row: cell["mean"] for row, cell in cells.items()}
