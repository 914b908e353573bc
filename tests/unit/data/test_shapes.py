"""The drawn datasets: the same bytes from the same params, and no way around looking at the shape.

The independence of class and nuisance is tested on sampled factors, with Pearson's chi-square for
named factors and the correlation ratio for numbers, over as many samples as pass in a second.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from steps.command import UserError
from steps.data.sources.shapes import ShapesSource
from steps.data.sources.shapes.outlines import CLASSES, OUTLINES, draw_mask
from steps.data.sources.shapes.paint import COLOURS, TEXTURES
from steps.data.sources.shapes.reader import run_lengths
from steps.data.sources.shapes.scenes import Scene, sample_scene
from steps.params.dataset import Dataset, ShapesDataset
from steps.params.load import load

PARAMS = Path(__file__).parents[3] / "params" / "datasets"
SAMPLES = 3000


def _load(name: str) -> ShapesDataset:
    dataset = load(PARAMS / f"{name}.yaml", Dataset)  # type: ignore[arg-type]
    assert isinstance(dataset, ShapesDataset)
    return dataset


@pytest.fixture(scope="module")
def sampled() -> list[Scene]:
    dataset = _load("shapes")
    return [
        sample_scene(dataset, CLASSES[i % len(CLASSES)], np.random.default_rng([7, i]))
        for i in range(SAMPLES)
    ]


@pytest.mark.parametrize("factor", ["colour", "texture", "ground", "ground_texture"])
def test_named_factors_are_independent_of_the_class(sampled: list[Scene], factor: str) -> None:
    values = {
        "colour": [scene.shapes[0].colour for scene in sampled],
        "texture": [scene.shapes[0].texture for scene in sampled],
        "ground": [scene.colour for scene in sampled],
        "ground_texture": [scene.texture for scene in sampled],
    }[factor]
    levels = list(TEXTURES) if "texture" in factor else list(COLOURS)
    table = np.zeros((len(CLASSES), len(levels)))
    for scene, value in zip(sampled, values, strict=True):
        table[CLASSES.index(scene.shapes[0].name), levels.index(value)] += 1
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    chi_square = ((table - expected) ** 2 / expected).sum()
    freedom = (len(CLASSES) - 1) * (len(levels) - 1)
    # Mean `freedom`, standard deviation sqrt(2 freedom): four of them are a chance of 1 in 10,000.
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
    assert table.sum(0).min() > SAMPLES / len(levels) / 2


@pytest.mark.parametrize("factor", ["radius", "x", "y", "angle", "stretch", "noise", "clutter"])
def test_numbers_are_independent_of_the_class(sampled: list[Scene], factor: str) -> None:
    shapes = [scene.shapes[0] for scene in sampled]
    values = np.array(
        {
            "radius": [shape.radius for shape in shapes],
            "x": [shape.centre[0] for shape in shapes],
            "y": [shape.centre[1] for shape in shapes],
            "angle": [shape.angle for shape in shapes],
            "stretch": [shape.stretch for shape in shapes],
            "noise": [scene.noise for scene in sampled],
            "clutter": [scene.clutter for scene in sampled],
        }[factor],
        float,
    )
    means = np.array([values[i :: len(CLASSES)].mean() for i in range(len(CLASSES))])
    explained = means.var() / values.var()
    # Of independent values the expectation is (classes - 1) / samples.
    assert explained < 3 * (len(CLASSES) - 1) / SAMPLES
    assert values.std() > 0


def test_a_shape_never_has_its_backgrounds_colour(sampled: list[Scene]) -> None:
    assert all(scene.shapes[0].colour != scene.colour for scene in sampled)


def test_a_single_shape_is_nearly_whole(sampled: list[Scene]) -> None:
    shares = [
        float(scene.masks[0].sum()) / 255 / (math.pi * scene.shapes[0].radius ** 2)
        for scene in sampled
    ]
    assert min(shares) > 0.7
    assert np.mean(shares) > 0.97


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_the_same_area(name: str) -> None:
    mask = draw_mask(name, 96, (48.0, 48.0), 20.0, 0.7, 1.3)
    assert mask.sum() / 255 == pytest.approx(math.pi * 20**2, rel=0.04)


def test_there_are_ten_classes() -> None:
    assert len(OUTLINES) == 10
    assert sorted(CLASSES) == CLASSES


def test_the_same_params_give_the_same_bytes_and_other_seeds_others() -> None:
    dataset = _load("shapes")

    def first(changed: ShapesDataset, split: str) -> list[bytes]:
        return [item.read() for item in ShapesSource(changed).items(split, range(5))]

    assert first(dataset, "train") == first(dataset, "train")
    assert set(first(dataset, "train")).isdisjoint(first(dataset, "val"))
    other = dataset.model_copy(update={"seed": 1})
    assert set(first(dataset, "train")).isdisjoint(first(other, "train"))


def test_an_image_does_not_depend_on_those_before_it() -> None:
    source = ShapesSource(_load("shapes"))
    (alone,) = source.items("val", [17])
    together = list(source.items("val", range(18)))[-1]
    assert (alone.id, alone.read(), alone.captions) == (
        together.id,
        together.read(),
        together.captions,
    )


def test_captions_name_the_class() -> None:
    source = ShapesSource(_load("shapes"))
    for item in source.items("train", range(100)):
        assert item.label is not None
        assert len(set(item.captions)) == 5
        for caption in item.captions:
            named = [name for name in CLASSES if name in caption.replace(",", " ").split()]
            assert named == [CLASSES[item.label]]
            assert " a orange" not in f" {caption}"
            assert " a arrow" not in f" {caption}"


def test_scenes_have_objects_of_all_of_cocos_sizes() -> None:
    source = ShapesSource(_load("shapes_scenes"))
    items = list(source.items("train", range(60)))
    areas = np.array([a["area"] for item in items for a in item.annotations])
    counts = [len(item.annotations) for item in items]
    assert (min(counts), max(counts)) == (1, 6)
    small, large = (areas < 32**2).mean(), (areas > 96**2).mean()
    assert small > 0.2
    assert large > 0.03
    assert 1 - small - large > 0.2


def test_boxes_and_areas_are_those_of_the_masks() -> None:
    for item in ShapesSource(_load("shapes_scenes")).items("val", range(10)):
        covered = np.zeros((160, 160), int)
        for annotation in item.annotations:
            mask = _decode(annotation["segmentation"])
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert annotation["area"] == mask.sum()
            covered += mask
        assert covered.max() == 1


def _decode(segmentation: dict[str, list[int]]) -> np.ndarray:
    height, width = segmentation["size"]
    values = np.arange(len(segmentation["counts"])) % 2
    return np.repeat(values, segmentation["counts"]).reshape(width, height).T


@pytest.mark.parametrize("first", [False, True])
def test_run_lengths_begin_with_what_is_outside(first: bool) -> None:
    mask = np.array([[first, True, False], [False, True, True]])
    encoded = run_lengths(mask)
    assert encoded["size"] == [2, 3]
    assert encoded["counts"] == ([0, 1, 1, 2, 1, 1] if first else [2, 2, 1, 1])
    assert (_decode(encoded) == mask).all()


def test_scenes_load_with_pycocotools(tmp_path: Path) -> None:
    import json

    coco = pytest.importorskip("pycocotools.coco")
    source = ShapesSource(_load("shapes_scenes"))
    items = list(source.items("val", range(5)))
    annotations = [annotation for item in items for annotation in item.annotations]
    images = [
        {"id": item.image_id, "file_name": item.id, "width": 160, "height": 160} for item in items
    ]
    content = {"images": images, "annotations": annotations, "categories": source.categories}
    (tmp_path / "val.json").write_text(json.dumps(content))
    loaded = coco.COCO(str(tmp_path / "val.json"))
    for annotation in loaded.anns.values():
        assert loaded.annToMask(annotation).sum() == annotation["area"]


def test_shapes_that_do_not_fit_are_a_users_error() -> None:
    dataset = _load("shapes_scenes").model_copy(
        update={"objects": [6, 6], "radii": [[79.0, 80.0]], "min_visible": 0.9}
    )
    with pytest.raises(UserError, match="do not fit into 160 px"):
        sample_scene(dataset, None, np.random.default_rng(0))
