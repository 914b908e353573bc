"""From a source to the files of a prepared dataset: check, count, write, one image at a time."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from steps.command import UserError
from steps.data.checks import Decoded, Tally, check_annotation, check_caption, check_image
from steps.data.checks import check_label as wrong_label
from steps.data.shards import SPLITS, ShardWriter
from steps.data.sources import Item, Source
from steps.params.dataset import Dataset

PIXEL_SAMPLE = 50_000
"""The most training images that the channel mean and std are taken from, evenly spaced."""

_QUEUED_PER_WORKER = 8
_KEPT_KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")
_log = logging.getLogger(__name__)
_In = TypeVar("_In")
_Out = TypeVar("_Out")


def convert(source: Source, dataset: Dataset, where: str, out: Path) -> dict[str, Any]:
    """Write both splits of ``source`` into the folder ``out``.

    Args:
        source: opened from ``dataset``.
        dataset: the params.
        where: the params' file, for errors.
        out: an existing folder; gets ``<split>.arrow`` and, for detection, ``<split>.json``.

    Returns:
        The facts of the manifest: kind, classes, splits, mean, std, problems.

    Raises:
        UserError: more is bad than the params allow, or a split is left without an image.
    """
    tally = Tally()
    pixels = _Pixels()
    splits = {}
    for split in SPLITS:
        splits[split] = _Split(source, dataset, split, tally, pixels).write(out)
    for label, images in enumerate(splits["train"].get("per_class", [])):
        if images == 0:
            tally.bad("train", f"class '{source.classes[label]}'", "no image")
    tally.enforce(where, dataset.max_bad_share)
    for split, facts in splits.items():
        if facts["images"] == 0:
            raise UserError(where, f"split {split} has no image", remedy="correct its path")
    for problem in tally.problems:
        _log.warning("left out: %s %s: %s", problem.split, problem.item, problem.problem)
    mean, std = pixels.mean_and_std()
    return {
        "kind": source.kind,
        "classes": list(source.classes),
        "splits": splits,
        "mean": mean,
        "std": std,
        "mean_and_std_of": pixels.images,
        "problems": [vars(problem) for problem in tally.problems],
        "problem_share": tally.share(),
    }


def choose(labels: Sequence[int | None], classes: int, limit: int | None) -> list[int]:
    """Positions of the items to take, ascending.

    Args:
        labels: of every item; None: it has none.
        classes: how many there are; 0: take the first ``limit`` items.
        limit: how many items; None: all.

    Returns:
        With classes, ``limit // classes`` or one more of each, evenly spaced within the class; a
        class with fewer gives all it has. Items with a wrong label stay in: the check names them.
    """
    if limit is None:
        return list(range(len(labels)))
    if classes == 0:
        return list(range(min(limit, len(labels))))
    by_class: list[list[int]] = [[] for _ in range(classes)]
    chosen: list[int] = []
    for position, label in enumerate(labels):
        if label is None or not 0 <= label < classes:
            chosen.append(position)
        else:
            by_class[label].append(position)
    for label, positions in enumerate(by_class):
        share = limit // classes + (label < limit % classes)
        chosen += [positions[i] for i in _spaced(len(positions), share)]
    return sorted(chosen)


def ordered_map(
    function: Callable[[_In], _Out], items: Iterable[_In], workers: int
) -> Iterator[tuple[_In, _Out]]:
    """Pairs of each item and ``function(item)`` in the items' order, computed by threads.

    A bounded number of items is in flight: a dataset never gathers in memory.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[_In, Future[_Out]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= workers * _QUEUED_PER_WORKER:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


class _Pixels:
    """Exact channel statistics from counts of pixel values."""

    def __init__(self) -> None:
        self.images = 0
        self._counts = np.zeros((3, 256), np.int64)

    def add(self, histogram: Sequence[int]) -> None:
        self._counts += np.asarray(histogram, np.int64).reshape(3, 256)
        self.images += 1

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        values = np.arange(256) / 255
        total = self._counts.sum(axis=1)
        mean = self._counts @ values / total
        variance = self._counts @ values**2 / total - mean**2
        std = np.sqrt(np.maximum(variance, 0))
        return [round(float(x), 6) for x in mean], [round(float(x), 6) for x in std]


class _Split:
    def __init__(
        self, source: Source, dataset: Dataset, split: str, tally: Tally, pixels: _Pixels
    ) -> None:
        self._source = source
        self._resize = getattr(dataset, "resize_short_side", None)
        self._split = split
        self._tally = tally
        self._pixels = pixels
        labels = source.labels(split)
        classes = len(source.classes) if source.kind == "classification" else 0
        self._keep = choose(labels, classes, getattr(dataset.limit, split))
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories = {category["id"] for category in source.categories}
        self._per_class = [0] * classes
        self._captions = 0

    def write(self, out: Path) -> dict[str, Any]:
        """Write the split's files; returns its counts."""
        source, split = self._source, self._split
        for stray in source.problems(split):
            self._tally.seen(split)
            self._tally.bad(split, stray.item, stray.problem)
        sampled = {self._keep[i] for i in _spaced(len(self._keep), PIXEL_SAMPLE)}
        positions = iter(self._keep)
        items = source.items(split, self._keep)
        labelled = source.kind == "classification"
        path = out / f"{split}.arrow"
        images = 0
        with ShardWriter(path, labels=labelled, captions=source.has_captions) as writer:
            decoded = ordered_map(
                lambda item: check_image(item, self._resize), items, os.cpu_count() or 1
            )
            for item, image in decoded:
                position = next(positions)
                self._tally.seen(split)
                problem = image if isinstance(image, str) else self._wrong(item)
                captions = self._good_captions(item) if problem is None else []
                if problem is None and source.has_captions and not captions:
                    problem = "no readable caption"
                if problem is not None or isinstance(image, str):
                    self._tally.bad(split, item.id, str(problem))
                    continue
                writer.add(item.id, image.encoded, image.width, image.height, item.label, captions)
                images += 1
                self._count(item, image, captions)
                if split == "train" and position in sampled:
                    self._pixels.add(image.histogram)
        facts: dict[str, Any] = {"images": images}
        if labelled:
            facts["per_class"] = self._per_class
        if source.has_captions:
            facts["captions"] = self._captions
        if source.kind == "detection":
            facts["boxes"] = len(self._annotations)
            self._write_annotations(out / f"{split}.json")
        _log.info("%s: %d images", split, images)
        return facts

    def _wrong(self, item: Item) -> str | None:
        if self._source.kind != "classification":
            return None
        return wrong_label(item.label, len(self._source.classes))

    def _good_captions(self, item: Item) -> list[str]:
        good = []
        for caption in item.captions:
            self._tally.seen(self._split)
            problem = check_caption(caption)
            if problem is None:
                good.append(caption)
            else:
                self._tally.bad(self._split, item.id, problem)
        return good

    def _count(self, item: Item, image: Decoded, captions: list[str]) -> None:
        self._captions += len(captions)
        if self._source.kind == "classification" and item.label is not None:
            self._per_class[item.label] += 1
        if self._source.kind != "detection":
            return
        size = {"width": image.width, "height": image.height}
        self._images.append({"id": item.image_id, "file_name": item.id, **size})
        for annotation in item.annotations:
            self._tally.seen(self._split)
            problem = check_annotation(annotation, image.width, image.height, self._categories)
            if problem is None:
                kept = {key: annotation[key] for key in _KEPT_KEYS if key in annotation}
                self._annotations.append(kept)
            else:
                name = f"annotation {annotation.get('id')} of {item.id}"
                self._tally.bad(self._split, name, problem)

    def _write_annotations(self, path: Path) -> None:
        content = {
            "info": {"description": "prepared by Pretext"},
            "images": self._images,
            "annotations": self._annotations,
            "categories": list(self._source.categories),
        }
        path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spaced."""
    if count <= most:
        return list(range(count))
    return [i * count // most for i in range(most)]
