"""The figures of every report: ranking, losses, score against compute, who beats whom.

The same records give the same bytes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from types import MappingProxyType
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import polars as pl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from steps.reporting.confidence import Confidence
from steps.reporting.pictures import FOLDER
from steps.reporting.source import Evaluation, ReportSpec, Source
from steps.reporting.summary import (
    PANELS,
    Row,
    by_row,
    cells_of,
    figure_rows,
    headline,
    model_name,
    row_name,
)
from steps.reporting.text import drawn, measured

# --- How figures look, and their bytes: the same figure and the same matplotlib give the same ones


DRAWN_WITH = "Drawn with"
"""The PNG text entry that names the matplotlib version."""
COLOURS = {
    # Okabe and Ito's palette, told apart with every common colour vision deficiency.
    "Contrastive": "#0072B2",
    "Generative": "#D55E00",
    "Hybrid": "#E69F00",
    "Position": "#56B4E9",
    "Language": "#CC79A7",
    "Supervised": "#009E73",
    "Random": "#7A7A7A",
}
"""Colour of a method's type."""
OTHER = "#8C564B"
INK, SOFT, GREY, GRID = "#24292F", "#6E7781", "#B6BCC3", "#E3E6EA"
WIDTH = 9.0
_TITLES = 105
"""Characters of titles that fit side by side."""
STEPS = [1, 2, 5, 10]
TITLE: dict[str, Any] = {"fontsize": 9.5, "loc": "left", "fontweight": "bold"}
LINE_STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Set matplotlib's defaults and this style, whatever a user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def legend(
    figure: Figure, marks: Sequence[Artist], where: str = "lower right", **options: Any
) -> None:
    """The marks in a row outside the panels; ``options`` of matplotlib's legends."""
    figure.legend(
        handles=marks,
        loc=f"outside {where}",
        ncols=max(len(marks), 1),
        frameon=False,
        fontsize=8.5,
        **options,
    )


def finish(panel: Axes) -> None:
    """A pale grid behind everything, no ticks."""
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0)
    panel.spines[["left", "bottom"]].set_color(GRID)


def finish_bars(panel: Axes) -> None:
    """Pale vertical lines behind rows of bars, no ticks, no axis below."""
    panel.grid(axis="x", color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0)
    panel.spines["bottom"].set_visible(False)


def mark(label: str, **style: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=drawn(label), **style)


def png(figure: Figure) -> bytes:
    """The figure as a PNG at 200 dpi, with the name of the program that drew it."""
    file = BytesIO()
    metadata = {"Software": None, DRAWN_WITH: f"matplotlib {mpl.__version__}"}
    figure.savefig(file, format="png", dpi=200, facecolor="white", metadata=metadata)
    return file.getvalue()


# --- The two figures of every report


def ranking_figure(
    summary: pl.DataFrame,
    heading: ReportSpec,
    known: Mapping[Evaluation, Confidence] = MappingProxyType({}),
) -> bytes:
    """One panel per protocol with the headline metric of each row that fits, best of the
    ranking on top. PNG.

    Args:
        summary: of the records.
        heading: the experiment.
        known: confidence of evaluations; a panel without a difference from random weights is
            grey.
    """
    order = figure_rows(summary, heading)
    names = [drawn(row_name(row, heading)) for row in order.iter_rows(named=True)]
    with styled():
        evaluations = heading.evaluations()
        rows = math.ceil(len(evaluations) / PANELS)
        columns = math.ceil(len(evaluations) / rows)
        height = (0.27 * len(names) + 0.7) * rows + 0.35
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        for panel, evaluation in zip(panels, evaluations, strict=False):
            metric = headline(summary, evaluation)
            cells = cells_of(summary, evaluation, metric=metric)
            _score_panel(panel, order, cells, known.get(evaluation))
            # Seven panels side by side leave no room for a line.
            unit = cells["unit"][0]
            lines = heading.label(evaluation, on="\n").splitlines()
            lines.append(f"{metric} ({unit})" if unit else metric)
            title = "\n".join(broken(drawn(line), _TITLES // columns) for line in lines)
            panel.set_title(title, **TITLE)
            panel.xaxis.set_major_locator(MaxNLocator(max(3, 8 // columns), steps=STEPS))
        for panel in panels[len(evaluations) :]:
            panel.set_visible(False)
        for panel in panels[::columns]:
            panel.set_yticks(range(len(names)), names, fontsize=9, color=INK)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        _type_legend(figure, order["kind"].unique(maintain_order=True).to_list())
        return png(figure)


def broken(line: str, most: int) -> str:
    """A name in lines of at most ``most`` characters, if it has underscores to break it after."""
    place = line.rfind("_", 0, most) + 1
    if len(line) <= most or not place:
        return line
    return f"{line[:place]}\n{broken(line[place:], most)}"


def _score_panel(
    panel: Axes, order: pl.DataFrame, cells: pl.DataFrame, confidence: Confidence | None
) -> None:
    found = by_row(cells)
    unit = cells["unit"][0]
    ends = {row: _ends(cell, confidence) for row, cell in found.items()}
    reach = max(high for _, high in ends.values()) or 1.0
    grey = confidence is not None and not confidence.tells
    for place, row in enumerate(order.iter_rows(named=True)):
        cell = found.get((row["recipe"], row["backbone"]))
        if cell is None:
            continue
        colour = GREY if grey else COLOURS.get(cell["kind"], OTHER)
        mean, (low, high) = cell["mean"], ends[row["recipe"], row["backbone"]]
        panel.hlines(place, 0, mean, color=colour, linewidth=2.0, alpha=0.35)
        panel.errorbar(
            mean,
            place,
            xerr=[[mean - low], [high - mean]] if high > low else None,
            fmt="o",
            color=colour,
            ecolor=SOFT if grey else INK,
            markersize=6,
            elinewidth=1.2,
            barsabove=True,
            clip_on=False,
        )
        panel.annotate(
            measured(mean, unit),
            (high, place),
            xytext=(7, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=8.5,
            color=SOFT if grey else INK,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
    # Leave a third of the panel beyond the longest row for its number.
    lowest = min(cell["mean"] for cell in found.values())
    if lowest < 0:  # R2
        reach = max(reach, 0.0)
        panel.set_xlim(1.1 * lowest, reach + 0.36 * (reach - lowest))
    else:
        panel.set_xlim(0, reach * 1.36)
    finish_bars(panel)


def _ends(cell: dict[str, Any], confidence: Confidence | None) -> tuple[float, float]:
    """Ends of a score's line: its interval, or else one standard deviation over seeds."""
    mean, std = cell["mean"], cell["std"] or 0.0
    if confidence is None:
        return mean - std, mean + std
    place = confidence.place[cell["recipe"], cell["backbone"]]
    return min(float(confidence.low[place]), mean), max(float(confidence.high[place]), mean)


def _type_legend(figure: Figure, kinds: Sequence[str]) -> None:
    style = {"marker": "o", "linestyle": ""}
    marks = [mark(kind, color=COLOURS.get(kind, OTHER), **style) for kind in kinds]
    legend(figure, marks, handletextpad=0.2)


def curves_figure(
    curves: pl.DataFrame, kinds: dict[str, str], heading: ReportSpec, trained: Sequence[str]
) -> bytes:
    """One panel of training loss per method, one line per seed and backbone. PNG.

    Args:
        curves: frame with the columns of ``CURVES_SCHEMA``.
        kinds: each recipe's type.
        heading: the experiment.
        trained: the methods to show, which have curves.

    Returns:
        a picture that says so if nothing was trained: engines expect the file.
    """
    if not trained:
        return _nothing_trained()
    rows = math.ceil(len(trained) / 4)
    columns = math.ceil(len(trained) / rows)
    with styled():
        figure = Figure(figsize=(WIDTH, 1.95 * rows + 0.35), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, recipe in zip(panels, trained, strict=False):
            colour = COLOURS.get(kinds[recipe], OTHER)
            _loss_panel(panel, curves.filter(recipe=recipe), colour, heading)
            panel.set_title(drawn(heading.shown(recipe)), **TITLE)
        for panel in panels[len(trained) :]:
            panel.set_visible(False)
        figure.supxlabel("epoch of pretraining", fontsize=8.5, color=SOFT)
        figure.supylabel("training loss", fontsize=8.5, color=SOFT)
        if len(heading.backbones) > 1:
            _backbone_legend(figure, heading)
        return png(figure)


def _nothing_trained() -> bytes:
    with styled():
        figure = Figure(figsize=(WIDTH, 0.6))
        FigureCanvasAgg(figure)
        figure.text(0.5, 0.5, "Nothing was trained here.", ha="center", va="center", color=SOFT)
        return png(figure)


def _loss_panel(panel: Axes, curves: pl.DataFrame, colour: str, heading: ReportSpec) -> None:
    for number, backbone in enumerate(heading.backbones):
        style = LINE_STYLES[number % len(LINE_STYLES)]
        for seed in heading.seeds:
            line = curves.filter(backbone=backbone, seed=seed).drop_nulls("loss")
            epochs, losses = line["epoch"].to_list(), line["loss"]
            window = len(epochs) // 25 | 1  # odd, so that the mean is centred
            panel.plot(epochs, losses.to_list(), color=colour, linewidth=0.7, alpha=0.3)
            panel.plot(
                epochs,
                losses.rolling_mean(window, min_samples=1, center=True).to_list(),
                color=colour,
                linestyle=style,
                linewidth=1.5,
                marker="o" if len(epochs) == 1 else "",
                markersize=3,
                alpha=1.0 if len(heading.seeds) == 1 else 0.8,
            )
    _finish_panel(panel, curves)


def _finish_panel(panel: Axes, curves: pl.DataFrame) -> None:
    panel.set_xlim(0, max(curves["epoch"].to_list()))
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=STEPS))
    panel.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    finish(panel)


# --- Score against compute: the k-NN accuracy that recipes measure on the way


COMPUTE_FILE = f"{FOLDER}/compute.png"
NAME_HEIGHT = 0.13
"""Inches that a name beside a line takes."""


def compute_figure(source: Source, shown: Sequence[str]) -> bytes | None:
    """k-NN accuracy during pretraining over the FLOPs spent so far, a line per row. PNG.

    Seeds are averaged where they were measured at the same step. What teacher and tokenizer cost
    lies before a line's first point.

    Args:
        source: the records and curves.
        shown: the methods to show.

    Returns:
        None where no recipe measures k-NN on the way.
    """
    lines = compute_lines(source, shown)
    if lines.is_empty():
        return None
    heading = source.heading
    kinds = {item.records[0].recipe: item.records[0].kind for item in source.traced}
    height = max(3.0, NAME_HEIGHT * lines.n_unique(["recipe", "backbone"]) + 0.8)
    with styled():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        panel = figure.subplots()
        ends = []
        for row in itertools.product(shown, heading.backbones):
            line = lines.filter(recipe=row[0], backbone=row[1])
            if line.is_empty():
                continue
            colour = COLOURS.get(kinds[row[0]], OTHER)
            style = LINE_STYLES[heading.backbones.index(row[1]) % len(LINE_STYLES)]
            spent, accuracies = line["tflops"].to_list(), line["knn_top1"].to_list()
            panel.plot(spent, accuracies, color=colour, linestyle=style, marker="o", markersize=3)
            ends.append((accuracies[-1], spent[-1], model_name(*row, heading), colour))
        panel.set_xlim(0, None)
        panel.set_xlabel("TFLOPs spent on pretraining", fontsize=8.5, color=SOFT)
        panel.set_ylabel("k-NN top1, %", fontsize=8.5, color=SOFT)
        finish(panel)
        low, high = panel.get_ylim()
        gap = (high - low) * NAME_HEIGHT / (height - 0.8)
        ends.sort()
        places = spread_out([accuracy for accuracy, *_ in ends], gap)
        right = panel.get_xlim()[1]
        for place, (accuracy, spent, name, colour) in zip(places, ends, strict=True):
            panel.annotate(
                drawn(name),
                (spent, accuracy),
                (right * 1.01, place),
                annotation_clip=False,
                fontsize=7.5,
                va="center",
                color=colour,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "linestyle": ":"},
            )
        return png(figure)


def compute_lines(source: Source, shown: Sequence[str]) -> pl.DataFrame:
    """Points of the lines of :func:`compute_figure`.

    Returns:
        ``recipe``, ``backbone``, ``step``, ``tflops`` spent up to it and ``knn_top1`` in percent,
        both means over seeds; in the order of the steps.
    """
    costs = [
        (first.recipe, first.backbone, first.seed, first.epochs, first.flops, behind)
        for first, behind in (
            (item.records[0], item.behind.get("flops", 0.0)) for item in source.traced
        )
    ]
    names = ["recipe", "backbone", "seed", "epochs", "flops", "behind"]
    cost = pl.DataFrame(costs, schema=names, orient="row").unique(names[:3], keep="first")
    return (
        source.curves.drop_nulls("knn_top1")
        .filter(pl.col("recipe").is_in(list(shown)))
        .join(cost, on=names[:3])
        .with_columns(
            tflops=(pl.col("behind") + pl.col("flops") * pl.col("epoch") / pl.col("epochs")) / 1e12
        )
        .group_by("recipe", "backbone", "step")
        .agg(pl.col("tflops").mean(), pl.col("knn_top1").mean())
        .sort("recipe", "backbone", "step")
    )


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved apart to at least a gap, as little as pushing neighbours allows."""
    groups: list[list[float]] = []  # of places that touch: [middle, number]
    for place in places:
        groups.append([place, 1])
        while len(groups) > 1:
            (middle, count), (last, more) = groups[-2:]
            if last - middle >= gap * (count + more) / 2:
                break
            total = count + more
            groups[-2:] = [[(middle * count + last * more) / total, total]]
    return [
        middle + gap * (number - (count - 1) / 2)
        for middle, count in groups
        for number in range(int(count))
    ]


def _backbone_legend(figure: Figure, heading: ReportSpec) -> None:
    marks = [
        mark(backbone, color=SOFT, linestyle=LINE_STYLES[number % 4])
        for number, backbone in enumerate(heading.backbones)
    ]
    legend(figure, marks)


# --- Pairwise comparisons: one matrix per evaluation, from simultaneous intervals


FILE = f"{FOLDER}/apart.png"
BETTER, WORSE, SAME = "#0072B2", "#E69F00", "#F2F3F5"
MOST_PANELS, COLUMNS = 9, 3


def apart_figure(
    summary: pl.DataFrame, heading: ReportSpec, known: Sequence[Confidence]
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
        # Names stand upright below a panel, its title above.
        names_height = max(0.75, 0.056 * max(map(len, rows.values())))
        size = (WIDTH, lines * (side + names_height + 0.35) + 0.3)
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
            Patch(color=BETTER, label="row is better than column"),
            Patch(color=WORSE, label="row is worse"),
            Patch(color=SAME, label="cannot be told apart"),
        ]
        legend(figure, marks, labelcolor=SOFT)
        return png(figure)


def _cells(confidence: Confidence, rows: Sequence[Row]) -> np.ndarray[tuple[int, int], np.dtype]:
    """1 better, -1 worse, 0 neither, 2 on the diagonal."""
    places = [confidence.place[row] for row in rows]
    above = confidence.above[np.ix_(places, places)].astype(np.int8)
    cells = above - above.T
    np.fill_diagonal(cells, 2)
    return cells
