"""COCO sets as tools and users write them: taken for what they mean, or refused by name."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.data.annotations import SemanticMasks, bitmap, objects, read_annotations
from steps.evaluation.precision import average_precision
from tests.faults.builders_coco import (
    BOX,
    HEIGHT,
    INFINITE,
    MASKS,
    NAN,
    SIZE,
    SQUARE,
    TOTAL,
    WIDTH,
    Change,
    all_boxes,
    changed,
    first,
    first_box,
    good,
    prepare,
    write,
)
from tests.processes import REPOSITORY, environment

pytestmark = pytest.mark.usefixtures("root")


def error(root: Path, **params: Any) -> str:
    with pytest.raises(UserError) as caught:
        prepare(root, **params)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1500
    assert not (root / "out").exists()
    return message


@pytest.mark.parametrize("trial", MASKS)
def test_a_mask_that_is_none_is_named_with_its_annotation(trial: str, root: Path) -> None:
    mask, words = MASKS[trial]
    write(root, changed(first_box(segmentation=mask, id=17)))
    message = error(root)
    assert "train annotation 17 of 1.png: its " in message
    assert words in message


# The change, and words of the message.
ANNOTATIONS: dict[str, tuple[Change, str]] = {
    "box of no width": (first_box(bbox=[1, 1, 0, 5]), "has no area"),
    "box of no height": (first_box(bbox=[1, 1, 5, 0]), "has no area"),
    "box beyond the image": (first_box(bbox=[50, 5, 30, 30]), "outside its image of 64x48"),
    "box before the image": (first_box(bbox=[-5, -5, 3, 3]), "outside its image"),
    "box NaN": (first_box(bbox=[NAN, 1, 3, 3]), "is not four numbers"),
    "box text": (first_box(bbox=["1", "1", "3", "3"]), "is not four numbers"),
    "box of booleans": (first_box(bbox=[True, True, 5, 5]), "is not four numbers"),
    "box 10^400": (first_box(bbox=[1, 1, 10**400, 5]), "is not four numbers"),
    "box of three": (first_box(bbox=[1, 1, 5]), "is not four numbers"),
    "box object": (first_box(bbox={"x": 1}), "is not four numbers"),
    "box of corners": (
        first_box(bbox=[23, 7, 53, 37], segmentation=[[23, 7, 53, 7, 53, 37, 23, 37]]),
        "outside its image of 64x48",
    ),
    "box missing": (first_box(bbox=...), "no key 'bbox'"),
    "area NaN": (first_box(area=NAN), "area nan"),
    "area infinite": (first_box(area=INFINITE), "area inf"),
    "area text": (first_box(area="81"), "area '81'"),
    "area boolean": (first_box(area=True), "area True"),
    "area list": (first_box(area=[81]), "area [81]"),
    "area beyond the image": (first_box(area=1e9), "area 1000000000.0"),
    "iscrowd text": (first_box(iscrowd="0"), "iscrowd '0' is neither 0 nor 1"),
    "iscrowd word": (first_box(iscrowd="no"), "iscrowd 'no' is neither"),
    "iscrowd boolean": (first_box(iscrowd=False), "iscrowd False is neither"),
    "iscrowd two": (first_box(iscrowd=2), "iscrowd 2 is neither"),
    "iscrowd list": (first_box(iscrowd=[]), "iscrowd [] is neither"),
    "category unhashable": (first_box(category_id=[7]), "category_id [7] is not among"),
    "category text": (first_box(category_id="7"), "category_id '7' is not among"),
    "category boolean": (first_box(category_id=True), "category_id True is not among"),
    "category unknown": (first_box(category_id=9), "category_id 9 is not among"),
    "image_id unhashable": (first_box(image_id=[1]), "is for image [1], which the file does"),
    "image_id text": (first_box(image_id="1"), "is for image '1', which the file does not"),
    "image_id boolean": (first_box(image_id=True), "is for image True, which the file"),
    "image_id missing": (first_box(image_id=...), "is for image None, which the file"),
    "image_id unknown": (first_box(image_id=99), "is for image 99, which the file"),
    "no object": (lambda c: c["annotations"].append(3), "annotations[8]: 3, not an object"),
    "mask missing": (first_box(segmentation=...), "no mask, and others have one"),
    "mask null": (first_box(segmentation=None), "no mask, and others have one"),
    "mask empty": (first_box(segmentation=[]), "no mask, and others have one"),
    "image id text": (first("images", id="1"), "id '1' is no whole number"),
    "image id boolean": (first("images", id=True), "id True is no whole number"),
    "image id NaN": (first("images", id=NAN), "id nan is no whole number"),
    "image id beyond 64 bits": (first("images", id=2**70), "no whole number"),
    "image width missing": (first("images", width=...), "width None is no whole number"),
    "image height 0": (first("images", height=0), "height 0 is no whole number above 0"),
    "image no object": (lambda c: c["images"].append("5.png"), "'5.png', not an image"),
    "image of another size": (first("images", width=65), "but the annotations say 65x48"),
    "file_name missing": (first("images", file_name=...), "file_name None is no name"),
    "file_name number": (first("images", file_name=1), "file_name 1 is no name"),
    "file_name empty": (first("images", file_name=""), "file_name '' is no name"),
    "file_name NUL": (first("images", file_name="a\0.png"), "is no name of a file"),
    "file_name surrogate": (first("images", file_name="\ud800.png"), "is no name of a file"),
    "file_name long": (first("images", file_name="a" * 5000), "is no name of a file"),
    "file_name too long for a disk": (
        first("images", file_name="a" * 600),
        "unreadable (File name too",
    ),
    "file_name of a folder": (first("images", file_name="."), "is named by train.json, and is"),
    "file_name of a pipe": (first("images", file_name="pipe"), "is a FIFO, not a file"),
    "file_name leaves": (first("images", file_name="../secret.png"), "leaves the folder"),
    "file_name leaves later": (first("images", file_name="a/../../secret.png"), "leaves the"),
    "file_name absolute": (first("images", file_name="/secret.png"), "leaves the folder"),
}


@pytest.mark.parametrize("trial", ANNOTATIONS)
def test_what_is_wrong_in_an_entry_is_named(trial: str, root: Path) -> None:
    change, words = ANNOTATIONS[trial]
    write(root, changed(change), good())
    (root / "secret.png").write_bytes((root / "images/1.png").read_bytes())
    os.mkfifo(root / "images/pipe")
    message = error(root)
    assert "bad item" in message
    assert "set.yaml" in message
    assert words in message


def twice(kind: str, **values: Any) -> Change:
    """Append the first entry with these values."""

    def change(content: dict[str, Any]) -> None:
        content[kind].append({**content[kind][0], **values})

    return change


def tiny(content: dict[str, Any]) -> None:
    for box in content["annotations"]:
        box["bbox"] = [
            value / side
            for value, side in zip(box["bbox"], (WIDTH, HEIGHT, WIDTH, HEIGHT), strict=True)
        ]


FILES: dict[str, tuple[Change, str]] = {
    "image id twice": (twice("images", file_name="4.png"), "two images have the same id 1"),
    "image listed twice": (twice("images", id=9), "an image is listed twice"),
    "image listed twice by another name": (
        twice("images", id=9, file_name="./1.png"),
        "an image is listed twice",
    ),
    "category id twice": (twice("categories", name="cow"), "another category has the id 7"),
    "category name twice": (twice("categories", id=9), "two classes have the name 'cat'"),
    "category name twice, its accents encoded in two ways": (
        lambda c: c.update(
            categories=[{"id": 7, "name": "caf\u00e9"}, {"id": 8, "name": "cafe\u0301"}]
        ),
        "accents encoded in two ways",
    ),
    "category name null": (first("categories", name=None), "categories[0].name: None"),
    "category name blank": (first("categories", name=" "), "categories[0].name: ' '"),
    "category name number": (first("categories", name=3), "categories[0].name: 3"),
    "category name surrogate": (first("categories", name="\ud800"), "categories[0].name"),
    "category id text": (first("categories", id="7"), "categories[0].id: '7'"),
    "category id unhashable": (first("categories", id=[7]), "categories[0].id: [7]"),
    "category id null": (first("categories", id=None), "categories[0].id: None"),
    "category without id": (first("categories", id=...), "categories[0] has no id and name"),
    "no categories": (lambda c: c.pop("categories"), "no categories"),
    "categories empty": (lambda c: c.update(categories=[]), "no categories"),
    "no images": (lambda c: c.pop("images"), "no list 'images'"),
    "no annotations key": (lambda c: c.pop("annotations"), "no list 'annotations'"),
    "annotations an object": (lambda c: c.update(annotations={}), "no list 'annotations'"),
    "boxes as shares of 1": (tiny, "all boxes of split train lie within one pixel"),
    "boxes alone, not said": (all_boxes(segmentation=...), "say masks: false in this file"),
    "boxes alone by empty lists": (all_boxes(segmentation=[]), "say masks: false in this file"),
    "no annotation": (lambda c: c.update(annotations=[]), "4 images without any object"),
    "crowds alone": (all_boxes(iscrowd=1), "without any object, and crowds are none"),
    "boxes below a pixel": (
        all_boxes(bbox=[9, 9, 0.5, 0.5], segmentation=[[9, 9, 9.5, 9, 9.5, 9.5]]),
        "8 of 8 annotations of split train",
    ),
}


@pytest.mark.parametrize("trial", FILES)
@pytest.mark.parametrize("tolerant", [False, True])
def test_what_is_wrong_with_a_whole_file_stops_in_any_case(
    trial: str, tolerant: bool, root: Path
) -> None:
    change, words = FILES[trial]
    write(root, changed(change))
    params = {"on_bad": "skip", "max_bad_share": 0.99} if tolerant else {}
    assert words in error(root, **params)


RAW: dict[str, tuple[bytes, str]] = {
    "nested deeply": (b"[" * 100_000, "nested too deeply"),
    "nested deeply in annotations": (
        b'{"images": [], "annotations": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "nested too deeply",
    ),
    "number of 5,000 digits": (b'{"images": [' + b"1" * 5000 + b"]}", "not readable as JSON"),
    "cut off": (b'{"images": [', "not readable as JSON"),
    "empty": (b"", "not readable as JSON"),
    "not UTF-8": (b'{"images": ["caf\xe9"]}', "not readable as JSON"),
    "a list": (b"[]", "no list 'images' at the top"),
    "null": (b"null", "no list 'images' at the top"),
    "a key twice": (
        b'{"images": [], "annotations": [], "annotations": []}',
        "the key 'annotations' stands twice",
    ),
}


@pytest.mark.parametrize("trial", RAW)
def test_a_file_that_is_no_json_of_coco_is_named(trial: str, root: Path) -> None:
    content, words = RAW[trial]
    write(root, content, good())
    message = error(root)
    assert "train.json" in message
    assert words in message


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_split_needs_objects(split: str, root: Path) -> None:
    empty = changed(lambda c: c.update(annotations=[]))
    write(root, *((empty, good()) if split == "train" else (good(), empty)))
    assert f"split {split} has 4 images without any object" in error(root)


def test_a_byte_order_mark_is_passed_over(root: Path) -> None:
    write(root, b"\xef\xbb\xbf" + json.dumps(good()).encode())
    assert len(read_annotations(prepare(root) / "val.json")["annotations"]) == 8


# What is taken, and how.


@pytest.mark.parametrize(
    "ids",
    [
        *([1, 2, 3, 4], [0, 1, 2, 3], [1, 1, 2, 3], [7, 7, 7, 7], [-1, -2, -3, -4]),
        *(["a", "b", "c", "d"], [[1], [2], [3], [4]], [None] * 4, [1.0, 2.0, 3.5, 4.0]),
    ],
    ids=str,
)
def test_a_perfect_detector_has_an_ap_of_100_whatever_the_ids(ids: list[Any], root: Path) -> None:
    content = good(each=1)
    for box, number in zip(content["annotations"], ids, strict=True):
        box["id"] = number
    out = prepare(write(root, content))
    written = read_annotations(out / "val.json")["annotations"]
    assert [box["id"] for box in written] == [1, 2, 3, 4]
    perfect = [
        {key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for box in content["annotations"]
    ]
    assert average_precision(COCO(str(out / "val.json")), perfect, "bbox")["AP"] == 100
    odd = {note["note"] for note in read_manifest(out).facts["annotation_notes"]}
    assert bool(odd) is (ids != [1, 2, 3, 4])


def test_images_and_categories_may_be_numbered_from_0(root: Path) -> None:
    content = good(each=1)
    for image in content["images"]:
        image["id"] -= 1
    for category in content["categories"]:
        category["id"] -= 7
    for box in content["annotations"]:
        box |= {"image_id": box["image_id"] - 1, "category_id": box["category_id"] - 7}
    out = prepare(write(root, content))
    perfect = [
        {key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for box in content["annotations"]
    ]
    assert average_precision(COCO(str(out / "val.json")), perfect, "bbox")["AP"] == 100
    assert (SemanticMasks(out, "val")[0] > 0).sum() == 900


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [1, 1, 2, 3]])
def test_ground_truth_of_sets_prepared_before_is_measured_right(
    ids: list[int], tmp_path: Path
) -> None:
    content = good(each=1)
    for box, number in zip(content["annotations"], ids, strict=True):
        box["id"] = number
    (tmp_path / "val.json").write_text(json.dumps(content))
    truth = COCO(str(tmp_path / "val.json"))
    for kind, place in (("bbox", "bbox"), ("segm", "segmentation")):
        found = [
            {
                "image_id": box["image_id"],
                "category_id": box["category_id"],
                "score": 0.9,
                place: box["bbox"] if kind == "bbox" else truth.annToRLE(box),
            }
            for box in content["annotations"]
        ]
        assert average_precision(truth, found, kind)["AP"] == 100


FILLED: dict[str, tuple[Change, str, str, list[Any]]] = {
    "area missing": (all_boxes(area=...), "counted from the mask", "area", [900]),
    "area null": (all_boxes(area=None), "counted from the mask", "area", [900]),
    "area 0": (all_boxes(area=0), "counted from the mask", "area", [900]),
    "area -1": (all_boxes(area=-1), "counted from the mask", "area", [900]),
    "iscrowd missing": (all_boxes(iscrowd=...), "taken as 0", "iscrowd", [0]),
    "iscrowd null": (all_boxes(iscrowd=None), "taken as 0", "iscrowd", [0]),
    "ids missing": (all_boxes(id=...), "id missing", "id", list(range(1, 9))),
}


@pytest.mark.parametrize("trial", FILLED)
def test_what_tools_leave_out_is_filled_in_counted_and_said(
    trial: str, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change, words, key, values = FILLED[trial]
    write(root, changed(change))
    with caplog.at_level(logging.WARNING):
        out = prepare(root)
    written = [box[key] for box in read_annotations(out / "train.json")["annotations"]]
    assert written == (values if len(values) > 1 else values * 8)
    notes = read_manifest(out).facts["annotation_notes"]
    assert [(note["split"], note["annotations"]) for note in notes] == [("train", 8), ("val", 8)]
    assert all(words in note["note"] for note in notes)
    assert all("annotation " in note["first"] and "1.png" in note["first"] for note in notes)
    assert any("train: 8 annotations: " in line and words in line for line in caplog.messages)


def test_a_set_without_faults_is_written_as_it_is(root: Path) -> None:
    out = prepare(write(root, good()))
    content = read_annotations(out / "train.json")
    assert content["annotations"] == good()["annotations"]
    assert content["categories"] == good()["categories"]
    assert content["images"] == [
        {key: image[key] for key in ("id", "file_name", "width", "height")}
        for image in good()["images"]
    ]
    facts = read_manifest(out).facts
    assert (facts["masks"], facts["annotation_notes"], facts["problems"]) == (True, [], [])


@pytest.mark.parametrize("form", ["list", "text", "point", "polygon"])
def test_masks_of_every_form_reach_their_readers(form: str, root: Path) -> None:
    runs = {"size": SIZE, "counts": [4 * HEIGHT + 3, 5, TOTAL - 4 * HEIGHT - 8]}
    mask: Any = {
        "list": runs,
        "point": {"size": [float(s) for s in SIZE], "counts": [float(c) for c in runs["counts"]]},
        "text": {"size": SIZE, "counts": COCO_TEXT},
        "polygon": [[4, 3, 5, 3, 5, 8, 4, 8]],
    }[form]
    box = {"segmentation": mask, "bbox": [4, 3, 1, 5], "area": 0}
    out = prepare(write(root, changed(all_boxes(**box))))
    (first, *_) = read_annotations(out / "val.json")["annotations"]
    pixels = bitmap(first, HEIGHT, WIDTH)
    assert pixels[3:8, 4].all()
    assert pixels.sum() == first["area"] == 5
    assert COCO(str(out / "val.json")).annToMask(first).sum() == 5
    assert sum(int(mask.sum()) for mask in objects(out, "val") if mask is not None) == 20
    assert (SemanticMasks(out, "val")[0] > 0).sum() == 5


COCO_TEXT = "S65hi2"
"""What pycocotools writes for these run lengths."""


def test_the_compressed_text_is_pycocotools_own() -> None:
    from pycocotools import mask as rle

    runs = {"size": SIZE, "counts": [4 * HEIGHT + 3, 5, TOTAL - 4 * HEIGHT - 8]}
    assert rle.frPyObjects(runs, *SIZE)["counts"].decode() == COCO_TEXT


def test_an_annotation_listed_twice_is_said(root: Path) -> None:
    out = prepare(write(root, changed(twice("annotations", id=99))))
    notes = read_manifest(out).facts["annotation_notes"]
    assert [note["first"] for note in notes] == ["annotation 99 of 1.png"] * 2
    assert "same image, category and box" in notes[0]["note"]


def test_boxes_that_are_not_around_their_masks_are_said(root: Path) -> None:
    """As corners are that happen to lie within the image when they are taken for sizes."""
    mask = [[9, 9, 19, 9, 19, 19, 9, 19]]
    write(root, changed(all_boxes(bbox=[9, 9, 19, 19], segmentation=mask)), good())
    (note,) = read_manifest(prepare(root)).facts["annotation_notes"]
    assert (note["split"], note["annotations"]) == ("train", 8)
    assert "is it [x, y, width, height]?" in note["note"]


def test_boxes_alone_are_taken_where_the_params_say_so(root: Path) -> None:
    out = prepare(write(root, changed(all_boxes(segmentation=[], area=0))), masks=False)
    content = read_annotations(out / "train.json")
    assert all("segmentation" not in box for box in content["annotations"])
    assert {box["area"] for box in content["annotations"]} == {900}
    assert read_manifest(out).facts["masks"] is False
    assert read_manifest(out).facts["splits"]["val"] == {"images": 4, "boxes": 8}


@pytest.mark.parametrize("mask", [SQUARE, "abc", [[1, 1, 1e300, 2, 3, 4]]])
def test_masks_that_are_not_wanted_are_left_out_and_said(mask: Any, root: Path) -> None:
    write(root, changed(first_box(segmentation=mask, bbox=BOX)))
    out = prepare(root, masks=False)
    notes = read_manifest(out).facts["annotation_notes"]
    assert {(note["note"], note["annotations"]) for note in notes} == {
        ("mask left out, as masks: false says", 8)
    }


def test_a_few_bad_annotations_are_left_out_and_more_are_not(root: Path) -> None:
    bad = [{"segmentation": "abc"}, {"bbox": [0, 0, 1, 0]}]
    tolerant = {"on_bad": "skip", "max_bad_share": 0.9}
    for count, passes in ((1, True), (2, False)):
        content = good(each=5)
        for box, values in zip(content["annotations"], bad[:count], strict=False):
            box.update(values)
        write(root, content, good())
        if passes:
            facts = read_manifest(prepare(root, **tolerant)).facts
            assert facts["splits"]["train"] == {"images": 4, "boxes": 19}
            assert len(facts["problems"]) == 1
            (root / "out").rename(root / "first")
        else:
            message = error(root, **tolerant)
            assert "2 of 20 annotations of split train are of no use; annotation 1 of" in message


SCRIPT = """
import json, sys
from steps.command import UserError
from tests.faults.builders_coco import MASKS, changed, first_box, prepare, write
root = __import__("pathlib").Path(sys.argv[1])
for index, (name, (mask, words)) in enumerate(MASKS.items()):
    write(root, changed(first_box(segmentation=mask)))
    try:
        prepare(root, f"out{index}")
        print("taken:", name)
    except UserError as error:
        print("named:", name)
"""


def test_annotations_of_no_image_are_of_no_use(root: Path) -> None:
    def half(content: dict[str, Any]) -> None:
        for box in content["annotations"][::2]:
            box["image_id"] += 100

    write(root, changed(half))
    message = error(root, on_bad="skip", max_bad_share=0.9)
    assert "4 of 8 annotations of split train are of no use; annotation 1: is for" in message


def test_no_mask_crashes_or_takes_memory(root: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root)],
        cwd=REPOSITORY,
        env=environment(PRETEXT_DATA=str(root)),
        capture_output=True,
        text=True,
        preexec_fn=limited,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"named: {name}" for name in MASKS]
