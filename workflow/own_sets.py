"""A user's sets: readings with a validation split, images counted, a few of them opened."""

from __future__ import annotations

import logging
import re
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steps.command import UserError
from steps.data.bands import Form, decode_bands, form_of
from steps.data.decoding import UnfitImageError, decode
from steps.data.names import escaped, same_written
from steps.data.sources import Source, open_source
from steps.params.channels import in_words
from steps.params.load import validate
from steps.params.plan import AnyDataset
from steps.params.sets import GROUND, MAX_PIXELS, RGB, Tiles
from workflow.coco_files import has_area
from workflow.readings import Reading

_OPENED = 16
"""Images of a set that are decoded, evenly spaced over its names."""
_SUBJECTS = (
    *("patient", "subject", "case", "donor", "animal", "specimen"),
    *("slide", "plate", "video", "clip", "scene", "sequence"),
)
"""Words in names before the number or name of a group whose images are alike."""
_LARGE = 5_000
"""Training images from which a tenth is enough to validate; a fifth of fewer."""


@dataclass(frozen=True)
class OwnSet:
    """A set of a user, as its params file will describe it."""

    params: dict[str, Any]
    words: str
    train: int
    """Images of the split, as ``val``."""
    val: int
    width: int
    """Median width in pixels of the opened images, as ``height``."""
    height: int
    decode_seconds: float
    """Median time to decode one image, on this machine."""
    notes: tuple[str, ...]
    """Reasons and facts that the params file states."""

    @property
    def short_side(self) -> int:
        """Median short side in pixels."""
        return min(self.width, self.height)

    @property
    def has_labels(self) -> bool:
        """True if each image has a class."""
        return bool(self.dataset.has_labels)

    @property
    def dataset(self) -> Any:
        """The params as their model."""
        return validate(self.params, AnyDataset, "dataset")

    def shrunk(self, image_size: int) -> OwnSet:
        """The set with large images stored small, for a network that takes ``image_size`` px.

        Crops of a fifth of an image, the smallest that recipes take at this size, still have more
        pixels than the network takes.
        """
        short = stored_side(image_size)
        if (
            self.short_side < 2 * short
            or "resize_short_side" not in type(self.dataset).model_fields
        ):
            return self
        factor = short / self.short_side
        note = (
            f"Images are stored with a short side of {short} px ({_STORED:g} times the network's "
            f"{image_size} px), so that each epoch decodes small files."
        )
        return replace(
            self,
            params={**self.params, "resize_short_side": short},
            decode_seconds=self.decode_seconds * factor**2,
            notes=(*self.notes, note),
        )

    def cut(self, side: int) -> OwnSet:
        """The set with its images cut into tiles of ``side`` px.

        Raises:
            UserError: the images have labels or boxes, which their parts need not have.
        """
        if "tiles" not in type(self.dataset).model_fields:
            raise UserError(
                f"--tiles {side}",
                f"{self.words}: a label or a box of an image need not be one of its parts",
                allowed="images without labels",
                remedy="leave the option out, or add --format images",
            )
        params = {**self.params, "tiles": {"side": side}}
        each = len(Tiles(side=side).places(self.width, self.height))
        note = (
            f"Each image of {self.width} x {self.height} px becomes {each} tiles of {side} px "
            f"({self.train:,} whole images to train, {self.val:,} to validate)."
        )
        return replace(
            self,
            params=params,
            train=self.train * each,
            val=self.val * each,
            width=min(side, self.width),
            height=min(side, self.height),
            decode_seconds=self.decode_seconds / each,
            notes=(*self.notes, note),
        )


_STORED = 2.5


def stored_side(image_size: int) -> int:
    """Short side in pixels of stored images, for a network that takes ``image_size`` px."""
    return round(_STORED * image_size)


def own_set(reading: Reading) -> OwnSet:
    """The set of a reading, with a validation split.

    Raises:
        UserError: a file is missing, a label is empty, an opened image is bad, or there are too few
            images to split.
    """
    params, notes = dict(reading.params), list(reading.notes)
    if (form := _form(params)) is not None:
        params |= {"channels": form.channels, "bits": form.bits}
        notes.append(
            f"The first image has {in_words((form.channels, form.bits))}, and all must have them. "
            "Pixels are stored without loss."
        )
    place = params["train"]
    where = str(place.get("annotations", place["images"]) if isinstance(place, Mapping) else place)
    whole = _open({**params, "val": params.get("val", params["train"])})
    _refuse_problems(whole, ("train", "val") if "val" in params else ("train",), params)
    names, labels = whole.names("train"), whole.labels("train")
    if len(names) < 2:
        raise UserError(
            where, f"{len(names)} images", allowed="at least two, to train and validate"
        )
    if "val" not in params:
        held_out, reason = _held_out(names, in_classes=params["format"] == "folder")
        params["val"] = held_out
        notes.append(reason)
    source = _open(params)
    if whole.kind == "detection" and "max_bad_share" in params:
        _refuse_empty_boxes(source, params["max_bad_share"], where)
    if whole.kind in ("classification", "multilabel"):
        _refuse_empty_classes(source, where)
    if whole.kind == "classification":
        notes.append(_classes(source, labels, where))
    width, height, seconds = _measure(whole, len(names), where, form)
    return OwnSet(
        params,
        reading.words,
        len(source.labels("train")),
        len(source.labels("val")),
        width,
        height,
        seconds,
        tuple(notes),
    )


def _open(params: Mapping[str, Any]) -> Source:
    return open_source(validate(params, AnyDataset, "dataset"))


def _refuse_problems(source: Source, splits: Sequence[str], params: Mapping[str, Any]) -> None:
    """Refuse bad items that are known without reading an image."""
    if params["format"] in ("parquet", "webdataset") or params.get("on_bad") == "skip":
        return  # Their items are read to be listed; ``prepare`` names the bad ones.
    for split in splits:
        found = [(each.item, each.problem) for each in source.problems(split)]
        every = range(len(source.labels(split)))
        found += [(i.id, i.problem) for i in source.items(split, every) if i.problem is not None]
        found += [(name, "its name stands twice") for name in _repeated(source.names(split))]
        if found:
            (item, problem), more = found[0], len(found) - 1
            place = params[split] if isinstance(params[split], str) else params["train"]
            raise UserError(
                place if isinstance(place, str) else str(params["format"]),
                escaped(f"{item}: {problem}") + (f"; and {more:,} more" if more else ""),
                remedy="correct, move or remove it",
            )


def _repeated(names: Sequence[str]) -> list[str]:
    """Names that stood before, however their accents are encoded."""
    first: dict[str, int] = {}
    return [name for i, name in enumerate(names) if first.setdefault(same_written(name), i) != i]


def _refuse_empty_boxes(source: Source, most: float, where: str) -> None:
    """Refuse boxes without area that are too large a share of a split."""
    for split in ("train", "val"):
        items = source.items(split, range(len(source.names(split))))
        boxes = [(item.id, has_area(box.get("bbox"))) for item in items for box in item.annotations]
        empty = [name for name, whole in boxes if not whole]
        if len(empty) > most * len(boxes):
            raise UserError(
                where,
                escaped(
                    f"{len(empty):,} of {len(boxes):,} boxes of {split} have no area, the first in "
                    f"{empty[0]}"
                ),
                allowed=f"{most:.0%} of a split, to leave them out",
                remedy="correct or remove them",
            )


def _refuse_empty_classes(source: Source, where: str) -> None:
    """Refuse classes of which train has no image, and which something names."""
    found = {each for some in source.classes_of("train") for each in some}
    first = min(found, default=0) if source.numbered else 0
    empty = [name for label, name in enumerate(source.classes) if label not in found][first:]
    if empty:
        more = f", and {len(empty) - 1:,} more" if len(empty) > 1 else ""
        raise UserError(
            where,
            escaped(f"class {empty[0]!r} has no image to train{more}"),
            allowed="an image of each class",
            remedy="add images of it, or take it out: its folder, its column or its name",
        )


def _held_out(names: Sequence[str], *, in_classes: bool) -> tuple[dict[str, Any], str]:
    """The validation part of a set that has none, and the reason for it.

    Args:
        names: of the images.
        in_classes: the first folder of a name is its class.
    """
    share = 0.1 if len(names) >= _LARGE else 0.2
    held_out: dict[str, Any] = {"share": share, "seed": 0}
    if (found := group_of(names)) is None:
        depth = 2 if in_classes else 1
        folders = {name.rpartition("/")[0] for name in names if name.count("/") >= depth}
        hint = (
            " If images of one folder are alike, add group: '^(.*)/' to keep folders whole."
            if 1 < len(folders) <= len(names) / 2
            else " If several show one subject, add group, an expression that finds it in names."
        )
        return held_out, f"No validation split was found: {share:.0%} of the images.{hint}"
    group, word, count = found
    reason = (
        f"No validation split was found: {share:.0%} of the images, whole {word}s at a time "
        f"({count:,}, by their names), since images of one {word} are alike."
    )
    return {**held_out, "group": group}, reason


def group_of(names: Sequence[str]) -> tuple[str, str, int] | None:
    """The expression that finds a subject in every name, the word for it, and their number."""
    for word in _SUBJECTS:
        if word not in names[0].lower():
            continue
        for rest in (r"[-_ ]?\d+", r"[-_ ][A-Za-z0-9]+"):
            expression = f"(?i)({word}{rest})"
            found = [re.search(expression, name) for name in names]
            subjects = {each[1] for each in found if each is not None}
            if None not in found and 2 <= len(subjects) < len(names):
                return expression, word, len(subjects)
    return None


def _classes(source: Source, labels: Sequence[int | None], where: str) -> str:
    """A sentence on the classes.

    Raises:
        UserError: there is only one.
    """
    # Labels outside the classes are named by ``prepare``.
    known = range(len(source.classes))
    counts = Counter(label for label in labels if label is not None and label in known)
    if len(counts) < 2:
        raise UserError(
            where,
            f"one class, {source.classes[0] if source.classes else 'unnamed'}",
            allowed="two classes or more, to tell apart",
            remedy="use --format images on a folder of the images, to pretrain on them",
        )
    ((most, images), *_, (least, fewest)), total = counts.most_common(), sum(counts.values())
    return (
        f"{len(counts)} classes; {source.classes[most]} has {images / total:.0%} of the images, "
        f"{source.classes[least]}, the smallest, has {fewest:,}."
    )


def _form(params: Mapping[str, Any]) -> Form | None:
    """Channels and bits of the first image, where it is no picture of 8 bits."""
    if params["format"] not in ("folder", "images", "csv"):
        return None
    # Opened as a set of arrays, which also has the files of NumPy.
    source = _open({**params, "val": params.get("val", params["train"]), "channels": 1})
    for item in source.items("train", range(min(1, len(source.names("train"))))):
        try:
            encoded = item.read()
            decode(encoded, GROUND, MAX_PIXELS)
        except OSError as error:
            if error.errno is not None:  # named where the set is opened
                return None
        except Exception:  # damaged, or no picture of 8 bits
            logging.debug("%s is no picture of 8 bits", item.id)
        else:
            return None
        try:
            found = form_of(encoded)
        except UserError:
            raise
        except Exception:  # named where the image is measured
            return None
        return None if found == Form(*RGB) else found
    return None


def _measure(source: Source, images: int, where: str, form: Form | None) -> tuple[int, int, float]:
    """Median width, height and decoding seconds of a few images."""
    positions = sorted({images * i // _OPENED for i in range(_OPENED)})
    sizes, seconds = [], []
    for item in source.items("train", positions):
        try:
            if item.problem is not None:
                raise UnfitImageError(item.problem)
            data = item.read()
            start = time.perf_counter()
            if form is None:
                sizes.append(decode(data, GROUND, MAX_PIXELS).rgb.size)
            else:
                sizes.append(decode_bands(data, form, MAX_PIXELS).array.shape[:0:-1])
        except (OSError, UnfitImageError) as error:
            raise UserError(
                where,
                escaped(f"{item.id}: {error}"),
                allowed="whole images of 8 bits per channel"
                if form is None
                else f"{in_words((form.channels, form.bits))} in each, as in the first",
                remedy="correct or move it",
            ) from error
        seconds.append(time.perf_counter() - start)
    width, height = (round(statistics.median(sides)) for sides in zip(*sizes, strict=True))
    return width, height, statistics.median(seconds)


def images_of(boxes: Reading) -> Reading:
    """The images of a set with boxes or masks as a set without labels, to pretrain on."""
    of = "masks" if boxes.format == "masks" else "boxes"
    params: dict[str, Any] = {"format": "images", "train": boxes.pictures[0]}
    notes: tuple[str, ...] = ()
    if len(boxes.pictures) > 1:
        params["val"] = boxes.pictures[1]
    elif isinstance(boxes.params.get("val"), Mapping):
        notes = (f"The folder also holds the validation images of the {of}, without their {of}.",)
    return Reading(params, f"the images of the {of}, without labels", notes)
