from __future__ import annotations

import json
from pathlib import Path

import pytest

from steps.command import UserError
from steps.reporting.source import (
    CURVES,
    CURVES_SCHEMA,
    HEADING,
    RECORDS,
    make_source,
    read_source,
    source_files,
)
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
