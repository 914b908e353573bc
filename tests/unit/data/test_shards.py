"""The Arrow files of a prepared dataset, written and read back."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steps.command import UserError
from steps.data.shards import BATCH_ROWS, Images, ShardWriter

ROWS = BATCH_ROWS + 3


def _png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (5, 4), value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path / "train.arrow", labels=True, captions=True) as writer:
        for i in range(ROWS):
            captions = [f"caption {i}"] * (i % 3)
            writer.add(f"image-{i}", _png(i % 256), 5, 4, i % 7, captions)
    return tmp_path


def test_rows_come_back_in_order(dataset: Path) -> None:
    images = Images(dataset, "train")
    assert len(images) == ROWS
    assert images.ids == [f"image-{i}" for i in range(ROWS)]
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == [i % 7 for i in range(ROWS)]
    assert images.sizes.tolist() == [[5, 4]] * ROWS
    for i in (0, BATCH_ROWS - 1, BATCH_ROWS, ROWS - 1):
        assert images.encoded(i) == _png(i % 256)
        assert images.captions(i) == [f"caption {i}"] * (i % 3)


def test_images_are_rgb(dataset: Path) -> None:
    image = Images(dataset, "train").image(9)
    assert image.mode == "RGB"
    assert np.unique(np.asarray(image)).tolist() == [9]


@pytest.mark.parametrize("row", [-1, ROWS])
def test_a_row_outside_is_an_index_error(dataset: Path, row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of {ROWS}"):
        Images(dataset, "train").encoded(row)


def test_a_pickled_copy_maps_the_file_anew(dataset: Path) -> None:
    images = Images(dataset, "train")
    data = pickle.dumps(images)
    assert len(data) < 1000
    assert pickle.loads(data).encoded(ROWS - 1) == images.encoded(ROWS - 1)


def test_detection_sets_have_no_labels(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "val.arrow", labels=False, captions=False) as writer:
        writer.add("a", _png(1), 5, 4)
    images = Images(tmp_path, "val")
    assert images.captions(0) == []
    with pytest.raises(UserError, match="without a label"):
        images.labels  # noqa: B018


def test_a_missing_or_cut_file_is_a_users_error(dataset: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        Images(dataset, "val")
    path = dataset / "train.arrow"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a whole Arrow file"):
        Images(dataset, "train")


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with ShardWriter(tmp_path / name, labels=True, captions=False) as writer:
            for i in range(10):
                writer.add(str(i), _png(i), 5, 4, i)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
