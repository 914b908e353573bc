"""What features see, from made-up records: the shape bias, its table, sentences and figure."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from steps.params.methods import FAMILIES
from steps.reporting.cues import FILE, bias_table, cues_section, evaluations, shape_bias
from steps.reporting.render import write_report
from steps.reporting.source import Evaluation
from steps.reporting.summary import summarize
from steps.reporting.tables import ABSENT
from tests.processes import REPOSITORY
from tests.unit.reporting.synthetic import Synthetic, build

BIAS = Evaluation("bias", "bias")
SHARES = {"random": (5.0, 30.0), "mae": (20.0, 60.0), "dino": (60.0, 20.0), "mocov3": (40.0, 60.0)}
"""Percent of images given to the outline's class and to the other's, whatever the cue."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return build(
        tmp_path_factory.mktemp("seen"),
        methods=("random", "mae", "dino", "mocov3"),
        tasks=("knn", "decode", "bias"),
        steps=4,
    )


def _summary(seen: Synthetic) -> pl.DataFrame:
    """The summary of the records, with the shares of SHARES."""
    summary = summarize(seen.source().records())
    outline = pl.col("metric").str.starts_with("outline_vs")
    shares = [pl.col("recipe").replace_strict({k: v[i] for k, v in SHARES.items()}) for i in (0, 1)]
    mean = pl.when(outline).then(shares[0]).otherwise(shares[1])
    return summary.with_columns(
        pl.when(pl.col("task") == "bias").then(mean).otherwise("mean").alias("mean")
    )


def test_shape_bias_is_of_the_images_decided() -> None:
    assert shape_bias(100.0, 0.0) == 100.0
    assert shape_bias(1.0, 97.0) == pytest.approx(100 / 98)
    assert shape_bias(25.0, 25.0) == 50.0
    assert shape_bias(30.0, 19.9) is None
    assert shape_bias(0.0, 0.0) is None


def test_no_bias_is_printed_where_few_images_are_decided(seen: Synthetic) -> None:
    table = bias_table(_summary(seen), seen.heading, BIAS)
    cells = {row[0]: row[1:] for row in table.rows}
    assert table.columns[1] == "against texture, linear"
    assert table.columns[-1] == "against ground, k-NN"
    assert set(cells["dino"]) == {"75.0 (80)"}
    assert set(cells["mae"]) == {"25.0 (80)"}
    assert set(cells["random"]) == {f"{ABSENT} (35)"}


def test_sentences_are_of_families(seen: Synthetic) -> None:
    told, followed = cues_section(_summary(seen), seen.heading)[1:3]
    # Of dino 78.9 and mocov3 50, by 3 more from factor to factor.
    assert "contrastive methods (`dino`, `mocov3`) outline 64.5, texture 70.5, colour 67.5" in told
    assert "masked methods (`mae`) outline 64.2" in told
    assert "random weights (`random`) outline 21.3" in told
    assert "position" not in told
    # Of 75 and 40.
    assert "contrastive methods (`dino`, `mocov3`) 57.5 % against texture" in followed
    assert "masked methods (`mae`) 25.0 % against texture" in followed
    assert "random weights (`random`) undecided against texture" in followed


def test_a_page_shows_it(seen: Synthetic, tmp_path: Path) -> None:
    write_report(seen.source(), tmp_path / "report")
    page = (tmp_path / "report/README.md").read_text()
    assert f"]({FILE})" in page.partition("## What features see")[2]
    sections = {text.partition("\n")[0]: text for text in page.split("\n## ")}
    assert "Bold: the best of each column" in sections["Decodability"]
    assert "Bold: the best of each column" not in sections["Shape bias"]
    with Image.open(tmp_path / "report" / FILE) as drawn:
        assert drawn.width == 1800


def test_a_page_of_other_tasks_is_without(single: Synthetic) -> None:
    source = single.source()
    assert cues_section(summarize(source.records()), source.heading) == []
    assert evaluations(source.heading) == []


def test_every_method_has_a_family() -> None:
    files = (REPOSITORY / "params/recipes").glob("*/*.yaml")
    names = {re.search(r"^  name: (\w+)", file.read_text(), re.M) for file in files}
    assert {found.group(1) for found in names if found} <= set(FAMILIES)
