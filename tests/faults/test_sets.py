"""Sets: whatever is wrong with labels, names, links, archives and splits is named in one line."""

from __future__ import annotations

import importlib
import logging
import os
import resource
import subprocess
import sys
import textwrap
import time
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from steps.artifacts import publish
from steps.command import UserError
from steps.data.checks import check_caption
from steps.params.checks import load_plan
from steps.params.dataset import Dataset
from steps.params.load import validate
from tests.faults.builders_data import (
    PARQUET,
    SKIP,
    WDS,
    Prepared,
    encoded,
    folders,
    noise,
    parquet,
    put,
    refused,
    rows,
    samples,
    table,
    tar,
    wds,
)
from tests.processes import REPOSITORY
from tests.scenery import Scenery

# Labels

LARGE = [99_999_999_999, 300_000, 2**62, 10**17]


@pytest.mark.parametrize("label", LARGE)
@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_a_large_label_costs_nothing(root: Path, tmp_path: Path, label: int, kind: str) -> None:
    if kind == "webdataset":
        params = wds(root, tar(samples([0, 1, label, 0])))
    else:
        table(root)
        labels = pa.array([0, 1, label, 0], pa.uint64())
        parquet(root / "t.parquet", {"image": rows(4), "label": labels})
        params = PARQUET
    started = time.monotonic()
    refused(tmp_path, params, f"train t/2: label {label} is outside 0 to 1")
    made = Prepared(tmp_path, {**params, **SKIP})
    assert time.monotonic() - started < 5
    assert made.facts["classes"] == ["0", "1"]
    assert [problem["item"] for problem in made.facts["problems"]] == ["t/2"]


def test_a_large_label_takes_no_memory(root: Path, tmp_path: Path) -> None:
    wds(root, tar(samples([0, 1, LARGE[0], 0])))
    file = put(tmp_path / "d.yaml", b"{format: webdataset, train: t.tar, val: v.tar}")
    code = f"""
        from pathlib import Path
        from steps.prepare import prepare
        prepare(Path({str(file)!r}), Path({str(tmp_path / "out")!r}))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"label {LARGE[0]} is outside 0 to 1" in done.stderr


def test_many_gaps_give_a_bounded_message(root: Path, tmp_path: Path) -> None:
    parquet(root / "v.parquet", {"image": rows(2, 50), "label": [0, 1]})
    image = {"bytes": encoded(Image.new("1", (1, 1)))}
    count = 3000
    labels = [0] * (count - 1) + [count - 1]
    parquet(root / "t.parquet", {"image": [image] * count, "label": labels})
    refused(tmp_path, PARQUET, "train class '1': no image", f"and {count - 5} more")


@pytest.mark.parametrize(
    "text", ["1_0", "٣", "0x1", "1.0", "", "true", "True", "9" * 5000, "1e3", "\ufeff1", "1 0"]
)
def test_only_whole_numbers_are_labels(root: Path, tmp_path: Path, text: str) -> None:
    params = wds(root, tar(samples([0, 1, text, 0])))
    refused(tmp_path, params, "train t/2: label", "is not a whole number")


@pytest.mark.parametrize("text", ["1", " 1\n", "01"])
def test_numbers_are_read_with_spaces_around(root: Path, tmp_path: Path, text: str) -> None:
    made = Prepared(tmp_path, wds(root, tar(samples([0, text, 0]))))
    assert made.train.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (pa.array([True, False, True, False]), "column 'label' is bool"),
        (pa.array([0.0, 1.0, 0.0, 1.0]), "column 'label' is double"),
        (pa.array([0, -1, 0, 1]), "label -1 is outside"),
        (pa.array([0, None, 0, 1]), "the row holds no label"),
        (pa.array([[0], [1], [0], [1]]), "column 'label' is list"),
    ],
)
def test_labels_of_other_kinds_are_named(
    root: Path, tmp_path: Path, labels: Any, said: str
) -> None:
    table(root)
    parquet(root / "t.parquet", {"image": rows(4), "label": labels})
    refused(tmp_path, PARQUET, said)


# Names

NFC, NFD = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
LATIN = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("name", [f"a/{LATIN}.png", f"a/{LATIN}/0.png", f"{LATIN}/0.png"])
def test_a_path_that_is_not_utf8_is_named(root: Path, tmp_path: Path, name: str) -> None:
    params = folders(root)
    put(root / "train" / name, encoded(noise(70)))
    refused(tmp_path, params, r"caf\udce9", "not UTF-8")
    made = Prepared(tmp_path, {**params, **SKIP})
    assert [problem["split"] for problem in made.facts["problems"]] == ["train"]
    assert len(made.train) == 4
    assert made.facts["classes"] == ["a", "b"]


def test_signs_that_no_terminal_shows_are_escaped(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    put(root / "train/a/\x1b[2J\n\u202egnp.txt", b"")
    message = refused(tmp_path, params, r"train a/\x1b[2J\n\u202egnp.txt: not an image by its name")
    assert message.isprintable()


def test_a_member_that_is_not_utf8_is_named(root: Path, tmp_path: Path) -> None:
    extra = [(f"{LATIN}.png", encoded(noise(60))), (f"{LATIN}.cls", b"0")]
    params = wds(root, tar(samples([0, 1]) + extra))
    refused(tmp_path, params, r"caf\udce9", "not UTF-8")
    assert Prepared(tmp_path, {**params, **SKIP}).train.ids == ["t/0", "t/1"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_twins_of_a_class_name_are_named(root: Path, tmp_path: Path, split: str) -> None:
    params = folders(root, classes=("a", NFC))
    put(root / split / NFD / "0.png", encoded(noise(70)))
    said = "accents encoded in two ways" if split == "train" else "accents are encoded in another"
    refused(tmp_path, params, said)


def test_twins_of_names_and_keys_are_named(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    for number, name in enumerate((NFC, NFD)):
        put(root / "train/a" / f"{name}.png", encoded(noise(70 + number)))
    refused(tmp_path, params, "its name stands twice in the split")
    twins = [(f"{NFC}.png", encoded(noise(60))), (f"{NFC}.cls", b"0")]
    twins += [(f"{NFD}.png", encoded(noise(61))), (f"{NFD}.cls", b"0")]
    refused(tmp_path, wds(root, tar(samples([0, 1]) + twins)), "its key stands twice")


def test_names_that_differ_by_case_are_two(root: Path, tmp_path: Path) -> None:
    params = folders(root, classes=("A", "a"))
    assert Prepared(tmp_path, params).facts["classes"] == ["A", "a"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("ab", "name the classes 'ab'"),
        ([0, 1], "name the classes"),
        ([None, "b"], "name the classes"),
        (None, "name the classes"),
        (["a", "a"], "two classes have the name 'a'"),
        ([NFC, NFD], "accents encoded in two ways"),
        (["a", ""], "a class is called ''"),
        (["a", "\u200b"], "a class is called"),
        (["a", "\ud800"], "a class is called"),
        (["a"], "label 1 is outside 0 to 0"),
        (["a", "b", "c"], "class 'c': no image"),
    ],
)
def test_names_in_metadata_are_checked(root: Path, tmp_path: Path, names: Any, said: str) -> None:
    table(root, metadata={"info": {"features": {"label": {"names": names}}}})
    refused(tmp_path, PARQUET, said)


@pytest.mark.parametrize("metadata", ["[" * 100_000, "{", '{"info": 1' + "0" * 5000 + "}"])
def test_metadata_that_is_no_json_is_named(root: Path, tmp_path: Path, metadata: str) -> None:
    table(root, metadata=metadata)
    refused(tmp_path, PARQUET, "t.parquet: its Hugging Face metadata are not readable")
    assert Prepared(tmp_path, {**PARQUET, "classes": ["x", "y"]}).facts["classes"] == ["x", "y"]


@pytest.mark.parametrize("metadata", [[], {"info": []}, {"info": {"features": {"label": 5}}}])
def test_metadata_without_names_give_none(root: Path, tmp_path: Path, metadata: Any) -> None:
    table(root, metadata=metadata)
    assert Prepared(tmp_path, PARQUET).facts["classes"] == ["0", "1"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["dog", "cat"], "call label 0 'dog', and those of"),
        (["cat", "dog", "owl"], "call label 2 'owl', and those of"),
        (["cat"], "call label 1 '', and those of"),
    ],
)
@pytest.mark.parametrize("file", ["t1.parquet", "v.parquet"])
def test_labels_that_mean_other_things_in_another_file_are_named(
    root: Path, tmp_path: Path, names: list[str], said: str, file: str
) -> None:
    def metadata(names: list[str]) -> dict[str, Any]:
        return {"info": {"features": {"label": {"names": names}}}}

    params = {**PARQUET, "train": "t*.parquet"}
    for first, name in enumerate(("t0.parquet", "t1.parquet", "v.parquet")):
        columns = {"image": rows(2, 10 * first), "label": [0, 1]}
        parquet(root / name, columns, metadata(names if name == file else ["cat", "dog"]))
    refused(tmp_path, params, f"{file}: its Hugging Face metadata {said}", "t0.parquet")
    chosen = Prepared(tmp_path, {**params, "classes": ["x", "y"]})
    assert chosen.facts["classes"] == ["x", "y"]
    columns = {"image": rows(2, 10 * ("t1.parquet", "v.parquet").index(file) + 10), "label": [0, 1]}
    parquet(root / file, columns)  # without metadata, which claims nothing
    assert Prepared(tmp_path, params).facts["classes"] == ["cat", "dog"]


def test_a_byte_order_mark_is_no_part_of_a_text(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    put(root / "names.txt", "\ufeffa cat\r\nb dog\r\n".encode())
    made = Prepared(tmp_path, {**params, "class_names": "names.txt"})
    assert made.facts["classes"] == ["cat", "dog"]
    members = [("1.png", encoded(noise(1))), ("1.txt", "\ufeffa cat".encode())]
    val = [("2.png", encoded(noise(2))), ("2.txt", b"a dog")]
    captions = {**wds(root, tar(members), tar(val)), "label": None, "caption": "txt"}
    assert Prepared(tmp_path, captions).train.captions(0) == ["a cat"]


def test_a_folder_with_two_names_is_named(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    put(root / "names.txt", b"a cat\nb dog\na lion\n")
    said = "names.txt: the folder 'a' has two names"
    refused(tmp_path, {**params, "class_names": "names.txt"}, said)


def test_class_names_in_a_file_that_is_not_utf8(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    put(root / "names.txt", b"a caf\xe9\nb tea\n")
    refused(tmp_path, {**params, "class_names": "names.txt"}, "names.txt: unreadable")


# Captions


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "\u200b",
        "\u200d\ufe0f",
        "\ufeff",
        "\u3164",
        "\u2800",
        "\u0301",
        "a \ud83d b",
        None,
        *(True, 3, ["a"], b"a"),
    ],
)
def test_captions_without_visible_text_are_unreadable(text: Any) -> None:
    assert str(check_caption(text)).startswith("unreadable caption")


@pytest.mark.parametrize(
    "text", ["a", "猫", "🐈", "👩‍👩‍👧", "…", "\ue000", "a\u200bb", "‏שלום", "é"]
)
def test_captions_of_any_script_are_read(text: str) -> None:
    assert check_caption(text) is None


CAPTIONS = {**WDS, "label": None, "caption": "json"}


@pytest.mark.parametrize(
    "content",
    [
        *(b"[" * 100_000, b'{"caption": "\\ud83d"}', b'{"caption": "\\u200b"}', b"\xff", b"{}"),
        *(b'{"caption": true}', b'"caption"', b"1" + b"0" * 5000, b'{"caption": ["a", "b"]}'),
    ],
)
def test_bad_captions_are_named(root: Path, tmp_path: Path, content: bytes) -> None:
    good = [("1.png", encoded(noise(1))), ("1.json", b'{"caption": "one"}')]
    bad = [("2.png", encoded(noise(2))), ("2.json", content)]
    put(root / "t.tar", tar(good + bad))
    put(root / "v.tar", tar([("9.png", encoded(noise(9))), ("9.json", b'{"caption": "nine"}')]))
    refused(tmp_path, CAPTIONS, "train t/2: ", "readable caption")
    made = Prepared(tmp_path, {**CAPTIONS, **SKIP})
    assert list(made.train.all_captions()) == [["one"]]


def test_a_caption_column_that_is_not_utf8(root: Path, tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    for name in "tv":
        parquet(root / f"{name}.parquet", {"image": rows(2, ord(name)), "text": text})
    params = {**PARQUET, "label_column": None, "caption_column": "text"}
    refused(tmp_path, params, "train t/1: text that is not UTF-8")


# Places


def test_absolute_paths_and_globs_work(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "else where"
    parquet(outside / "t.parquet", {"image": rows(4), "label": [0, 1, 0, 1]})
    parquet(outside / "deep/v.parquet", {"image": rows(2, 50), "label": [0, 1]})
    params = {**PARQUET, "train": f"{outside}/t*.parquet", "val": f"{outside}/**/v.parquet"}
    assert len(Prepared(tmp_path, params).train) == 4
    wds(outside)
    made = Prepared(tmp_path, {**WDS, "train": f"{outside}/t.ta?", "val": f"{outside}/v.tar"})
    assert len(made.train) == 4
    folders(outside)
    made = Prepared(
        tmp_path, {"format": "folder", "train": f"{outside}/train", "val": f"{outside}/val"}
    )
    assert len(made.train) == 4


@pytest.mark.parametrize("place", ["../t.tar", "x/../../t.tar", "..", "x/..", "link/../t.tar"])
@pytest.mark.parametrize("kind", ["webdataset", "parquet", "folder", "coco"])
def test_no_path_leads_out_of_the_data_root(place: str, kind: str) -> None:
    params: dict[str, Any] = {"format": kind, "train": place, "val": "v"}
    if kind == "coco":
        split = {"images": "i", "annotations": "a"}
        params = {"format": kind, "train": {**split, "images": place}, "val": split}
    with pytest.raises(UserError, match=r"d\.yaml: train.*must not contain '\.\.'"):
        validate(params, Dataset, "d.yaml")  # type: ignore[arg-type]


@pytest.mark.parametrize("pattern", ["**.tar", "t[.tar", "", "x\0y", "/", "~/t.tar", "t" * 300])
def test_a_bad_glob_is_named(root: Path, tmp_path: Path, pattern: str) -> None:
    wds(root)
    refused(tmp_path, {**WDS, "train": pattern}, "train" if pattern in ("", "x\0y") else "")


def test_what_a_glob_matches_besides_files_is_named(root: Path, tmp_path: Path) -> None:
    params = {**WDS, "train": "t*.tar"}
    wds(root)
    (root / "t2.tar").mkdir()
    refused(tmp_path, params, "t2.tar: a folder, not a file, matches t*.tar")
    (root / "t2.tar").rmdir()
    (root / "t3.tar").symlink_to("nowhere")
    refused(tmp_path, params, "t3.tar: a broken link, not a file")
    (root / "t3.tar").unlink()
    os.mkfifo(root / "t4.tar")
    refused(tmp_path, params, "t4.tar: a FIFO, not a file")


# Links


def test_links_are_followed_and_loops_end(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    put(tmp_path / "elsewhere/deep/5.png", encoded(noise(75)))
    put(tmp_path / "elsewhere/6.png", encoded(noise(76)))
    put(tmp_path / "file.png", encoded(noise(77)))
    put(root / "train/a/sub/7.png", encoded(noise(78)))
    links = {
        "train/a/more": tmp_path / "elsewhere",
        "train/a/again": tmp_path / "elsewhere",
        "train/a/alias": root / "train/a/sub",
        "train/a/linked.png": tmp_path / "file.png",
        "train/a/round": root / "train/a",
        "train/a/sub/up": root / "train",
        "train/c": tmp_path / "elsewhere",
        "val/c": root / "val/a",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "elsewhere/deep")
    made = Prepared(tmp_path, params)
    assert made.train.ids == [
        "a/0.png",
        "a/1.png",
        "a/again/6.png",
        "a/again/deep/5.png",
        "a/linked.png",
        "a/sub/7.png",
        "b/0.png",
        "b/1.png",
        "c/6.png",
        "c/deep/5.png",
    ]
    (root / "train/a/gone").symlink_to("nowhere")
    refused(tmp_path, params, "train a/gone: a broken link")


def test_a_folder_that_cannot_be_read_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = folders(root)
    put(root / "train/a/closed/0.png", encoded(noise(70)))
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    refused(tmp_path, params, "train a/closed: unreadable folder (Permission denied)")


def test_a_flat_folder_is_refused(root: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        put(root / split / "1.png", encoded(noise()))
    params = {"format": "folder", "train": "train", "val": "val"}
    refused(tmp_path, params, "no class folder, and 1 files", "the format is images")


# Splits


def test_classes_that_val_lacks_are_said(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = folders(root, classes=("a", "b", "c"))
    for file in (root / "val/b").iterdir():
        file.unlink()
    with caplog.at_level(logging.WARNING):
        made = Prepared(tmp_path, params)
    assert made.facts["splits"]["val"]["empty_classes"] == ["b"]
    assert "val: no image of 1 of 3 classes (b)" in caplog.text
    assert "empty_classes" not in made.facts["splits"]["train"]


def test_images_in_both_splits_are_named(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = folders(root)
    assert "in_both" not in Prepared(tmp_path, params).facts
    put(root / "val/a/9.png", (root / "train/a/0.png").read_bytes())
    # The same pixels in another file format are the same image.
    put(root / "val/b/9.bmp", encoded(Image.open(root / "train/b/1.png"), "BMP"))
    with caplog.at_level(logging.WARNING):
        made = Prepared(tmp_path, {**params, "max_in_both": 2})
    first = [{"train": "a/0.png", "val": "a/9.png"}, {"train": "b/1.png", "val": "b/9.bmp"}]
    assert made.facts["in_both"] == {"images": 2, "first": first}
    assert "2 of 6 images of val are also in train" in caplog.text
    assert "val a/9.png is train a/0.png" in caplog.text
    for most in (0, 1):
        refused(
            tmp_path,
            {**params, "max_in_both": most},
            "2 images of val are also in train, pixel for pixel: val a/9.png is train a/0.png",
            f"allowed: max_in_both: {most}",
        )


def test_an_image_that_only_has_the_same_colours_is_another(root: Path, tmp_path: Path) -> None:
    params = folders(root)
    turned = Image.open(root / "train/a/0.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    put(root / "val/a/9.png", encoded(turned))
    assert "in_both" not in Prepared(tmp_path, params).facts


# One class


def _features(folder: Path, classes: int, **inputs: Path) -> Path:
    with publish(folder, node="features", params={}, inputs=inputs) as draft:
        draft.facts = {"classes": classes, "dataset": "one"}
    return folder


@pytest.mark.parametrize("node", ["pretrain", "finetune", "linear", "linear_augmented", "knn"])
def test_one_class_is_an_error_where_two_are_needed(
    node: str,
    root: Path,
    tmp_path: Path,
    scenery: Scenery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = Prepared(tmp_path, folders(root, classes=("only",))).folder
    protocols = REPOSITORY / "params/protocols"
    backbone = tmp_path / "backbone"
    with publish(backbone, node="pretrain", params={}, inputs={}):
        pass
    features = _features(tmp_path / "features", 1, backbone=backbone, data=data)
    out = tmp_path / "result"
    common = ["--backbone", str(backbone), "--out", str(out)]
    options = {
        "pretrain": scenery.pretrain_arguments(scenery.recipe("supervised"), data, out),
        "finetune": [*("--protocol", "finetune_small"), "--data", str(data)],
        "linear": ["--protocol", "linear", "--data", str(data), "--features", str(features)],
        "linear_augmented": [
            *("--protocol", "linear_dino_small", "--data", str(data), "--features", str(features))
        ],
        "knn": ["--protocol", "knn", "--data", str(data), "--features", str(features)],
    }[node]
    if node != "pretrain":
        options[1] = str(protocols / f"{options[1]}.yaml")
        options += common
    name = node.partition("_")[0]
    monkeypatch.setattr(sys, "argv", [name, *options])
    with pytest.raises(UserError, match=r"a set of 1 class.*two classes or more"):
        importlib.import_module(f"steps.{name}").main()
    assert not out.exists()


def test_a_plan_that_knows_of_one_class_says_so(scenery: Scenery) -> None:
    one = {**PARQUET, "classes": ["only"]}
    scenery.write("datasets/one.yaml", one)
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    scenery.write(
        "protocols/knn.yaml", {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"}
    )
    experiment = {"title": "t", "question": "?", "dataset": "one", "regime": "test", "seeds": [0]}
    experiment |= {"methods": ["random"], "backbones": ["vit_test"], "tasks": {"knn": ["knn"]}}
    scenery.write("experiments/x.yaml", experiment)
    with pytest.raises(UserError, match="one has one class, and knn decides between classes"):
        load_plan("x", scenery.params)
