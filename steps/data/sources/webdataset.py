"""WebDataset: tar files in which the members of one sample stand together and share a key."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from steps.command import UserError
from steps.data.names import check_label_names, same_written
from steps.data.sources.source import (
    Item,
    Source,
    existing_files,
    given,
    numbered_classes,
    short_names,
)
from steps.params.dataset import WebDatasetDataset

_IMAGES = ("jpg", "jpeg", "png", "webp")
_NUMBER = re.compile(rb"\s*-?[0-9]{1,19}\s*")
_BLOCK = 512


class WebDatasetSource(Source):
    """Shards read front to back, never unpacked. Ids are the shard's name and the sample's key.

    A member's key is its path up to the first dot of its name; what follows is its extension.
    Members whose name starts with a dot are not looked at: macOS puts one beside each file.
    """

    def __init__(self, dataset: WebDatasetDataset) -> None:
        self._dataset = dataset
        content = "tar files of samples (WebDataset)"
        self._shards = {
            split: short_names(existing_files(pattern, content))
            for split, pattern in given(dataset).items()
        }
        self.kind = "classification" if dataset.label else "captions"
        self.has_captions = dataset.caption is not None
        self._labels = {
            split: [self._label(sample)[0] for shard in shards for sample in _samples(shard, "cls")]
            for split, shards in self._shards.items()
        }
        self.classes = []
        if dataset.label is not None:
            self.numbered = not dataset.classes
            self.classes = dataset.classes or numbered_classes(self._labels["train"])
            check_label_names(self.classes, f"{dataset.train}: classes")

    def names(self, split: str) -> list[str]:
        return [
            f"{name}/{sample.key}"
            for shard, name in self._shards[split].items()
            for sample in _samples(shard)
        ]

    def labels(self, split: str) -> Sequence[int | None]:
        return self._labels[split]

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        wanted = set(keep)
        start = 0
        for shard, name in self._shards[split].items():
            count = 0
            for position, sample in enumerate(_samples(shard, *_IMAGES, "cls", "txt", "json")):
                count += 1
                if start + position in wanted:
                    yield self._item(f"{name}/{sample.key}", sample)
            start += count

    def _item(self, name: str, sample: _Sample) -> Item:
        images = [extension for extension in sample.members if extension in _IMAGES]
        data = sample.members[images[0]] if images else b""
        label, problem = self._label(sample)
        captions, bad_caption = self._captions(sample)
        if len(images) != 1:
            problem = f"{len(images)} image members ({', '.join(_IMAGES)}), not one"
        problem = sample.problem or problem or bad_caption
        return Item(name, lambda: data, label, captions, problem=problem)

    def _label(self, sample: _Sample) -> tuple[int | None, str | None]:
        if self._dataset.label is None:
            return None, None
        text = sample.members.get("cls")
        if text is None:
            return None, "no .cls member"
        if _NUMBER.fullmatch(text):
            return int(text), None
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
                return (text.decode("utf-8-sig"),), None
            return (json.loads(text)[self._dataset.caption_key],), None
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            return (), f"unreadable caption in the .{self._dataset.caption} member"


class _Sample:
    def __init__(self, key: str) -> None:
        self.key = key
        self.members: dict[str, bytes] = {}
        self.problem: str | None = None

    def add(self, extension: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        """Read a member."""
        if extension in self.members:
            self.problem = f"its member .{extension} stands twice"
        if member.issparse():  # whose size is what its header claims, not what it takes
            self.problem = f"its member .{extension} is a sparse file"
            return
        content = archive.extractfile(member)
        self.members[extension] = content.read() if content else b""


def _samples(shard: Path, *extensions: str) -> Iterator[_Sample]:
    """The samples of a shard in order, with the content of the members of these extensions.

    Raises:
        UserError: the shard is not whole.
    """
    seen: set[str] = set()
    sample: _Sample | None = None
    try:
        with shard.open("rb") as file:
            for member, archive in members(file):
                if member.isfile() and not PurePosixPath(member.name).name.startswith("."):
                    key, extension = _split_name(member.name)
                    if sample is None or sample.key != key:
                        if sample is not None:
                            yield sample
                        sample = _Sample(key)
                        if same_written(key) in seen:
                            sample.problem = "its key stands twice in the shard"
                        seen.add(same_written(key))
                    if extension in extensions:
                        sample.add(extension, member, archive)
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise UserError(
            str(shard),
            f"not readable as an uncompressed tar file ({error})",
            remedy="fetch the shard again, whole",
        ) from error
    if sample is not None:
        yield sample


def members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Members of the archives of a file, one behind the other, as ``cat`` joins them.

    Raises:
        tarfile.TarError: a member is cut, or what ends an archive is not blocks of zeros.
    """
    size = file.seek(0, os.SEEK_END)
    start: int | None = 0
    while start is not None:
        file.seek(start)
        # Opened as a stream that may seek: the members that are not wanted are stepped over.
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
            inside: Any = archive
            while (member := archive.next()) is not None:
                # A damaged size leads beyond the end, or back.
                if not member.offset < inside.offset <= size:
                    raise tarfile.ReadError(f"cut or damaged in member {member.name!a}")
                # tarfile remembers every member it has seen, which a long shard does not need.
                inside.members = []
                yield member, archive
            end = inside.offset
        file.seek(end)
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            raise tarfile.ReadError("does not end like a whole tar file")
        if any(block):
            raise tarfile.ReadError(f"damaged after {end} bytes")
        start = _next_archive(file)


def _next_archive(file: IO[bytes]) -> int | None:
    """Offset at which the blocks of zeros end that the file is at; None: at the file's end."""
    while chunk := file.read(_BLOCK * 2048):
        if any(chunk):
            first = next(i for i in range(0, len(chunk), _BLOCK) if any(chunk[i : i + _BLOCK]))
            return file.tell() - len(chunk) + first
        if len(chunk) % _BLOCK:
            raise tarfile.ReadError("does not end like a whole tar file")
    return None


def _split_name(name: str) -> tuple[str, str]:
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension.lower()
