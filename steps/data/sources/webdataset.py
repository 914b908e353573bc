"""WebDataset: tar files in which the members of one sample stand together and share a key."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO

from steps.command import UserError
from steps.data.sources.source import Item, Source, check_label_names, existing_files
from steps.params.dataset import WebDatasetDataset

_IMAGES = ("jpg", "jpeg", "png", "webp")
_BLOCK = 512


class WebDatasetSource(Source):
    """Shards read front to back, never unpacked. Ids are the shard's name and the sample's key.

    A member's key is its path up to the first dot of its name; what follows is its extension.
    """

    def __init__(self, dataset: WebDatasetDataset) -> None:
        self._dataset = dataset
        content = "tar files of samples (WebDataset)"
        self._shards = {
            "train": existing_files(dataset.train, content),
            "val": existing_files(dataset.val, content),
        }
        self.kind = "classification" if dataset.label else "captions"
        self.has_captions = dataset.caption is not None
        self._labels = {
            split: [self._label(sample)[0] for shard in shards for sample in _samples(shard, "cls")]
            for split, shards in self._shards.items()
        }
        self.classes = []
        if dataset.label is not None:
            known = [label for label in self._labels["train"] if label is not None]
            self.classes = dataset.classes or [str(n) for n in range(max(known, default=-1) + 1)]
            check_label_names(self.classes, f"{dataset.train}: classes")

    def labels(self, split: str) -> Sequence[int | None]:
        return self._labels[split]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        wanted = set(keep)
        start = 0
        for shard in self._shards[split]:
            count = 0
            for position, sample in enumerate(_samples(shard, *_IMAGES, "cls", "txt", "json")):
                count += 1
                if start + position in wanted:
                    yield self._item(f"{shard.stem}/{sample.key}", sample)
            start += count

    def _item(self, name: str, sample: _Sample) -> Item:
        images = [extension for extension in sample.members if extension in _IMAGES]
        data = sample.members[images[0]] if images else b""
        label, problem = self._label(sample)
        captions, bad_caption = self._captions(sample)
        if len(images) != 1:
            problem = f"{len(images)} image members ({', '.join(_IMAGES)}), not one"
        return Item(name, lambda: data, label, captions, problem=problem or bad_caption)

    def _label(self, sample: _Sample) -> tuple[int | None, str | None]:
        if self._dataset.label is None:
            return None, None
        text = sample.members.get("cls")
        if text is None:
            return None, "no .cls member"
        try:
            return int(text), None
        except ValueError:
            shown = text[:20].decode(errors="replace")
            return None, f"label {shown!r} is not a whole number"

    def _captions(self, sample: _Sample) -> tuple[tuple[str, ...], str | None]:
        if self._dataset.caption is None:
            return (), None
        text = sample.members.get(self._dataset.caption)
        if text is None:
            return (), f"no .{self._dataset.caption} member for the caption"
        try:
            if self._dataset.caption == "txt":
                return (text.decode(),), None
            return (json.loads(text)[self._dataset.caption_key],), None
        except (ValueError, KeyError, TypeError, IndexError):
            return (), f"unreadable caption in the .{self._dataset.caption} member"


class _Sample:
    def __init__(self, key: str, members: dict[str, bytes]) -> None:
        self.key = key
        self.members = members


def _samples(shard: Path, *extensions: str) -> Iterator[_Sample]:
    """The samples of a shard in order, with the content of the members of these extensions."""
    _check_end(shard)
    try:
        # Opened as a stream that may seek: the members that are not wanted are stepped over.
        with tarfile.open(shard, "r:") as tar:
            files = (member for member in tar if member.isfile())
            for key, members in groupby(files, key=lambda member: _split_name(member.name)[0]):
                content: dict[str, bytes] = {}
                for member in members:
                    extension = _split_name(member.name)[1]
                    if extension in extensions:
                        file: IO[bytes] | None = tar.extractfile(member)
                        content[extension] = file.read() if file else b""
                # tarfile remembers every member it has seen, which a long shard does not need.
                tar.members = []  # type: ignore[attr-defined]
                yield _Sample(key, content)
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            str(shard),
            f"not readable as an uncompressed tar file ({error})",
            remedy="fetch the shard again, whole",
        ) from error


def _split_name(name: str) -> tuple[str, str]:
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()


def _check_end(shard: Path) -> None:
    """A tar file that was cut between two members reads as a shorter one; its end tells."""
    with shard.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _BLOCK))
        if size % _BLOCK or file.read() != bytes(_BLOCK):
            raise UserError(
                str(shard),
                "does not end like a whole tar file",
                remedy="fetch the shard again, whole",
            )
