"""From sources to files: which items, in which order, with which counts."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steps.command import UserError
from steps.data import convert as subject
from steps.data.convert import choose, convert, ordered_map
from steps.data.shards import Images
from steps.data.sources import Item, Source
from steps.params.dataset import FolderDataset
from steps.params.sets import Limit

LIMITED = [0, 0, 0, 0, 1, 1, 2, 1, 2, 1]


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


class _Source(Source):
    """Images with random pixels; ``broken`` ones cannot be decoded."""

    kind = "classification"

    def __init__(self, labels: Sequence[int], classes: int, broken: Sequence[int] = ()) -> None:
        self.classes = [f"class {i}" for i in range(classes)]
        self._labels = labels
        self._broken = broken
        self.pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 6, 5, 3))

    def names(self, split: str) -> list[str]:
        return [f"{split}-{index}" for index in range(len(self._labels))]

    def labels(self, split: str) -> Sequence[int]:
        return self._labels

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        for i in keep:
            data = b"no image" if i in self._broken else _png(self.pixels[i])
            yield Item(f"{split}-{i}", lambda data=data: data, self._labels[i])


def _dataset(**more: object) -> FolderDataset:
    return FolderDataset(format="folder", train="t", val="v").model_copy(update=more)


def test_without_a_limit_all_are_taken() -> None:
    assert choose(LIMITED, 3, None) == list(range(10))


def test_a_limit_takes_an_equal_share_of_each_class_evenly_spaced() -> None:
    assert choose(LIMITED, 3, 6) == [0, 2, 4, 6, 7, 8]
    assert choose(LIMITED, 3, 7) == [0, 1, 2, 4, 6, 7, 8]


def test_a_small_class_gives_all_it_has() -> None:
    assert choose([0] * 50 + [1], 2, 10) == [0, 10, 20, 30, 40, 50]


def test_a_limit_keeps_wrong_labels_for_the_check_to_name() -> None:
    assert choose([0, 9, 0, None, 1], 2, 2) == [0, 1, 3, 4]


def test_without_labels_a_limit_takes_the_first() -> None:
    assert choose([None] * 9, 0, 4) == [0, 1, 2, 3]
    assert choose([None] * 3, 0, 4) == [0, 1, 2]


def test_ordered_map_keeps_the_order_and_bounds_what_is_in_flight() -> None:
    pulled = 0
    most = 0
    lock = threading.Lock()
    done = 0

    def numbers() -> Iterator[int]:
        nonlocal pulled
        for number in range(1, 201):
            pulled = number
            yield number

    def slow_first(number: int) -> int:
        nonlocal done
        time.sleep(0.02 if number % 40 == 1 else 0)
        with lock:
            done += 1
        return number**2

    seen = []
    for number, square in ordered_map(slow_first, numbers(), 4):
        seen.append(number)
        assert square == number**2
        most = max(most, pulled - len(seen))
    assert seen == list(range(1, 201))
    assert most <= 4 * 8


def test_ordered_map_passes_an_error_on() -> None:
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda x: 1 / x, [1, 0, 2], 2))


def test_facts_and_rows(tmp_path: Path) -> None:
    source = _Source([0, 1, 1, 0, 1], 2)
    facts = convert(source, _dataset(), "d.yaml", tmp_path)
    assert facts["kind"] == "classification"
    assert facts["splits"]["train"] == {"images": 5, "per_class": [2, 3]}
    assert facts["problems"] == []
    assert facts["problem_share"] == 0
    images = Images(tmp_path, "train")
    assert images.ids == [f"train-{i}" for i in range(5)]
    assert images.labels.tolist() == [0, 1, 1, 0, 1]
    assert (np.asarray(images.image(3)) == source.pixels[3]).all()


def test_mean_and_std_are_exact(tmp_path: Path) -> None:
    source = _Source([0, 1] * 20, 2)
    facts = convert(source, _dataset(), "d.yaml", tmp_path)
    pixels = source.pixels.reshape(-1, 3) / 255
    assert facts["mean"] == pytest.approx(pixels.mean(0), abs=1e-6)
    assert facts["std"] == pytest.approx(pixels.std(0), abs=1e-6)
    assert facts["mean_and_std_of"] == 40


def test_mean_and_std_of_a_large_set_are_of_an_even_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "PIXEL_SAMPLE", 10)
    source = _Source([0, 1] * 20, 2)
    facts = convert(source, _dataset(), "d.yaml", tmp_path)
    assert facts["mean_and_std_of"] == 10
    pixels = source.pixels[::4].reshape(-1, 3) / 255
    assert facts["mean"] == pytest.approx(pixels.mean(0), abs=1e-6)


def test_a_broken_image_fails(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"d\.yaml: 2 bad items, nothing written: train train-2: not"
    ):
        convert(_Source([0, 1, 1, 0], 2, broken=[2]), _dataset(), "d.yaml", tmp_path)


def test_a_broken_image_is_left_out_and_counted(tmp_path: Path) -> None:
    source = _Source([0, 1] * 50, 2, broken=[3])
    dataset = _dataset(on_bad="skip", max_bad_share=0.01)
    facts = convert(source, dataset, "d.yaml", tmp_path)
    assert facts["splits"]["train"] == {"images": 99, "per_class": [50, 49]}
    assert "train-3" not in Images(tmp_path, "train").ids
    assert [(p["split"], p["item"]) for p in facts["problems"]] == [
        ("train", "train-3"),
        ("val", "val-3"),
    ]
    assert facts["problem_share"] == pytest.approx(0.01)
    stricter = dataset.model_copy(update={"max_bad_share": 0.005})
    with pytest.raises(UserError, match=r"max_bad_share 0\.50%"):
        convert(source, stricter, "d.yaml", tmp_path)


def test_a_wrong_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train train-1: label 5 is outside 0 to 1"):
        convert(_Source([0, 5, 1], 2), _dataset(), "d.yaml", tmp_path)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train class 'class 2': no image"):
        convert(_Source([0, 1], 3), _dataset(), "d.yaml", tmp_path)


def test_labels_that_count_from_1(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = _Source([1, 2, 2], 3)
    source.numbered = True
    facts = convert(source, _dataset(), "d.yaml", tmp_path)
    assert facts["splits"]["train"]["per_class"] == [0, 1, 2]
    assert "train: labels count from 1" in caplog.text
    gap = _Source([1, 3], 4)
    gap.numbered = True
    with pytest.raises(UserError, match=r"1 bad item, .*train class 'class 2': no image"):
        convert(gap, _dataset(), "d.yaml", tmp_path)


def test_a_limit_below_the_classes_leaves_one_empty(tmp_path: Path) -> None:
    dataset = _dataset(limit=Limit(train=2))
    with pytest.raises(UserError, match="class 'class 2': no image"):
        convert(_Source([0, 1, 2], 3), dataset, "d.yaml", tmp_path)


def test_a_split_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="split train has no image"):
        convert(_Source([], 0), _dataset(), "d.yaml", tmp_path)
