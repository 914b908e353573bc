"""Error against compute, one panel per score: every run, and each method's power law."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from steps.reporting.figures import (
    COLOURS,
    OTHER,
    SOFT,
    TITLE,
    WIDTH,
    finish,
    legend,
    mark,
    png,
    styled,
)
from steps.reporting.pictures import FOLDER
from steps.reporting.scaling import study
from steps.reporting.source import ReportSpec
from steps.reporting.summary import headline
from steps.reporting.text import drawn, flops_unit, significant

FILE = f"{FOLDER}/scaling.png"
"""Path in the report: in the folder of pictures, which is one output of the engines' rule."""
_MARKERS = "os^DvP"
_DENSE = 20.0
"""Ratio of the largest compute to the least below which ticks stand at 2 and 5 too."""
_SIZES = (4.0, 9.0)
"""Marker sizes in points of the smallest and the largest backbone."""


def scaling_figure(summary: pl.DataFrame, heading: ReportSpec) -> bytes:
    """One panel per score that has an error. PNG."""
    chosen = study.evaluations(summary, heading)
    names = study.methods(heading)
    kinds = _kinds(summary, heading)
    with styled():
        figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(chosen), squeeze=False).flatten()
        for panel, evaluation in zip(panels, chosen, strict=True):
            runs = study.runs(summary, heading, evaluation)
            for place, name in enumerate(names):
                colour = COLOURS.get(kinds[name], OTHER)
                marker = _MARKERS[place % len(_MARKERS)]
                _method(panel, runs.filter(method=name), heading, colour, marker)
            floor = study.floor(summary, heading, evaluation)
            if floor is not None:
                panel.axhline(floor, color=SOFT, linewidth=1.0, linestyle=":")
            metric = headline(summary, evaluation)
            # Two lines, so that the titles of three panels stay apart.
            error = f"error, 100 \N{MINUS SIGN} {drawn(metric)} (%)"
            panel.set_title(f"{drawn(heading.label(evaluation))}\n{error}", **TITLE)
            panel.set_xlabel("compute of pretraining", fontsize=8.5, color=SOFT)
            _axes(panel, runs)
        _legend(figure, names, kinds, heading)
        return png(figure)


def _method(panel: Axes, own: pl.DataFrame, heading: ReportSpec, colour: str, marker: str) -> None:
    for run in own.iter_rows(named=True):
        panel.errorbar(
            run["flops"],
            run["error"],
            yerr=run["std"] or None,
            fmt=marker,
            markersize=_size(heading, run["backbone"]),
            color=colour,
            markerfacecolor=colour if run["data_share"] == 1 else "white",
            elinewidth=1.0,
            alpha=0.85,
        )
    best = study.frontier(own)
    law = study.fit(best["error"].to_list(), best["flops"].to_list())
    if law is not None:
        ends = np.geomspace(best["flops"][0], best["flops"][-1], 50)
        panel.plot(ends, [law.at(float(x)) for x in ends], color=colour, linewidth=1.6)


def _size(heading: ReportSpec, backbone: str) -> float:
    low, high = _SIZES
    steps = max(len(heading.backbones) - 1, 1)
    return low + (high - low) * heading.backbones.index(backbone) / steps


def _axes(panel: Axes, runs: pl.DataFrame) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = float(runs["flops"].min()), float(runs["flops"].max())  # type: ignore[arg-type]
    subs = (1.0, 2.0, 5.0) if high < _DENSE * low else (1.0,)
    panel.xaxis.set_major_locator(LogLocator(subs=subs))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _flops(value)))
    panel.set_xlim(low * 0.7, high * 1.4)
    finish(panel)


def _flops(value: float) -> str:
    divisor, unit = flops_unit(value)
    return f"{significant(value / divisor, 1)} {unit}"


def _kinds(summary: pl.DataFrame, heading: ReportSpec) -> Mapping[str, str]:
    kinds = dict(summary.select("recipe", "kind").iter_rows())
    return {row.recipe: kinds[name] for name, row in heading.scaling.items()}


def _legend(
    figure: Figure, names: list[str], kinds: Mapping[str, str], heading: ReportSpec
) -> None:
    marks = [
        mark(name, marker=_MARKERS[place % len(_MARKERS)], color=COLOURS.get(kinds[name], OTHER))
        for place, name in enumerate(names)
    ]
    point = {"marker": "o", "linestyle": "", "color": SOFT}
    marks += [mark(each, markersize=_size(heading, each), **point) for each in heading.backbones]
    if any(row.data_share < 1 for row in heading.scaling.values()):
        marks.append(mark("a share of the images", markerfacecolor="white", **point))
    legend(figure, marks, "lower center", handletextpad=0.3, columnspacing=1.2)
