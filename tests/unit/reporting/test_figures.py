from __future__ import annotations

from io import BytesIO

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from steps.reporting.figures import DRAWN_WITH, broken, curves_figure, ranking_figure
from steps.reporting.source import CURVES_SCHEMA
from steps.reporting.summary import summarize
from tests.unit.reporting.synthetic import KINDS, Synthetic, write_task


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB"))


def _has(png: bytes, colour: str) -> bool:
    wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((_pixels(png) == wanted).all(axis=-1).any())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("top1 (%)", "top1 (%)"),
        ("outline_vs_texture (%)", "outline_vs_\ntexture (%)"),
        ("a_b_c_d_e_f_g_h_i_j_k_l_m_n", "a_b_c_d_e_f_g_h_i_\nj_k_l_m_n"),
        ("withoutanyunderscoreatall", "withoutanyunderscoreatall"),
    ],
)
def test_a_title_is_broken_after_underscores(line: str, expected: str) -> None:
    assert broken(line, 18) == expected


def test_same_records_give_the_same_bytes_whatever_the_users_style(
    several: Synthetic,
) -> None:
    source = several.source()
    summary = summarize(source.records())
    first = (
        ranking_figure(summary, source.heading),
        curves_figure(source.curves, KINDS, source.heading, source.trained),
    )
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 50}):
        again = (
            ranking_figure(summary, source.heading),
            curves_figure(source.curves, KINDS, source.heading, source.trained),
        )
        assert mpl.rcParams["font.size"] == 20
    assert first == again


def test_metadata_names_matplotlib_and_no_date(single: Synthetic) -> None:
    source = single.source()
    picture = Image.open(BytesIO(ranking_figure(summarize(source.records()), source.heading)))
    assert picture.info[DRAWN_WITH] == f"matplotlib {mpl.__version__}"
    assert not {"Software", "Creation Time", "Date"} & set(picture.info)


def test_ranking_is_wide_white_and_coloured_by_type(single: Synthetic) -> None:
    source = single.source()
    png = ranking_figure(summarize(source.records()), source.heading)
    pixels = _pixels(png)
    assert pixels.shape[1] == 1800
    assert (pixels[0] == 255).all()
    assert (pixels[:, -1] == 255).all()
    assert (pixels == 255).all(axis=-1).mean() > 0.8
    for colour in ("#0072B2", "#D55E00", "#009E73", "#7A7A7A"):
        assert _has(png, colour)


def test_ten_protocols_take_two_lines(small: Synthetic, protocols: Synthetic) -> None:
    pictures = []
    for made in (small, protocols):  # two methods each
        source = made.source()
        pictures.append(_pixels(ranking_figure(summarize(source.records()), source.heading)))
    assert [picture.shape[1] for picture in pictures] == [1800, 1800]
    assert pictures[1].shape[0] > 1.6 * pictures[0].shape[0]


@pytest.mark.parametrize(("recipe", "drawn", "absent"), [("mae", "#D55E00", "#0072B2")])
def test_curves_show_what_was_trained(
    single: Synthetic, recipe: str, drawn: str, absent: str
) -> None:
    source = single.source()
    png = curves_figure(source.curves.filter(recipe=recipe), KINDS, source.heading, [recipe])
    assert _has(png, drawn)
    assert not _has(png, absent)


def test_a_panel_of_zeros_can_be_drawn(small: Synthetic) -> None:
    for recipe in ("random", "mae"):
        write_task(small.row(recipe), "knn", value=0.0)
    source = small.source()
    assert _has(ranking_figure(summarize(source.records()), source.heading), "#D55E00")


def test_no_training_no_curves(single: Synthetic) -> None:
    png = curves_figure(CURVES_SCHEMA.to_frame(), KINDS, single.heading, [])
    assert _pixels(png).shape == (120, 1800, 3)
    assert not any(_has(png, colour) for colour in ("#0072B2", "#D55E00", "#009E73"))
