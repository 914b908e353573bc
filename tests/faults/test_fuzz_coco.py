"""Any JSON value in any field of a COCO file gives an artifact that readers accept, or one line.

``PRETEXT_FUZZ_EXAMPLES=10000 pytest tests/faults/test_fuzz_coco.py`` runs so many examples of each
test, other ones each time; without it a few, the same ones each time.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from pycocotools.coco import COCO

from steps.command import UserError
from steps.data.annotations import SemanticMasks, class_names, objects, read_annotations
from steps.data.convert import convert
from steps.data.shards import Images
from steps.data.sources import open_source
from steps.detection.dataset import Detections
from steps.evaluation.precision import average_precision
from steps.params.dataset import CocoCaptionsDataset, CocoDataset
from steps.params.detection import Augmentation
from tests.faults.builders_coco import HEIGHT, MASKS, TOTAL, WIDTH, good, write
from tests.faults.fuzzing import settings


def deep(depth: int) -> list[Any]:
    """A list within a list, so many times."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


DEPTH = 6
"""Keys of a path at most: a polygon's number has five."""
KNOWN = [
    *(0, 1, 2, -1, 0.5, 1e-200, 1e300, -1e300, 2**31, 2**32, 2**63, 10**400, True, False, None),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "\u200b", "\ud800", "\0", "1", "1.png"),
    *("../1.png", "/etc/passwd", ".", "a" * 300, "a" * 5000, "cat", [], {}, [[]], [{}], deep(200)),
    *([0, 0, WIDTH, HEIGHT], [0.1, 0.1, 0.5, 0.5], [10, 10, 0.2, 0.2]),
    *({"size": [HEIGHT, WIDTH], "counts": [5, 10, TOTAL - 15]}, {"size": [HEIGHT, WIDTH]}),
    *(mask for mask, _ in MASKS.values()),
]
numbers = st.one_of(
    st.integers(-10, 100), st.integers(), st.floats(), st.floats(-10, 100), st.booleans()
)
texts = st.text(st.characters(), max_size=8)
values = st.one_of(
    st.sampled_from(KNOWN),
    st.lists(st.one_of(st.integers(-5, 70), st.floats(-5, 70)), max_size=9),
    st.lists(
        st.lists(st.one_of(st.integers(-5, 70), st.floats(-90, 200)), max_size=12), max_size=3
    ),
    st.builds(
        lambda size, counts: {"size": size, "counts": counts},
        st.one_of(st.just([HEIGHT, WIDTH]), st.lists(st.integers(), max_size=3)),
        st.one_of(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12), texts)
        | st.lists(st.integers(-5, TOTAL), max_size=9),
    ),
    st.recursive(
        st.one_of(st.none(), numbers, texts),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=8,
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each field of a document."""
    keys: Any = value if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield (*path, key)
        if isinstance(value[key], dict | list) and len(path) < DEPTH:
            yield from places(value[key], (*path, key))


def changed(content: dict[str, Any], changes: list[tuple[int, str, Any]]) -> dict[str, Any]:
    """The document after changes: (which place, counted round, what is done there, a value)."""
    found = copy.deepcopy(content)
    for which, action, value in changes:
        paths = list(places(found))
        if not paths:
            break
        *path, key = paths[which % len(paths)]
        parent: Any = found
        for part in path:
            parent = parent[part]
        if action == "replace":
            parent[key] = copy.deepcopy(value)
        elif action == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[str(value)[:20]] = parent[key]
    return found


changes = st.lists(
    st.tuples(
        st.integers(0, 10_000), st.sampled_from(["replace"] * 4 + ["remove", "double"]), values
    ),
    min_size=1,
    max_size=3,
)

INSTANCES = good(images=2, each=2)
INSTANCES["annotations"][1] |= {
    "iscrowd": 1,
    "segmentation": {"size": [HEIGHT, WIDTH], "counts": [300, 900, TOTAL - 1200]},
    "area": 900,
}
CAPTIONS = {
    "images": INSTANCES["images"],
    "annotations": [
        {"id": n, "image_id": 1 + n % 2, "caption": f"a caption, number {n}"} for n in range(4)
    ],
}


def split(name: str) -> dict[str, str]:
    return {"images": "images", "annotations": f"{name}.json"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETEXT_DATA", str(tmp_path))
    (tmp_path / "out").mkdir()
    return tmp_path


def converted(root: Path, dataset: Any) -> dict[str, Any] | None:
    """The facts of the set prepared into ``out``; None where it was refused in one line."""
    try:
        facts = convert(open_source(dataset), dataset, "set.yaml", root / "out")
    except UserError as error:
        message = str(error)
    else:
        hypothesis.event("taken")
        return facts
    hypothesis.event("refused")
    assert "\n" not in message
    assert len(message.encode()) < 2000
    return None


def read(out: Path, facts: dict[str, Any]) -> None:
    """Read a prepared set as every step does."""
    json.dumps(facts).encode()
    masks = facts["masks"]
    (out / "manifest.json").write_text(json.dumps({"facts": facts}))
    for name in ("train", "val"):
        content = read_annotations(out / f"{name}.json")
        boxes = content["annotations"]
        assert [box["id"] for box in boxes] == list(range(1, len(boxes) + 1))
        assert Images(out, name).ids == [image["file_name"] for image in content["images"]]
        for augmentation in (None, Augmentation(scale_jitter=[0.5, 2.0])):
            views = Detections(out, name, image_size=64, augmentation=augmentation, masks=masks)
            for index in range(len(views)):
                views[index]
        truth = COCO(str(out / f"{name}.json"))
        for kind, place in (("bbox", "bbox"), ("segm", "segmentation"))[: 1 + masks]:
            perfect = [
                {
                    **{key: box[key] for key in ("image_id", "category_id")},
                    "score": 0.9,
                    place: box["bbox"] if kind == "bbox" else truth.annToRLE(box),
                }
                for box in boxes
                if not box["iscrowd"]
            ]
            assert average_precision(truth, perfect, kind)["AP"] == pytest.approx(100)
        if masks:
            objects(out, name)
            semantic = SemanticMasks(out, name)
            for index in range(len(semantic)):
                semantic[index]
    assert len(class_names(out)) == len(facts["classes"])


@hypothesis.given(changes=changes, masks=st.booleans(), tolerant=st.booleans())
@settings
def test_instances(root: Path, changes: list[Any], masks: bool, tolerant: bool) -> None:
    write(root, changed(INSTANCES, changes), INSTANCES)
    dataset = CocoDataset.model_validate(
        {
            "format": "coco",
            "train": split("train"),
            "val": split("val"),
            "masks": masks,
            **({"on_bad": "skip", "max_bad_share": 0.9} if tolerant else {}),
        }
    )
    if (facts := converted(root, dataset)) is not None:
        read(root / "out", facts)


@hypothesis.given(changes=changes, tolerant=st.booleans())
@settings
def test_captions(root: Path, changes: list[Any], tolerant: bool) -> None:
    write(root, changed(CAPTIONS, changes), CAPTIONS)
    dataset = CocoCaptionsDataset.model_validate(
        {
            "format": "coco_captions",
            "train": split("train"),
            "val": split("val"),
            **({"on_bad": "skip", "max_bad_share": 0.9} if tolerant else {}),
        }
    )
    if (facts := converted(root, dataset)) is not None:
        json.dumps(facts).encode()
        images = Images(root / "out", "train")
        for index in range(len(images)):
            assert images.captions(index)


@hypothesis.given(start=st.integers(0, 4000), length=st.integers(0, 40), junk=st.binary(max_size=9))
@settings
def test_damaged_files(root: Path, start: int, length: int, junk: bytes) -> None:
    whole = json.dumps(INSTANCES).encode()
    write(root, whole[:start] + junk + whole[start + length :], INSTANCES)
    dataset = CocoDataset.model_validate(
        {"format": "coco", "train": split("train"), "val": split("val")}
    )
    if (facts := converted(root, dataset)) is not None:
        read(root / "out", facts)
