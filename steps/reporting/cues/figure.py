"""What features see, drawn: bars of each row's decodability of factors, and of its shape bias."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from steps.reporting.canvas import (
    COLOURS,
    GRID,
    INK,
    OTHER,
    SOFT,
    TITLE,
    WIDTH,
    png,
    styled,
)
from steps.reporting.cues.section import CUES, FACTORS, Row, biases, evaluations
from steps.reporting.escape import drawn
from steps.reporting.source import Evaluation, Heading
from steps.reporting.tables import ABSENT, cells_of, figure_rows, row_name

_MOST = 100.0


def cues_figure(summary: pl.DataFrame, heading: Heading) -> bytes:
    """A panel a factor, then a panel a cue, with a bar a row that there is room for. PNG."""
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
    """What each panel of a task shows, by its title."""
    if task == "bias":
        return {
            f"against {cue}": {
                row: bias for row, (bias, _) in biases(summary, evaluation, cue).items()
            }
            for cue in CUES
        }
    return {
        name: {
            (cell["recipe"], cell["backbone"]): cell["mean"]
            for cell in cells_of(summary, evaluation, metric=factor).iter_rows(named=True)
        }
        for factor, name in FACTORS.items()
    }


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
    panel.grid(axis="x", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0)
    panel.spines["bottom"].set_visible(False)
