"""How figures look, and their bytes: the same figure and the same matplotlib give the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

DRAWN_WITH = "Drawn with"
"""The PNG text entry that names the matplotlib version."""
COLOURS = {
    # Okabe and Ito's palette, told apart with every common colour vision deficiency.
    "Contrastive": "#0072B2",
    "Generative": "#D55E00",
    "Hybrid": "#E69F00",
    "Position": "#56B4E9",
    "Supervised": "#009E73",
    "Random": "#7A7A7A",
}
"""Of a method's type."""
OTHER = "#CC79A7"
INK, SOFT, GREY, GRID = "#24292F", "#6E7781", "#B6BCC3", "#E3E6EA"
WIDTH = 9.0
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
    """Matplotlib's defaults and ours over them: a user's own matplotlibrc changes nothing."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def legend(
    figure: Figure, marks: Sequence[Line2D], where: str = "lower right", **spacing: float
) -> None:
    """The marks in a row outside the panels; ``spacing`` as matplotlib calls it."""
    figure.legend(
        handles=marks,
        loc=f"outside {where}",
        ncols=max(len(marks), 1),
        frameon=False,
        fontsize=8.5,
        **spacing,
    )


def finish(panel: Axes) -> None:
    """A pale grid behind everything, no ticks."""
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0)
    panel.spines[["left", "bottom"]].set_color(GRID)


def png(figure: Figure) -> bytes:
    """The figure at 200 dots an inch, with the name of what drew it."""
    file = BytesIO()
    metadata = {"Software": None, DRAWN_WITH: f"matplotlib {mpl.__version__}"}
    figure.savefig(file, format="png", dpi=200, facecolor="white", metadata=metadata)
    return file.getvalue()
