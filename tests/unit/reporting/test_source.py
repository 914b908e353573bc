from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from steps.command import UserError
from steps.reporting.markdown import page
from steps.reporting.source import (
    CURVES,
    CURVES_SCHEMA,
    HEADING,
    RECORDS,
    make_source,
    read_source,
    source_files,
)
from steps.reporting.summary import summarize
from tests.unit.reporting.made_decisions import decided
from tests.unit.reporting.synthetic import Synthetic


def _write(files: dict[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)


def test_a_source_survives_its_files(several: Synthetic, tmp_path: Path) -> None:
    source = several.source()
    _write(source_files(source), tmp_path)
    back = read_source(tmp_path)
    assert back.heading == source.heading
    assert back.traced == source.traced
    assert back.curves.equals(source.curves)
    assert source_files(back) == source_files(source)


def test_order_does_not_depend_on_the_order_of_reading(several: Synthetic) -> None:
    source = several.source()
    turned = make_source(source.heading, source.traced[::-1], source.curves)
    assert turned.traced == source.traced


def test_a_line_holds_what_traces_its_records(single: Synthetic) -> None:
    files = source_files(single.source())
    line = json.loads(files[RECORDS].splitlines()[0])
    assert line["source"] == (
        "pretrained/shapes/small/vit_pico/random/seed0/knn/shapes/features/knn.json"
    )
    for maker in ("measured", "pretrained"):
        assert {"params", "inputs", "code", "libraries", "device", "seed"} <= set(line[maker])
    assert line["measured"]["inputs"]["backbone"] == line["pretrained"]["digest"]


@pytest.mark.parametrize("name", [HEADING, RECORDS, CURVES])
def test_a_missing_or_foreign_file_is_named(single: Synthetic, tmp_path: Path, name: str) -> None:
    _write(source_files(single.source()), tmp_path)
    (tmp_path / name).write_text("what is this\n")
    with pytest.raises(UserError, match=f"{name}.*not what a report holds"):
        read_source(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing"):
        read_source(tmp_path)


def test_a_record_outside_the_experiment_is_refused(single: Synthetic) -> None:
    source = single.source()
    heading = source.heading.model_copy(update={"methods": ("random", "supervised", "mae")})
    with pytest.raises(UserError, match="recipe: 'dino' is not part of the experiment"):
        make_source(heading, source.traced, source.curves)


def test_empty_curves_survive_their_file(single: Synthetic, tmp_path: Path) -> None:
    source = single.source()
    bare = make_source(source.heading, source.traced, CURVES_SCHEMA.to_frame())
    _write(source_files(bare), tmp_path)
    assert read_source(tmp_path).curves.is_empty()


def test_a_missing_record_is_named(several: Synthetic) -> None:
    source = several.source()
    gone = source.traced[-1]
    with pytest.raises(UserError, match=r"names .*/seed\d, which has no record"):
        make_source(source.heading, source.traced[:-1], source.curves)
    assert gone.records


def test_one_table_is_of_one_version_of_its_set(single: Synthetic) -> None:
    source = single.source()
    others = list(source.traced)
    for index, data in ((0, "a" * 64), (1, "b" * 64)):
        item = source.traced[index]
        measured = item.measured.model_copy(update={"inputs": {"data": data}})
        others[index] = item.model_copy(update={"measured": measured})
    with pytest.raises(UserError, match=r"measured on a version b{12} of shapes, .* on aaa"):
        make_source(source.heading, others, source.curves)


def test_a_class_without_images_does_not_make_classes_unequal(single: Synthetic) -> None:
    source = decided(single.source(), counts=(500, 500))
    named = source.images.with_columns(classes=pl.Series([["cat", "dog", "bird"]]))
    source = replace(source, images=named)
    assert not source.records()["unequal"].any()
    text = page(source, summarize(source.records()), with_curves=False)
    assert "2 classes, 500 images each. 1 class without an image here." in text
