"""Any CSV file and any mask give a set that can be read, or a line that says what is wrong."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from steps.data.annotations import IGNORED
from steps.data.convert import convert
from steps.data.semantic import MaskError, encode_mask
from steps.data.shards import Images
from steps.data.sources import open_source
from steps.params.dataset import CsvDataset
from tests.faults.builders_data import encoded, noise, put
from tests.faults.fuzzing import settings
from tests.faults.test_fuzz_sources import damaged, damages, or_refused, texts

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, on damaged files

CELLS = [*("", "a", "a|b", "|", "1", "0", "1.0", "-1.0", "1e400", "nan", "-inf", "7.5", "0x1")]
cells = st.one_of(st.sampled_from(CELLS), texts)
TARGETS: list[dict[str, Any]] = [
    {"label_column": "x"},
    {"label_column": "x", "label_separator": "|", "no_label": ""},
    {"label_columns": ["x", "y"], "label_cells": {"": 0}},
    {"number_column": "x"},
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETEXT_DATA", str(tmp_path))
    for index in range(4):
        put(tmp_path / f"{index}.png", encoded(noise(index, 4, 3)))
    return tmp_path


@hypothesis.given(
    rows=st.lists(st.tuples(st.sampled_from("0123x"), cells, cells), min_size=1, max_size=5),
    damage=damages,
    target=st.sampled_from(TARGETS),
)
@settings
def test_tables(
    root: Path, rows: list[tuple[str, ...]], damage: list[Any], target: dict[str, Any]
) -> None:
    lines = "".join(f"{name}.png,{one},{other}\n" for name, one, other in rows)
    file = f"image,x,y\n{lines}".encode(errors="surrogatepass")
    put(root / "t.csv", damaged(file, damage))
    dataset = CsvDataset(
        format="csv", train="t.csv", val="t.csv", on_bad="skip", max_bad_share=0.9, **target
    )
    out = root / "out"
    out.mkdir(exist_ok=True)
    facts = or_refused(lambda: convert(open_source(dataset), dataset, "set.yaml", out))
    if facts is None:
        return
    images = Images(out, "train")
    assert len(images.targets) == len(images) == facts["splits"]["train"]["images"]
    assert np.isfinite(images.targets).all()


@hypothesis.given(
    changes=damages, mode=st.sampled_from("LP1"), ignored=st.sampled_from([None, [], [255]])
)
@settings
def test_masks(changes: list[Any], mode: str, ignored: list[int] | None) -> None:
    file = io.BytesIO()
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) % 2
    (Image.fromarray(pixels * 255 if mode == "1" else pixels).convert(mode)).save(file, "PNG")
    try:
        stored, counts = encode_mask(
            damaged(file.getvalue(), changes), (4, 3), {0: 0, 1: 1}, ignored
        )
    except MaskError:
        hypothesis.event("refused")
        return
    hypothesis.event("taken")
    with Image.open(io.BytesIO(stored)) as image:
        found = np.asarray(image)
    assert found.shape == (3, 4)
    assert {*np.unique(found).tolist()} <= {0, 1, IGNORED}
    assert counts.sum() == (found != IGNORED).sum()
