"""The figure of who beats whom: a matrix an evaluation, from simultaneous intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from steps.reporting.canvas import GRID, INK, SOFT, TITLE, WIDTH, png, styled
from steps.reporting.confidence import Confidence, Row
from steps.reporting.escape import drawn
from steps.reporting.pictures import FOLDER
from steps.reporting.source import Heading
from steps.reporting.tables import figure_rows, row_name

FILE = f"{FOLDER}/apart.png"
BETTER, WORSE, SAME = "#0072B2", "#E69F00", "#F2F3F5"
MOST_PANELS, COLUMNS = 9, 3


def apart_figure(
    summary: pl.DataFrame, heading: Heading, known: Sequence[Confidence]
) -> bytes | None:
    """A square per evaluation: whether the row is resolved better or worse than the column. PNG.

    Args:
        summary: of the records.
        heading: the experiment.
        known: the evaluations, of which the first ones are drawn.

    Returns:
        None where nothing is there to compare.
    """
    shown = [each for each in known if len(each.rows) > 1][:MOST_PANELS]
    if not shown:
        return None
    order = figure_rows(summary, heading)
    rows = {
        (str(row["recipe"]), str(row["backbone"])): drawn(row_name(row, heading))
        for row in order.iter_rows(named=True)
    }
    columns = min(COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    side = max(1.6, min(WIDTH / columns - 0.4, 0.22 * len(rows)))
    with styled():
        size = (WIDTH, lines * (side + 1.1) + 0.3)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(lines, columns, squeeze=False).flatten()
        for panel, each in zip(panels, shown, strict=False):
            names = [name for row, name in rows.items() if row in each.place]
            panel.imshow(
                _cells(each, [row for row in rows if row in each.place]),
                cmap=ListedColormap([WORSE, SAME, BETTER, GRID]),
                vmin=-1,
                vmax=2,
                interpolation="nearest",
            )
            ticks = range(len(names))
            panel.set_yticks(ticks, names, fontsize=6.5, color=INK)
            panel.set_xticks(ticks, names, fontsize=6.5, color=INK, rotation=90)
            panel.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
            panel.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
            panel.grid(which="minor", color="white", linewidth=1.0)
            panel.tick_params(which="both", length=0)
            panel.spines[:].set_visible(False)
            title = f"{drawn(heading.label(each.evaluation))} {drawn(each.metric)}"
            panel.set_title(title, **TITLE)
        for panel in panels[len(shown) :]:
            panel.set_visible(False)
        marks = [
            Patch(color=colour, label=label)
            for colour, label in (
                (BETTER, "row is better than column"),
                (WORSE, "row is worse"),
                (SAME, "cannot be told apart"),
            )
        ]
        figure.legend(
            handles=marks,
            loc="outside lower right",
            ncols=3,
            frameon=False,
            fontsize=8.5,
            labelcolor=SOFT,
        )
        return png(figure)


def _cells(confidence: Confidence, rows: Sequence[Row]) -> np.ndarray[tuple[int, int], np.dtype]:
    """1 better, -1 worse, 0 neither, 2 on the diagonal."""
    places = [confidence.place[row] for row in rows]
    above = confidence.above[np.ix_(places, places)].astype(np.int8)
    cells = above - above.T
    np.fill_diagonal(cells, 2)
    return cells
