"""The readers: what each makes of files in its format, and of files that are not."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from steps.command import UserError
from steps.data.sources import Item, open_source
from steps.params.dataset import (
    AnnotatedFolder,
    CocoCaptionsDataset,
    CocoDataset,
    FolderDataset,
    ParquetDataset,
    WebDatasetDataset,
)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETEXT_DATA", str(tmp_path))
    return tmp_path


def jpeg(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (value, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _all(source: Any, split: str) -> list[Item]:
    return list(source.items(split, range(len(source.labels(split)))))


# Image folders


@pytest.fixture
def folders(root: Path) -> FolderDataset:
    for name in ("train/b/1.JPEG", "train/a/2.jpg", "train/a/deep/1.png", "val/b/x.jpg"):
        _put(root / name, jpeg())
    return FolderDataset(format="folder", train="train", val="val")


def test_folder_classes_are_sorted(folders: FolderDataset) -> None:
    source = open_source(folders)
    assert source.classes == ["a", "b"]
    assert [(item.id, item.label) for item in _all(source, "train")] == [
        ("a/2.jpg", 0),
        ("a/deep/1.png", 0),
        ("b/1.JPEG", 1),
    ]
    assert [(item.id, item.label) for item in _all(source, "val")] == [("b/x.jpg", 1)]
    assert _all(source, "val")[0].read() == jpeg()


def test_folder_names_what_does_not_belong(folders: FolderDataset, root: Path) -> None:
    for name in ("train/a/notes.txt", "train/a/.hidden", "train/stray.jpg", "val/c/1.jpg"):
        _put(root / name, jpeg())
    source = open_source(folders)
    assert [problem.item for problem in source.problems("train")] == ["stray.jpg", "a/notes.txt"]
    unknown = _all(source, "val")[1]
    assert unknown.problem == "class folder 'c' is not among those of train"


def test_classes_of_folders_can_have_names_in_words(folders: FolderDataset, root: Path) -> None:
    named = folders.model_copy(update={"class_names": "names.txt"})
    _put(root / "names.txt", b"b  sports car\na tench, a fish\nother lamp\n")
    source = open_source(named)
    assert source.classes == ["tench, a fish", "sports car"]
    assert [(item.id, item.label) for item in _all(source, "val")] == [("b/x.jpg", 1)]
    _put(root / "names.txt", b"b sports car\n")
    with pytest.raises(UserError, match=r"names\.txt: no name for the class folder 'a'"):
        open_source(named)
    _put(root / "names.txt", b"b car\na car\n")
    with pytest.raises(UserError, match="two classes have the name 'car'"):
        open_source(named)


def test_missing_folders_say_what_to_put_where(root: Path) -> None:
    dataset = FolderDataset(format="folder", train="train", val="val")
    with pytest.raises(UserError, match=r"train: no such folder.*put one folder of images for"):
        open_source(dataset)
    (root / "train").mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        open_source(dataset)


def test_without_the_variable_the_root_is_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PRETEXT_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^data/train: no such folder.*PRETEXT_DATA is not set"):
        open_source(FolderDataset(format="folder", train="train", val="val"))


# Parquet


def _parquet(path: Path, labels: list[Any], names: list[str] | None = None) -> None:
    images = [{"bytes": jpeg(i), "path": None} for i in range(len(labels))]
    table = pa.table({"image": images, "label": labels, "text": [f"no. {i}" for i in labels]})
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=3)


@pytest.fixture
def parquet(root: Path) -> ParquetDataset:
    _parquet(root / "p" / "train-0.parquet", [0, 1, 2, 0], ["x", "y", "z"])
    _parquet(root / "p" / "train-1.parquet", [1, 2, 0, 1, 2], ["x", "y", "z"])
    _parquet(root / "p" / "val-0.parquet", [2, 1], ["x", "y", "z"])
    return ParquetDataset(format="parquet", train="p/train-*.parquet", val="p/val-*.parquet")


def test_parquet_rows_span_files_and_row_groups(parquet: ParquetDataset) -> None:
    source = open_source(parquet)
    assert source.classes == ["x", "y", "z"]
    assert list(source.labels("train")) == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    items = list(source.items("train", [0, 3, 4, 8]))
    assert [item.id for item in items] == ["train-0/0", "train-0/3", "train-1/0", "train-1/4"]
    assert [item.label for item in items] == [0, 0, 1, 2]
    assert [item.read() for item in items] == [jpeg(0), jpeg(3), jpeg(0), jpeg(4)]


def test_parquet_captions_instead_of_labels(parquet: ParquetDataset) -> None:
    source = open_source(
        parquet.model_copy(update={"label_column": None, "caption_column": "text"})
    )
    assert (source.kind, source.has_captions, source.classes) == ("captions", True, [])
    assert _all(source, "val")[1].captions == ("no. 1",)


def test_parquet_without_names_numbers_the_classes(root: Path) -> None:
    _parquet(root / "t.parquet", [0, 3])
    dataset = ParquetDataset(format="parquet", train="t.parquet", val="t.parquet")
    assert open_source(dataset).classes == ["0", "1", "2", "3"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_parquet_labels_that_are_text(root: Path, kind: pa.DataType) -> None:
    for split, labels in (("t", ["dog", "cat", None]), ("v", ["cat", "bird", "dog"])):
        rows = [{"bytes": jpeg(value), "path": None} for value in range(3)]
        table = pa.table({"image": rows, "label": pa.array(labels, kind)})
        pq.write_table(table, root / f"{split}.parquet")
    source = open_source(ParquetDataset(format="parquet", train="t.parquet", val="v.parquet"))
    assert source.classes == ["cat", "dog"]
    assert [item.label for item in _all(source, "train")] == [1, 0, None]
    assert _all(source, "train")[2].problem == "the row holds no label"
    assert list(source.labels("val")) == [0, None, 1]
    assert _all(source, "val")[1].problem == "its label 'bird' is none of the classes"
    _parquet(root / "v.parquet", [0, 1])
    source = open_source(ParquetDataset(format="parquet", train="t.parquet", val="v.parquet"))
    assert _all(source, "val")[1].problem == "its label 1 is none of the classes"


def test_parquet_rows_without_bytes_or_label_are_problems(root: Path) -> None:
    images = [{"bytes": None, "path": "1.jpg"}, {"bytes": jpeg(), "path": None}]
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("label", pa.int8()),
        ]
    )
    pq.write_table(pa.table({"image": images, "label": [0, None]}, schema), root / "t.parquet")
    dataset = ParquetDataset(format="parquet", train="t.parquet", val="t.parquet")
    problems = [item.problem for item in _all(open_source(dataset), "train")]
    assert problems == ["the row holds no image bytes", "the row holds no label"]


def test_parquet_mistakes_name_the_file(parquet: ParquetDataset, root: Path) -> None:
    with pytest.raises(UserError, match=r"train-0\.parquet: no column 'img'.*image, label, text"):
        open_source(parquet.model_copy(update={"image_column": "img"}))
    with pytest.raises(UserError, match=r"column 'image' is struct.*allowed: an integer type"):
        open_source(parquet.model_copy(update={"label_column": "image"}))
    with pytest.raises(UserError, match="no file matches"):
        open_source(parquet.model_copy(update={"val": "p/test-*.parquet"}))
    (root / "p" / "val-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"val-0\.parquet: not readable as parquet"):
        open_source(parquet)


# WebDataset


def _tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(root: Path) -> WebDatasetDataset:
    first = {"./a/1.jpg": jpeg(1), "./a/1.cls": b"0", "./a/1.txt": b"one", "a/2.PNG": jpeg(2)}
    first |= {"a/2.cls": b"1\n", "a/2.txt": b"two"}
    third = {"3.seg.png": b"", "3.jpeg": jpeg(3), "3.cls": b"1", "3.txt": "drei ä".encode()}
    _tar(root / "w" / "train-0.tar", first)
    _tar(root / "w" / "train-1.tar", third)
    _tar(root / "w" / "val-0.tar", third)
    return WebDatasetDataset(
        format="webdataset", train="w/train-*.tar", val="w/val-*.tar", caption="txt"
    )


def test_webdataset_members_of_a_key_are_one_item(shards: WebDatasetDataset) -> None:
    source = open_source(shards)
    assert source.classes == ["0", "1"]
    assert list(source.labels("train")) == [0, 1, 1]
    items = list(source.items("train", [0, 1, 2]))
    assert [item.id for item in items] == ["train-0/a/1", "train-0/a/2", "train-1/3"]
    assert [item.read() for item in items] == [jpeg(1), jpeg(2), jpeg(3)]
    assert [item.captions for item in items] == [("one",), ("two",), ("drei ä",)]
    assert [item.problem for item in items] == [None] * 3
    assert [item.id for item in source.items("train", [2])] == ["train-1/3"]


def test_webdataset_captions_in_json(root: Path, shards: WebDatasetDataset) -> None:
    _tar(root / "w" / "val-0.tar", {"1.jpg": jpeg(), "1.json": b'{"caption": "c", "url": 1}'})
    dataset = shards.model_copy(update={"label": None, "caption": "json", "train": shards.val})
    source = open_source(dataset)
    assert source.kind == "captions"
    assert _all(source, "val")[0].captions == ("c",)


def test_webdataset_names_incomplete_samples(root: Path, shards: WebDatasetDataset) -> None:
    members = {"1.jpg": jpeg(), "1.txt": b"no label", "2.cls": b"1", "2.txt": b"no image"}
    members |= {"3.jpg": jpeg(), "3.cls": b"cat", "3.txt": b"a word for a label"}
    members |= {"4.jpg": jpeg(), "4.cls": b"0", "4.txt": b"\xff"}
    _tar(root / "w" / "val-0.tar", members)
    problems = [item.problem for item in _all(open_source(shards), "val")]
    assert problems == [
        "no .cls member",
        "0 image members (jpg, jpeg, png, webp), not one",
        "label 'cat' is not a whole number",
        "unreadable caption in the .txt member",
    ]


@pytest.mark.parametrize("cut", [100, 512, 1024, 2000, 9000])
def test_a_cut_shard_is_an_error(root: Path, shards: WebDatasetDataset, cut: int) -> None:
    path = root / "w" / "val-0.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-cut] if cut < 9000 else data[:1024])
    whole_enough = path.read_bytes().endswith(bytes(1024)) and cut % 512 == 0
    if whole_enough:  # blocks of padding alone were lost
        assert len(_all(open_source(shards), "val")) == 1
    else:
        with pytest.raises(UserError, match=r"val-0\.tar: .*whole"):
            open_source(shards)


# COCO


def _coco(root: Path, split: str, content: dict[str, Any]) -> AnnotatedFolder:
    for image in content["images"]:
        _put(root / split / image["file_name"], jpeg())
    _put(root / f"{split}.json", json.dumps(content).encode())
    return AnnotatedFolder(images=split, annotations=f"{split}.json")


def _instances() -> dict[str, Any]:
    def image(number: int) -> dict[str, Any]:
        return {"id": number, "file_name": f"{number}.jpg", "width": 8, "height": 6}

    def box(number: int, image_id: int) -> dict[str, Any]:
        kept = {"id": number, "image_id": image_id, "category_id": 7, "bbox": [0, 0, 4, 4]}
        return kept | {"area": 16, "iscrowd": 0}

    return {
        "images": [image(20), image(3)],
        "annotations": [box(1, 3), box(2, 20), box(3, 20)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    }


def test_coco_items_are_in_the_order_of_their_numbers(root: Path) -> None:
    train, val = (_coco(root, split, _instances()) for split in ("train", "val"))
    source = open_source(CocoDataset(format="coco", train=train, val=val))
    assert source.classes == ["cat", "dog"]
    items = _all(source, "train")
    assert [(item.id, item.image_id, item.size) for item in items] == [
        ("3.jpg", 3, (8, 6)),
        ("20.jpg", 20, (8, 6)),
    ]
    assert [[a["id"] for a in item.annotations] for item in items] == [[1], [2, 3]]


def test_coco_names_missing_images_and_orphans(root: Path) -> None:
    content = _instances()
    content["annotations"].append({"id": 4, "image_id": 99})
    content["images"].append({"id": 5, "file_name": "5.jpg"})
    files = _coco(root, "train", content)
    (root / "train" / "3.jpg").unlink()
    source = open_source(CocoDataset(format="coco", train=files, val=files))
    assert [(problem.item, problem.problem) for problem in source.problems("train")] == [
        ("images[2]", "width None is no whole number above 0"),
        ("annotation 4", "is for image 99, which the file does not list"),
    ]
    problem = _all(source, "train")[0].problem
    assert problem is not None
    assert problem.startswith("is named by train.json, and is missing, in ")


def test_coco_mistakes_name_the_file(root: Path) -> None:
    train = _coco(root, "train", _instances())
    other = _instances() | {"categories": [{"id": 1, "name": "cat"}]}
    with pytest.raises(UserError, match=r"val\.json: its categories differ from those of train"):
        open_source(CocoDataset(format="coco", train=train, val=_coco(root, "val", other)))
    (root / "train.json").write_text('{"images": [')
    with pytest.raises(UserError, match=r"train\.json: not readable as JSON"):
        open_source(CocoDataset(format="coco", train=train, val=train))
    (root / "train.json").write_text('{"images": []}')
    with pytest.raises(UserError, match=r"train\.json: no list 'annotations'"):
        open_source(CocoDataset(format="coco", train=train, val=train))
    (root / "train.json").unlink()
    with pytest.raises(UserError, match=r"train\.json: no such file"):
        open_source(CocoDataset(format="coco", train=train, val=train))


def test_coco_captions_gather_by_image(root: Path) -> None:
    content = _instances()
    content["annotations"] = [
        {"id": 1, "image_id": 20, "caption": "first"},
        {"id": 2, "image_id": 3, "caption": "other"},
        {"id": 3, "image_id": 20, "caption": "second"},
    ]
    files = _coco(root, "train", content)
    source = open_source(CocoCaptionsDataset(format="coco_captions", train=files, val=files))
    assert [item.captions for item in _all(source, "val")] == [("other",), ("first", "second")]
