"""Readings of what lies at a path: class folders, images without labels, tables, archives, COCO."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.command import UserError
from steps.data.sources.folder import walk
from steps.data.sources.parquet import is_text
from steps.data.sources.source import ARRAY_SUFFIXES, IMAGE_SUFFIXES, image_names
from workflow.coco_files import is_coco, read_coco
from workflow.mask_files import read_masks
from workflow.places import (
    READ,
    SPLITS,
    folders_in,
    grouped,
    listed,
    pattern_of,
    place_of,
    split_of,
)
from workflow.table_files import LABELS, Columns, label_column, names_images, read_tables, rows_of

FORMATS = ("folder", "images", "csv", "parquet", "webdataset", "coco", "masks")
"""Formats that a folder of a user can have."""


@dataclass(frozen=True)
class Reading:
    """One way to read a path."""

    params: Mapping[str, Any]
    """Params of the dataset; without ``val`` if the path has no validation split."""
    words: str
    """Description for the user."""
    notes: tuple[str, ...] = ()
    """Facts that the params file states as comments."""
    problem: str | None = None
    """Reason that this reading cannot be taken as the files lie."""
    pictures: tuple[str, ...] = ()
    """Image folders of a set with boxes or masks, train first."""

    @property
    def format(self) -> str:
        return str(self.params["format"])


def read_paths(paths: Sequence[str], chosen: str | None, columns: Columns) -> list[Reading]:
    """The reading of each path. Image folders that a COCO file names belong to its reading.

    Args:
        paths: as the user gives them.
        chosen: the format that decides where a path can be read in two ways.
        columns: of a table, that the user names.

    Raises:
        UserError: a path is absent, empty, unreadable, of no known format, or can be read in two
            ways.
    """
    groups = list(grouped(paths))
    folders = [files[0] for files in groups if files[0].is_dir()]
    used: list[Path] = []
    jsons = [files for files in groups if files[0].suffix.lower() == ".json"]
    readings = [_annotated(files, folders, used) for files in jsons]
    for files in groups:
        if files[0].suffix.lower() != ".json" and files[0] not in used:
            possible = list(_readings(files, chosen, columns))
            readings.append(_only(files[0], possible, chosen))
    if chosen is not None and chosen not in [each.format for each in readings]:
        raise UserError(
            f"--format {chosen}",
            f"the paths can only be read as {'; '.join(each.words for each in readings)}",
            allowed=", ".join(dict.fromkeys(each.format for each in readings)),
            remedy="leave the option out, or give other paths",
        )
    return readings


def _only(path: Path, possible: Sequence[Reading], chosen: str | None) -> Reading:
    """The one reading of a path, or the chosen one."""
    fitting = [each for each in possible if each.format == chosen] or possible
    if not fitting:
        raise UserError(
            str(path),
            f"a {path.suffix or 'nameless'} file",
            allowed=READ,
            remedy="give another path",
        )
    if len(fitting) > 1:
        raise UserError(
            str(path),
            f"can be read as {'; or as '.join(each.words for each in fitting)}",
            allowed=" or ".join(f"--format {each.format}" for each in fitting),
            remedy="add the option of the reading that is meant",
        )
    if fitting[0].problem is not None:
        raise UserError(
            str(path),
            fitting[0].problem,
            allowed="images in class folders only, or none",
            remedy="move them into a class folder, or use --format images",
        )
    return fitting[0]


def _annotated(files: Sequence[Path], folders: Sequence[Path], used: list[Path]) -> Reading:
    """The reading of COCO's files; the folders of their images are added to ``used``."""
    found = read_coco(files, folders)
    used += found.given
    return Reading(found.params, found.words, found.notes, pictures=found.folders)


def _tables(files: Sequence[Path], folders: Sequence[Path], columns: Columns) -> Reading:
    found = read_tables(files, folders, columns)
    return Reading(found.params, found.words, found.notes)


# --- One path


def _readings(files: list[Path], chosen: str | None, columns: Columns) -> Iterator[Reading]:
    path = files[0]
    suffix = path.suffix.lower()
    if suffix == ".tar":
        yield from _tars(files)
    elif suffix == ".parquet":
        yield _parquet(files, columns)
    elif path.is_dir():
        yield from _in_folder(path, chosen, columns)
    elif suffix in (".csv", ".tsv"):
        yield _tables(files, [], columns)
    elif suffix == ".txt":
        yield Reading({"format": "images", "train": place_of(path)}, "a list of images")


def _in_folder(folder: Path, chosen: str | None, columns: Columns) -> Iterator[Reading]:
    walked = walk(folder)
    for name, problem in walked:
        if problem is not None and "unreadable" in problem:
            where = str(folder / name) if name else str(folder)
            raise UserError(where, problem, remedy="make it readable, or leave it out")
    names = [name for name, problem in walked if problem is None]
    if not names:
        raise UserError(str(folder), "an empty folder", allowed=READ)
    by_suffix: dict[str, list[str]] = {}
    for name in names:
        suffix = PurePath(name).suffix.lower()
        by_suffix.setdefault("image" if suffix in IMAGE_SUFFIXES else suffix, []).append(name)
    for suffix in ARRAY_SUFFIXES:
        # Beside pictures they may be anything, such as features of them.
        if "image" not in by_suffix and suffix in by_suffix:
            by_suffix["image"] = by_suffix.pop(suffix)
    images = by_suffix.get("image", [])
    jsons = [folder / name for name in by_suffix.get(".json", [])]
    opened = jsons if len(jsons) <= _FEW_FILES else []
    if annotated := [file for file in opened if is_coco(file)]:
        yield _annotated(annotated, [folder], [])
        if chosen != "images":
            return
    tables = [folder / name for name in (*by_suffix.get(".csv", []), *by_suffix.get(".tsv", []))]
    around = [folder, *folders_in(folder)]
    ignored: tuple[str, ...] = ()
    if images and tables and chosen in (None, "csv"):
        named = [table for table in tables if names_images(table, around, columns)]
        if others := [table for table in tables if table not in named]:
            ignored = (f"Not read, since no column names images: {listed(others)}.",)
        if named or chosen == "csv":
            found = _tables(named or tables, around, columns)
            yield replace(found, notes=ignored + found.notes)
            # A table of every image leaves no doubt; one of some of them does.
            if sum(len(rows_of(table)[1]) for table in named) >= len(images):
                return
    if ".parquet" in by_suffix:
        yield _parquet([folder / name for name in by_suffix[".parquet"]], columns)
    if ".tar" in by_suffix:
        yield from _tars([folder / name for name in by_suffix[".tar"]])
    if images:
        yield from _tree(folder, images, ignored, chosen)
    elif not {".parquet", ".tar"} & by_suffix.keys():
        counts = ", ".join(
            f"{len(some)} {suffix or 'without an ending'}" for suffix, some in by_suffix.items()
        )
        raise UserError(
            str(folder),
            f"no image, only other files: {counts}",
            allowed=f"{READ}; an image ends in {image_names()}",
        )


_FEW_FILES = 20
"""JSON files that are opened to see if they are COCO's. More are sidecars of images."""


def _tree(
    folder: Path, images: Sequence[str], notes: tuple[str, ...], chosen: str | None
) -> Iterator[Reading]:
    """Readings of a folder of images, with notes on its other files."""
    masked = None if chosen in ("folder", "images") else read_masks(folder, images)
    if masked is not None:
        yield Reading(masked.params, masked.words, notes + masked.notes, pictures=masked.folders)
        if masked.certain:
            return
    at_top = {name.split("/")[0] for name in images if "/" in name}
    splits = {split: _named(at_top, names) for split, names in SPLITS.items()}
    places, own = {"train": place_of(folder)}, list(images)
    twins: set[str] = set()
    in_splits = at_top <= {*splits.values()} and all("/" in name for name in images)
    if (train := splits["train"]) and in_splits:
        places, own = {"train": place_of(folder / train)}, _below(images, train)
        if val := splits["val"]:
            places["val"] = place_of(folder / val)
            twins = {name.split("/")[0] for name in _below(images, val) if "/" in name}
        if splits["test"]:
            notes += (f"{splits['test']}/ is not read: an experiment reads train and val.",)
    classes = Counter(name.split("/")[0] for name in own if "/" in name)
    strays = [name for name in own if "/" not in name]
    beside = f", and {number(strays, 'image')} beside them" if strays else ""
    labelled = Reading(
        {"format": "folder", **places},
        f"{number(classes, 'class folder')} ({_first(classes)}){beside}",
        notes,
        f"{number(strays, 'image')} beside the class folders, such as {strays[0]}"
        if strays
        else None,
    )
    # Folders of the same names in train and val are classes. Otherwise they may be anything.
    if len(classes) >= 2 or (strays and classes):
        yield labelled
    if strays or not twins or not twins <= classes.keys() or len(classes) < 2:
        yield Reading(
            {"format": "images", **places}, f"{number(own, 'image')} without labels", notes
        )


def _named(folders: Iterable[str], names: Sequence[str]) -> str | None:
    """The first folder of one of these names."""
    return next((name for name in sorted(folders) if name.lower() in names), None)


def _below(names: Sequence[str], folder: str) -> list[str]:
    return [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]


def number(things: Sized, word: str) -> str:
    """Number of things with their word, such as 2 images."""
    return f"{len(things):,} {word}{'' if len(things) == 1 else 's'}"


def _first(counts: Mapping[str, int], most: int = 4) -> str:
    shown = [f"{name} {count:,}" for name, count in list(counts.items())[:most]]
    return ", ".join([*shown, *(["..."] if len(counts) > most else [])])


# --- Shards


def _shards(files: Sequence[Path]) -> tuple[dict[str, str], Path, tuple[str, ...]]:
    """A glob for each split, the first training file, and notes on files that are not read."""
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(split_of(file), []).append(file)
    if "train" not in by_split or None in by_split:
        by_split = {"train": list(files)}
    splits = [split for split in SPLITS if split in by_split and split != "test"]
    places = {split: pattern_of(by_split[split]) for split in splits}
    notes = (f"Not read: {listed(by_split['test'])}.",) if "test" in by_split else ()
    return places, by_split["train"][0], notes


def _tars(files: list[Path]) -> Iterator[Reading]:
    places, train, notes = _shards(sorted(files))
    endings: Counter[str] = Counter()
    try:
        with tarfile.open(train, "r:") as archive:
            for position, member in enumerate(archive):
                name = PurePath(member.name).name
                if member.isfile() and not name.startswith("."):
                    endings[name.partition(".")[2].lower()] += 1
                if position == _MEMBERS:
                    break
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            str(train),
            f"not readable as an uncompressed tar file ({error})",
            remedy="fetch the file again, whole, or unpack it",
        ) from error
    count = number(files, "tar file")
    shards = {"format": "webdataset", **places}
    if "cls" in endings:
        yield Reading({**shards, "label": "cls"}, f"{count} of images and labels (.cls)", notes)
        return
    if "txt" in endings:
        params = {**shards, "label": None, "caption": "txt"}
        yield Reading(params, f"{count} of images and captions (.txt)", notes)
    yield Reading({"format": "images", **places}, f"images without labels in {count}", notes)


_MEMBERS = 300
"""Members of a tar file that are looked at to find its kind."""


def _parquet(files: list[Path], columns: Columns) -> Reading:
    places, train, notes = _shards(sorted(files))
    try:
        schema = pq.read_schema(train)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            str(train), f"not readable as parquet ({error})", remedy="fetch the file again, whole"
        ) from error
    images = [each.name for each in schema if _holds_images(each.type)]
    named = [name for name in images if columns.image in (None, name)]
    if len(named) != 1:
        raise UserError(
            str(train),
            f"{len(images)} columns of images among {', '.join(schema.names)}",
            allowed=" or ".join(f"--image-column {name}" for name in images)
            or "a column of image bytes, as Hugging Face datasets writes it",
        )
    integers = [each.name for each in schema if pa.types.is_integer(each.type)]
    texts = [each.name for each in schema if is_text(each.type)]
    params = {"format": "parquet", **places, "image_column": named[0]}
    count = number(files, "parquet file")
    label_columns = columns.labels
    if len(label_columns) > 1:
        raise UserError(
            f"--label-column {label_columns[1]}",
            f"a second column, and {train} is a Parquet file",
            allowed="one column of labels; several in a table",
        )
    likely = [name for name in texts if name.lower() in LABELS]
    candidates = [*integers, *likely] or _repeated(train, texts)
    if not label_columns and not candidates and len(texts) == 1:
        params |= {"label_column": None, "caption_column": texts[0]}
        return Reading(params, f"{count} of images and captions (column {texts[0]})", notes)
    unlabelled = "unpack the images into a folder, to pretrain on them"
    label, *_ = label_columns or [label_column(str(train), candidates, schema.names, unlabelled)]
    params["label_column"] = label
    return Reading(params, f"{count} of images and labels ({label})", notes)


def _repeated(file: Path, columns: Sequence[str]) -> list[str]:
    """Columns of text whose values repeat, as those of labels do and captions do not."""
    table = pq.read_table(file, columns=list(columns))
    distinct = {name: len(table[name].unique()) for name in columns}
    return [name for name, count in distinct.items() if 1 < count <= len(table) / 2]


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
