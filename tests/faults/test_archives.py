"""Archives and tables: read whole, or named where they are cut, damaged or ambiguous."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.builders_data import (
    PARQUET,
    Prepared,
    encoded,
    noise,
    parquet,
    refused,
    rows,
    samples,
    table,
    tar,
    wds,
)


def test_concatenated_archives_are_read_whole(root: Path, tmp_path: Path) -> None:
    parts = [tar(samples([0, 1], first=first)) for first in (0, 10, 20)]
    made = Prepared(tmp_path, wds(root, b"".join(parts)))
    assert made.train.ids == ["t/0", "t/1", "t/10", "t/11", "t/20", "t/21"]
    bare = [part.rstrip(b"\0") for part in parts]  # archives that end at their last member
    bare = [part + bytes(-len(part) % 512) for part in bare]
    made = Prepared(tmp_path, wds(root, b"".join(bare) + bytes(1024)))
    assert len(made.train) == 6
    gap = bytes(512 * 5000)
    made = Prepared(tmp_path, wds(root, parts[0] + gap + parts[1] + gap))
    assert len(made.train) == 4


def _cuts() -> list[int]:
    whole = tar(samples([0, 1, 0]))
    return sorted({1, 100, 511, 512, 513, *range(512, len(whole), 512)})


def test_a_cut_archive_is_found_wherever_it_is_cut(root: Path, tmp_path: Path) -> None:
    first, second = tar(samples([0, 1, 0])), tar(samples([0, 1], first=10))
    end = len(first.rstrip(b"\0"))
    for cut in _cuts():
        for data in (first[:cut], second + first[:cut]):
            if cut >= end + 512:
                continue  # zeros alone are lost
            refused(tmp_path, wds(root, data), "t.tar: not readable", "fetch the shard again")


def test_damage_in_the_middle_is_found(root: Path, tmp_path: Path) -> None:
    whole = tar(samples([0, 1, 0, 1]))
    header = whole.index(b"1.cls") // 512 * 512
    for damage in (b"\xff" * 512, os.urandom(512), whole[header:][:100] + b"9" * 412):
        data = whole[:header] + damage + whole[header + 512 :]
        refused(tmp_path, wds(root, data), "t.tar: not readable")
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        member = archive.getmembers()[2]
    for size in (-512, -(2**40), 2**40, 2**62):  # a size that leads back, or beyond the end
        member.size = size
        forged = member.tobuf(tarfile.GNU_FORMAT)
        data = whole[: member.offset] + forged + whole[member.offset + 512 :]
        refused(tmp_path, wds(root, data), "t.tar: not readable")


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 100, b"PK\3\4" + bytes(2000), b"\x1f\x8b" + bytes(600)]
)
def test_what_is_no_archive_is_named(root: Path, tmp_path: Path, data: bytes) -> None:
    refused(tmp_path, wds(root, data), "t.tar: not readable")


def test_a_member_or_key_that_stands_twice_is_named(root: Path, tmp_path: Path) -> None:
    once = samples([0, 1])
    image, label = encoded(noise(70)), b"0"
    for extra, said in (
        ([("2.png", image), ("2.png", image), ("2.cls", label)], "member .png stands twice"),
        ([("2.png", image), ("2.PNG", image), ("2.cls", label)], "member .png stands twice"),
        ([("2.png", image), ("2.cls", label), ("2.cls", b"1")], "member .cls stands twice"),
        ([("0.png", image), ("0.cls", label)], "its key stands twice"),
        ([("./0.png", image), ("./0.cls", label)], "its key stands twice"),
    ):
        refused(tmp_path, wds(root, tar(once + extra)), said)
    twice = tar(once) + tar(once)
    refused(tmp_path, wds(root, twice), "its key stands twice")


def test_hidden_members_are_not_looked_at(root: Path, tmp_path: Path) -> None:
    """The tar of macOS writes a ``._`` member before each file that has attributes."""
    plain = samples([0, 1])
    pairs = [((f"x/._{name}", b"\0\5\x16\7"), (f"x/{name}", data)) for name, data in plain]
    members = [(".DS_Store", b"x"), *(member for pair in pairs for member in pair)]
    made = Prepared(tmp_path, wds(root, tar(members)))
    assert made.train.ids == ["t/x/0", "t/x/1"]
    refused(tmp_path, wds(root, tar([*plain, ("README", b"x")])), "train t/README: 0 image members")


def test_a_sparse_member_is_not_inflated(root: Path, tmp_path: Path) -> None:
    data = tar(samples([0, 1]))
    info = tarfile.TarInfo("2.png")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"77777777777\0"  # what it claims to hold: 8 GiB
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    label = tar([("2.cls", b"0")])
    sparse = data.rstrip(b"\0")
    sparse += bytes(-len(sparse) % 512) + bytes(header) + label
    refused(tmp_path, wds(root, sparse), "train t/2: its member .png is a sparse file")


def test_two_columns_of_one_name_are_named(root: Path, tmp_path: Path) -> None:
    table(root)
    for twice in ("image", "label"):
        columns = [pa.array(rows(4)), pa.array([0, 1, 0, 1]), pa.array([0, 1, 0, 1])]
        names = ["image", "label", twice]
        pq.write_table(pa.Table.from_arrays(columns, names), root / "t.parquet")
        refused(tmp_path, PARQUET, f"t.parquet: two columns are called '{twice}'")


def test_files_of_one_name_in_two_folders_keep_apart(root: Path, tmp_path: Path) -> None:
    for number, folder in enumerate("xy"):
        parquet(root / folder / "t.parquet", {"image": rows(2, 10 * number), "label": [0, 1]})
    parquet(root / "v.parquet", {"image": rows(2, 50), "label": [0, 1]})
    made = Prepared(tmp_path, {**PARQUET, "train": "*/t.parquet"})
    assert made.train.ids == [f"{folder}/t.parquet/{row}" for folder in "xy" for row in (0, 1)]
