"""Any tar file, Parquet file, caption, image or dataset params give a set that can be read, or one
line that says what is wrong.

``PRETEXT_FUZZ_EXAMPLES=10000 pytest tests/faults/test_fuzz_sources.py`` runs so many examples of
each test, other ones each time; without it a few, the same ones each time.
"""

from __future__ import annotations

import functools
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import strategies as st
from PIL import Image

from steps.artifacts.manifest import digest_value
from steps.command import UserError
from steps.data.checks import Decoded, check_image
from steps.data.convert import convert
from steps.data.shards import Images
from steps.data.sources import open_source
from steps.data.sources.source import Item
from steps.params.dataset import Dataset
from steps.params.load import load, validate
from tests.faults.builders_data import encoded, noise, parquet, png, put, rows, samples, tar, tiff
from tests.faults.fuzzing import settings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, on damaged files

ODD = [
    *("", " ", "a", "b", "0", "1", "-1", "1.0", "00", "é", "e\u0301", "\u200b", "\ud800", "\udce9"),
    *("../x", "/etc/passwd", ".", "..", "a/b", "a//b", "./1", "1.png", "\0", "\n", "a" * 300),
    *("\\", "*", "[", "**", "**x", "{}", "~", "null", "true", "99999999999", "9" * 5000),
]
texts = st.one_of(st.sampled_from(ODD), st.text(st.characters(), max_size=6))
numbers = st.one_of(
    st.integers(-3, 12),
    st.integers(),
    st.sampled_from([10**11, 2**31, 2**63 - 1, 2**64, 10**400, True, False]),
    st.floats(),
)
values = st.recursive(
    st.one_of(st.none(), numbers, texts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
damages = st.lists(
    st.tuples(st.integers(0, 20_000), st.integers(0, 600), st.binary(max_size=12)), max_size=2
)
"""(where, how many bytes go, what comes instead)."""
tolerances = st.sampled_from([{}, {"on_bad": "skip", "max_bad_share": 0.99}])


@functools.cache
def image(seed: int) -> bytes:
    """A small image file."""
    return encoded(noise(seed, 4, 3))


IMAGES = [
    *(image(seed) for seed in range(6)),
    *(b"", b"no image", image(0)[:40], png(np.full((2, 2, 3), 9000, np.uint16), 2)),
    *(encoded(noise(9, 4, 3), "JPEG"), tiff(noise(9, 4, 3, 4), 2, [0])),
]
images = st.sampled_from(IMAGES)


def damaged(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """The file with parts replaced; places count round."""
    for place, length, new in changes:
        start = place % (len(data) + 1)
        data = data[:start] + new + data[start + length :]
    return data


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETEXT_DATA", str(tmp_path))
    (tmp_path / "out").mkdir()
    return tmp_path


def or_refused(made: Callable[[], Any]) -> Any:
    """What a function gives; None where it refuses in one line."""
    message = ""
    try:
        found = made()
    except UserError as error:
        found, message = None, str(error)
    hypothesis.event("refused" if message else "taken")
    assert "\n" not in message
    assert len(message) < 20_000
    return found


def prepared(root: Path, params: dict[str, Any]) -> None:
    """Prepare a set, and read it as every step does; or see it refused in one line."""
    dataset: Any = validate(params, Dataset, "set.yaml")  # type: ignore[arg-type]
    facts = or_refused(lambda: convert(open_source(dataset), dataset, "set.yaml", root / "out"))
    if facts is None:
        return
    digest_value(facts)  # JSON of finite numbers
    json.dumps(facts, ensure_ascii=False).encode()
    for split in ("train", "val"):
        found = Images(root / "out", split)
        assert len(found) == len(set(found.ids)) == facts["splits"][split]["images"] > 0
        for index in range(len(found)):
            assert found.image(index).size == tuple(found.sizes[index])
            assert all(caption.strip() for caption in found.captions(index))
        if found.has_labels:
            assert found.labels.min() >= 0
            assert found.labels.max() < len(facts["classes"])


VAL_TAR = tar(samples([0, 1], first=90))
members = st.lists(
    st.tuples(
        st.sampled_from(["0", "1", "2", "3", "x/1", "./1"]) | texts,
        st.sampled_from([".png", ".cls", ".txt", ".json", ".jpg", ".PNG", "", ".a.b"]) | texts,
        st.one_of(
            images,
            st.sampled_from([b"0", b"1", b"2", b" 1\n", b"", b"-1", b"1" * 30, b"a", b"\xff"]),
            st.builds(lambda value: json.dumps({"caption": value}).encode(), values),
            st.sampled_from(
                [b"[" * 5000, b'{"caption": "one"}', "zwölf".encode(), b"\xe2\x80\x8b"]
            ),
            st.binary(max_size=9),
        ),
    ),
    max_size=8,
)


def archive(found: list[tuple[str, str, bytes]]) -> bytes:
    """A tar of (key, extension, content); names that no header holds are left out."""
    kept = []
    for key, extension, content in found:
        name = key + extension
        if "\0" in name or not name.encode(errors="replace").strip(b"/."):
            continue
        try:
            name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            continue
        kept.append((name, content))
    return tar(kept)


@hypothesis.given(
    good=st.booleans(),
    first=members,
    second=st.none() | members,
    changes=damages,
    target=st.sampled_from(
        [{}, {"label": None, "caption": "txt"}, {"caption": "json"}, {"classes": ["a", "b"]}]
    ),
    tolerance=tolerances,
)
@settings
def test_webdataset(
    root: Path,
    good: bool,
    first: list[Any],
    second: list[Any] | None,
    changes: list[Any],
    target: dict[str, Any],
    tolerance: dict[str, Any],
) -> None:
    whole = [
        (f"g{n}", e, c)
        for n in range(3)
        for e, c in ((".png", image(n)), (".cls", b"%d" % (n % 2)))
    ]
    whole += [(f"g{n}", e, c) for n in (7, 8) for e, c in ((".png", image(n)), (".cls", b"0"))]
    for extension, text in ((".txt", b"text"), (".json", b'{"caption": "text"}')):
        whole = [
            one
            for entry in whole
            for one in ([entry, (entry[0], extension, text)] if entry[1] == ".cls" else [entry])
        ]
    data = archive([*(whole if good else []), *first])
    data += b"" if second is None else archive(second)
    put(root / "t.tar", damaged(data, changes))
    put(root / "v.tar", archive(whole))
    prepared(
        root, {"format": "webdataset", "train": "t.tar", "val": "v.tar", **target, **tolerance}
    )


columns = st.one_of(
    st.lists(st.integers(-1, 3), min_size=4, max_size=4),
    st.lists(st.none() | st.integers(0, 2**63 - 1), min_size=4, max_size=4),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.lists(st.floats(), min_size=4, max_size=4),
    st.lists(st.none() | st.text(max_size=4), min_size=4, max_size=4),
    st.lists(st.none() | st.binary(max_size=4), min_size=4, max_size=4),
    st.lists(st.none() | images, min_size=4, max_size=4),
    st.lists(
        st.none() | st.fixed_dictionaries({"bytes": st.none() | images, "path": st.none()}),
        min_size=4,
        max_size=4,
    ),
    st.lists(
        st.none() | st.lists(st.none() | st.text(max_size=3), max_size=2), min_size=4, max_size=4
    ),
    st.just(rows(4)),
    st.just([0, 1, 0, 1]),
    st.just(["one", "two", "three", "four"]),
)
KINDS = [
    None,
    pa.int8(),
    pa.uint64(),
    pa.string(),
    pa.large_binary(),
    pa.dictionary(pa.int8(), pa.string()),
]


def column(data: list[Any], kind: Any) -> Any:
    """An Arrow array, of the kind where the values allow it."""
    try:
        return pa.array(data, kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return pa.array(data)


@hypothesis.given(
    table=st.lists(
        st.tuples(
            st.sampled_from(["image", "label", "text", "a.b", ""]), columns, st.sampled_from(KINDS)
        ),
        max_size=4,
    ),
    base=st.booleans(),
    metadata=st.none()
    | values
    | st.builds(lambda names: {"info": {"features": {"label": {"names": names}}}}, values),
    changes=damages,
    group=st.integers(1, 4),
    target=st.sampled_from(
        [
            {},
            {"caption_column": "text"},
            {"label_column": None, "caption_column": "text"},
            {"classes": ["a", "b"]},
        ]
    ),
    tolerance=tolerances,
)
@settings
def test_parquet(
    root: Path,
    table: list[Any],
    base: bool,
    metadata: Any,
    changes: list[Any],
    group: int,
    target: dict[str, Any],
    tolerance: dict[str, Any],
) -> None:
    arrays = {
        "image": pa.array(rows(4)),
        "label": pa.array([0, 1, 0, 1]),
        "text": pa.array(list("abcd")),
    }
    names, data = (list(arrays), list(arrays.values())) if base else ([], [])
    for name, content, kind in table:
        names.append(name)
        data.append(column(content, kind))
    made = pa.Table.from_arrays(data, names) if data else pa.table({})
    if metadata is not None:
        text = json.dumps(metadata).encode(errors="replace")
        made = made.replace_schema_metadata({"huggingface": text})
    file = io.BytesIO()
    pq.write_table(made, file, row_group_size=group)
    put(root / "t.parquet", damaged(file.getvalue(), changes))
    parquet(root / "v.parquet", {"image": rows(2, 50), "label": [0, 1], "text": ["e", "f"]})
    prepared(
        root, {"format": "parquet", "train": "t.parquet", "val": "v.parquet", **target, **tolerance}
    )


@hypothesis.given(
    captions=st.lists(values, min_size=1, max_size=4),
    tolerance=tolerances,
    kind=st.sampled_from(["txt", "json"]),
)
@settings
def test_captions(root: Path, captions: list[Any], tolerance: dict[str, Any], kind: str) -> None:
    found = [("9.png", image(9)), ("9.json", b'{"caption": "good"}'), ("9.txt", b"good")]
    for number, caption in enumerate(captions):
        text = str(caption).encode("utf-8", "surrogatepass")
        found += [(f"{number}.png", image(number)), (f"{number}.txt", text)]
        found.append((f"{number}.json", json.dumps({"caption": caption}).encode()))
    for name in "tv":
        put(root / f"{name}.tar", tar(found))
    params = {"format": "webdataset", "train": "t.tar", "val": "v.tar", "label": None}
    prepared(root, {**params, "caption": kind, **tolerance})


def _seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    many = [Image.fromarray(noise(seed, 9, 7)) for seed in (1, 2)]
    more: dict[str, Any] = {"save_all": True, "append_images": many[1:]}
    seeds = [encoded(noise(0, 9, 7, 4), kind) for kind in ("PNG", "TIFF", "WEBP")]
    seeds += [encoded(noise(0, 9, 7), kind, exif=exif) for kind in ("JPEG", "PNG", "TIFF", "WEBP")]
    seeds += [encoded(many[0], kind, **more) for kind in ("GIF", "PNG", "TIFF", "WEBP")]
    seeds += [encoded(many[0], "BMP"), encoded(many[0].convert("CMYK"), "JPEG")]
    seeds += [encoded(many[0].quantize(5), "PNG", transparency=0)]
    seeds += [tiff(noise(0, 5, 4, bands), 2, [1] * (bands - 3)) for bands in (3, 4, 5)]
    return [*seeds, png(np.full((2, 2, 4), 900, np.uint16), 6), struct.pack("<2sHI", b"II", 42, 8)]


@hypothesis.given(
    data=st.sampled_from(_seeds()),
    changes=st.lists(
        st.tuples(st.integers(0, 900), st.integers(0, 3), st.binary(max_size=3)), max_size=4
    ),
    short_side=st.sampled_from([None, 1, 4]),
)
@settings
def test_images(data: bytes, changes: list[Any], short_side: int | None) -> None:
    file = damaged(data, changes)
    result = check_image(Item("x", lambda: file), short_side, (9, 99, 199), 10**6)
    if isinstance(result, str):
        hypothesis.event("refused")
        return
    hypothesis.event("taken")
    assert isinstance(result, Decoded)
    with Image.open(io.BytesIO(result.encoded)) as stored:
        assert stored.convert("RGB").size == (result.width, result.height)


BASE: dict[str, dict[str, Any]] = {
    "folder": {"train": "a", "val": "b", "class_names": "c"},
    "parquet": {"train": "a", "val": "b", "classes": ["x", "y"]},
    "webdataset": {"train": "a", "val": "b", "caption": "txt"},
    "coco": {
        "train": {"images": "a", "annotations": "b"},
        "val": {"images": "a", "annotations": "b"},
    },
    "coco_captions": {
        "train": {"images": "a", "annotations": "b"},
        "val": {"images": "a", "annotations": "b"},
    },
}
KEYS = ["format", "train", "val", "limit", "on_bad", "max_bad_share", "ground", "max_pixels"]
KEYS += ["max_in_both", "resize_short_side", "classes", "class_names", "label", "caption", "extra"]


@hypothesis.given(
    kind=st.sampled_from(list(BASE)),
    changes=st.dictionaries(st.sampled_from(KEYS), values, max_size=3),
    damage=damages,
)
@settings
def test_params(tmp_path: Path, kind: str, changes: dict[str, Any], damage: list[Any]) -> None:
    text = yaml.safe_dump({"format": kind, **BASE[kind], **changes}, allow_unicode=True)
    file = put(tmp_path / "set.yaml", damaged(text.encode(errors="replace"), damage))
    dataset = or_refused(lambda: load(file, Dataset))  # type: ignore[arg-type]
    if dataset is not None:
        digest_value(dataset.resolved())


@hypothesis.given(
    kind=st.sampled_from(["folder", "parquet", "webdataset"]),
    place=texts | st.text("./*?[]ab\\~", max_size=9),
)
@settings
def test_places(root: Path, kind: str, place: str) -> None:
    put(root / "a/b/0.png", image(0))
    params = {"format": kind, **BASE[kind], "train": place, "val": place}
    or_refused(lambda: open_source(validate(params, Dataset, "set.yaml")))  # type: ignore[arg-type]
