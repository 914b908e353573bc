"""From a source to the files of a prepared dataset: check, count, write, one image at a time."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from steps.command import UserError
from steps.data.bands import Form, Sums
from steps.data.checks import (
    NOTES,
    Decoded,
    Note,
    Tally,
    check_caption,
    check_image,
    check_name,
    cut_image,
)
from steps.data.checks import check_label as wrong_label
from steps.data.in_both import InBoth
from steps.data.instances import Instances, say
from steps.data.names import same_written
from steps.data.semantic import MaskError, encode_mask
from steps.data.shards import SPLITS, ShardWriter
from steps.data.sources import Item, Source
from steps.params.dataset import Dataset
from steps.params.sets import FromFiles

PIXEL_SAMPLE = 50_000
"""The most training images that the channel mean and std are taken from, evenly spaced."""

_QUEUED_PER_WORKER = 8
_NOTED: dict[Note, str] = {
    "turned": "were turned upright, as their EXIF orientation says",
    "composited": "have transparent pixels, which were put on the ground of the params",
    "first_of_several": "are the first of several frames or pages; the others are left out",
}
_LABELLED = ("classification", "multilabel")
"""Kinds of sets whose classes have counts."""
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
        UserError: more is bad than the params allow, a split is left without an image, or a channel
            has one value.
    """
    tally = Tally()
    form = None if dataset.is_rgb else Form(*dataset.form)
    pixels = _Pixels(form)
    both = InBoth()
    splits, gathered = {}, []
    for split in SPLITS:
        part = _Split(source, dataset, split, tally, pixels, both)
        splits[split] = part.write(out, where)
        gathered += [part.instances] if part.instances is not None else []
    unused = _below_labels(source)
    for label, images in enumerate(splits["train"].get("per_class", [])):
        if images == 0 and label not in unused:
            tally.bad("train", f"class '{source.classes[label]}'", "no image")
    tally.enforce(where, dataset.max_bad_share)
    for split, facts in splits.items():
        if facts["images"] == 0:
            raise UserError(where, f"split {split} has no image", remedy="correct its path")
        low, high = facts.get("numbers", (0, 1))
        if low == high:
            raise UserError(
                where,
                f"every number of split {split} is {low:g}",
                allowed="different numbers, without which there is nothing to predict",
                remedy="name another number_column, or take more images into the split",
            )
    for instances in gathered:
        instances.enforce(where)
    for problem in tally.problems:
        _log.warning("left out: %s %s: %s", problem.split, problem.item, problem.problem)
    _say_notes(splits)
    _say_absent(source, splits["val"])
    notes = [note for instances in gathered for note in instances.notes()]
    say(notes)
    shared = both.enforce(where, out, getattr(dataset, "max_in_both", None))
    mean, std = pixels.mean_and_std()
    _refuse_constant(std, where)
    return {
        "kind": source.kind,
        "classes": list(source.classes),
        "splits": splits,
        "mean": mean,
        "std": std,
        **({} if form is None else {"channels": form.channels, "bits": form.bits}),
        "mean_and_std_of": pixels.images,
        "problems": [vars(problem) for problem in tally.problems],
        "problem_share": tally.share(),
        **({"factors": source.factors} if source.factors else {}),
        **({"masks": dataset.has_masks, "annotation_notes": notes} if gathered else {}),
        **shared,
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

    def __init__(self, form: Form | None) -> None:
        self.images = 0
        self._form = form
        self._counts = np.zeros((3, 256), np.int64)
        self._sums: Sums | None = None

    def add(self, image: Decoded) -> None:
        if image.sums is not None:
            self._sums = image.sums if self._sums is None else self._sums + image.sums
        else:
            self._counts += np.asarray(image.histogram, np.int64).reshape(3, 256)
        self.images += 1

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        if self._form is not None and self._sums is not None:
            return self._sums.mean_and_std(self._form.bits)
        values = np.arange(256) / 255
        total = self._counts.sum(axis=1)
        mean = self._counts @ values / total
        variance = self._counts @ values**2 / total - mean**2
        std = np.sqrt(np.maximum(variance, 0))
        return [round(float(x), 6) for x in mean], [round(float(x), 6) for x in std]


class _Split:
    def __init__(
        self,
        source: Source,
        dataset: Dataset,
        split: str,
        tally: Tally,
        pixels: _Pixels,
        both: InBoth,
    ) -> None:
        self._source = source
        self._dataset: Any = dataset
        self._both = both
        self._names: set[str] = set()
        self._notes: Counter[str] = Counter()
        self._split = split
        self._tally = tally
        self._pixels = pixels
        labels = source.labels(split)
        classes = len(source.classes) if source.kind == "classification" else 0
        self._keep = choose(labels, classes, getattr(dataset.limit, split))
        self.instances: Instances | None = None
        """Annotations of a set for detection."""
        if source.kind == "detection":
            self.instances = Instances(
                split, source.categories, dataset.has_masks, tally, source.problems(split)
            )
        self._per_class = [0] * len(source.classes if source.kind in _LABELLED else ())
        self._range: tuple[float, float] | None = None
        self._pixels_of = np.zeros(len(source.classes), np.int64)
        """Pixels of each class, of a set with semantic masks."""
        self._captions = 0

    def write(self, out: Path, where: str) -> dict[str, Any]:
        """Write the split's files; returns its counts. ``where`` is the params' file."""
        source, split = self._source, self._split
        for stray in source.problems(split):
            self._tally.seen(split)
            self._tally.bad(split, stray.item, stray.problem)
        sampled = {self._keep[i] for i in _spaced(len(self._keep), PIXEL_SAMPLE)}
        positions = iter(self._keep)
        items = source.items(split, self._keep)
        labelled = source.kind == "classification"
        several = len(source.classes) if source.kind == "multilabel" else 0
        path = out / f"{split}.arrow"
        images = cut = 0
        with ShardWriter(
            path,
            labels=labelled,
            captions=source.has_captions,
            factors=tuple(source.factors),
            classes=several,
            numbers=source.kind == "regression",
            masks=source.kind == "masks",
        ) as writer:
            decoded = ordered_map(self._decode, items, os.cpu_count() or 1)
            for item, parts in decoded:
                position = next(positions)
                self._tally.seen(split)
                problem = parts if isinstance(parts, str) else self._wrong(item)
                captions = self._good_captions(item) if problem is None else []
                if problem is None and source.has_captions and not captions:
                    problem = "no readable caption"
                if problem is not None or isinstance(parts, str):
                    self._tally.bad(split, item.id, str(problem))
                    continue
                cut += len(parts) > 1
                for image in parts:
                    writer.add(
                        _name(item, image),
                        image.encoded,
                        image.width,
                        image.height,
                        item.label,
                        captions,
                        item.factors,
                        item.labels,
                        item.number,
                        image.mask,
                    )
                    images += 1
                    self._count(item, image, captions)
                    self._both.add(split, image.digest)
                    if split == "train" and position in sampled:
                        self._pixels.add(image)
        facts: dict[str, Any] = {"images": images}
        if cut:
            facts["cut"] = cut
            _log.info("%s: %d images were cut into tiles", split, cut)
        if source.kind in _LABELLED:
            facts["per_class"] = self._per_class
        if source.kind == "masks":
            facts["pixels"] = self._pixels_of.tolist()
        if self._range is not None:
            facts["numbers"] = list(self._range)
        if source.has_captions:
            facts["captions"] = self._captions
        facts |= self._notes
        if left_out := dict(source.left_out(split)):
            facts["left_out"] = left_out
            _log.warning("%s: files that are no images by their names: %s", split, left_out)
        if self.instances is not None:
            self.instances.settle(where)
            self.instances.write(out / f"{split}.json")
            facts |= self.instances.facts()
        _log.info("%s: %d images", split, images)
        return facts

    def _decode(self, item: Item) -> list[Decoded] | str:
        """The image, its tiles, or what is wrong with it."""
        dataset = self._dataset
        if not isinstance(dataset, FromFiles):
            whole = check_image(item)
        else:
            form = None if dataset.is_rgb else Form(*dataset.form)
            if (tiles := getattr(dataset, "tiles", None)) is not None:
                return cut_image(item, tiles, dataset.ground, dataset.max_pixels, form)
            resize = getattr(dataset, "resize_short_side", None)
            whole = check_image(item, resize, dataset.ground, dataset.max_pixels, form)
        if isinstance(whole, str) or item.mask is None:
            return whole if isinstance(whole, str) else [whole]
        size, source = (whole.width, whole.height), self._source
        try:
            mask, pixels = encode_mask(item.mask(), size, source.mask_classes, source.mask_ignored)
        except MaskError as error:
            return str(error)
        except OSError as error:
            return f"its mask is unreadable ({error.strerror or error})"
        return [replace(whole, mask=mask, mask_pixels=pixels)]

    def _wrong(self, item: Item) -> str | None:
        if (problem := check_name(item.id)) is not None:
            return problem
        written = same_written(item.id)
        if written in self._names:
            return "its name stands twice in the split"
        self._names.add(written)
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
        if image.mask_pixels is not None:
            self._pixels_of += image.mask_pixels
        self._notes.update(image.notes)
        if self._source.kind == "classification" and item.label is not None:
            self._per_class[item.label] += 1
        for label in item.labels or ():
            self._per_class[label] += 1
        if item.number is not None:
            low, high = self._range or (item.number, item.number)
            self._range = min(low, item.number), max(high, item.number)
        if self.instances is not None:
            self.instances.add(item, image.width, image.height)


def _name(item: Item, image: Decoded) -> str:
    """The image's name; a tile's has its left and top edge."""
    if image.place is None:
        return item.id
    left, top = image.place
    return f"{item.id}@{left},{top}"


def _refuse_constant(std: Sequence[float], where: str) -> None:
    """Refuse a channel of one value, by whose deviation images cannot be divided."""
    for index, deviation in enumerate(std, 1):
        if deviation == 0:
            raise UserError(
                where,
                f"channel {index} of {len(std)} has one value in all training images, so its "
                "deviation is 0 and it cannot be normalised",
                allowed="channels that vary",
                remedy="leave the channel out of the files and give their number as channels, or "
                "add images in which it varies",
            )


def _say_notes(splits: dict[str, dict[str, Any]]) -> None:
    """Say how many images are not what their files plainly hold."""
    for split, facts in splits.items():
        for note in NOTES:
            if facts.get(note):
                _log.warning("%s: %d images %s", split, facts[note], _NOTED[note])


def _below_labels(source: Source) -> range:
    """Classes below the smallest label, where classes are numbers that nothing names; said."""
    labels = [label for label in source.labels("train") if label is not None and label >= 0]
    unused = range(min(labels, default=0) if source.numbered else 0)
    if unused:
        _log.warning(
            "train: labels count from %d; lower numbers are classes without images", len(unused)
        )
    return unused


def _say_absent(source: Source, val: dict[str, Any]) -> None:
    """Say which classes val lacks, and add them to its facts as ``empty_classes``."""
    per_class = val.get("per_class", [])
    absent = [source.classes[label] for label, images in enumerate(per_class) if not images]
    if absent:
        val["empty_classes"] = absent
        shown = ", ".join(absent[:3]) + (", …" if len(absent) > 3 else "")
        _log.warning(
            "val: no image of %d of %d classes (%s): scores are of the others alone",
            len(absent),
            len(per_class),
            shown,
        )


def _spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spaced."""
    if count <= most:
        return list(range(count))
    return [i * count // most for i in range(most)]
