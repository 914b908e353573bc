"""The drawn datasets: the same bytes from the same params, and no way around looking at the shape.

The independence of class and nuisance is tested on sampled factors, with Pearson's chi-square for
named factors and the correlation ratio for numbers, over as many samples as pass in a second.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from steps.command import UserError
from steps.data.sources.shapes import ShapesSource
from steps.data.sources.shapes.paint import (
    CLASSES,
    COLOURS,
    OUTLINES,
    TEXTURES,
    Scene,
    draw_mask,
    sample_scene,
)
from steps.data.sources.shapes.reader import (
    CONFLICTS,
    FACTORS,
    LOOKS,
    conflicting,
    run_lengths,
    shapes_with_cues,
    with_cues,
)
from steps.params.dataset import Dataset
from steps.params.load import load, read_yaml
from steps.params.shapes import Cues, ShapesDataset

PARAMS = Path(__file__).parents[3] / "params" / "datasets"
SAMPLES = 3000


def _load(name: str) -> ShapesDataset:
    dataset = load(PARAMS / f"{name}.yaml", Dataset)  # type: ignore[arg-type]
    assert isinstance(dataset, ShapesDataset)
    return dataset


@pytest.fixture(scope="module")
def sampled() -> list[Scene]:
    dataset = _load("shapes_independent")
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


def test_a_set_without_cues_is_drawn_as_ever() -> None:
    dataset = _load("shapes_independent")
    before = dataset.model_copy(update={"cues": None})
    for split in ("train", "val"):
        free = list(ShapesSource(before).items(split, range(20)))
        zero = list(ShapesSource(dataset).items(split, range(20)))
        assert [item.read() for item in free] == [item.read() for item in zero]
        assert [item.captions for item in free] == [item.captions for item in zero]
        assert not any(item.factors for item in free)
    # Captions come after all else that is drawn, so they tell of every draw before them: those of
    # the first set, before there were cues.
    first = before.model_copy(update={"clutter": [1, 4], "rotation": 20.0})
    said = "".join(
        caption
        for item in ShapesSource(first).items("val", range(200))
        for caption in item.captions
    )
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "fdc111195d77116a"


def test_looks_tell_classes_apart() -> None:
    assert list(LOOKS) == CLASSES
    looks = list(LOOKS.values())
    assert len({(look.colour, look.texture) for look in looks}) == len(CLASSES)
    assert len({(look.ground_colour, look.ground_texture) for look in looks}) == len(CLASSES)
    assert all(look.colour != look.ground_colour for look in looks)
    for factor, values in FACTORS.items():
        assert {getattr(look, factor) for look in looks} <= set(values)


def _looks(scene: Scene) -> dict[str, str]:
    (shape,) = scene.shapes
    return {
        "colour": shape.colour,
        "texture": shape.texture,
        "ground_colour": scene.colour,
        "ground_texture": scene.texture,
    }


@pytest.mark.parametrize("factor", list(FACTORS))
def test_a_cue_is_of_the_class_with_its_probability(sampled: list[Scene], factor: str) -> None:
    cues = Cues(colour=0.5, texture=0.6, ground_colour=0.5, ground_texture=0.5)
    chance = getattr(cues, factor)
    own = [
        _looks(with_cues(scene, cues, np.random.default_rng([3, i])))[factor]
        == getattr(LOOKS[scene.shapes[0].name], factor)
        for i, scene in enumerate(sampled)
    ]
    # Drawn freely it is of the class once in as many times as there are values.
    expected = chance + (1 - chance) / len(FACTORS[factor])
    assert np.mean(own) == pytest.approx(expected, abs=0.04)


def test_cues_leave_colours_apart(sampled: list[Scene]) -> None:
    cues = Cues(colour=0.5, ground_colour=0.5)
    for i, scene in enumerate(sampled):
        changed = with_cues(scene, cues, np.random.default_rng([4, i]))
        assert changed.shapes[0].colour != changed.colour
        assert (changed.shapes[0].texture, changed.texture) == (
            scene.shapes[0].texture,
            scene.texture,
        )


@pytest.mark.parametrize("conflict", CONFLICTS[1:])
def test_one_cue_is_of_another_class_and_the_others_of_neither(
    sampled: list[Scene], conflict: str
) -> None:
    mine = {"ground": ("ground_colour", "ground_texture")}.get(conflict, (conflict,))
    rivals: set[tuple[str, str]] = set()
    for i, scene in enumerate(sampled):
        looks = _looks(conflicting(scene, conflict, np.random.default_rng([5, i])))
        name = scene.shapes[0].name
        assert looks["colour"] != looks["ground_colour"]
        assert all(looks[factor] != getattr(LOOKS[name], factor) for factor in FACTORS)
        fitting = [
            other
            for other, look in LOOKS.items()
            if all(looks[factor] == getattr(look, factor) for factor in mine)
            and all(looks[f] != getattr(look, f) for f in FACTORS if f not in mine)
        ]
        assert fitting, (name, looks)
        rivals |= {(name, other) for other in fitting}
    assert len(rivals) > 60, "nearly every class meets every other"


def test_conflicts_come_equally_often_in_every_class() -> None:
    source = ShapesSource(_load("shapes_conflicts"))
    items = list(source.items("val", range(60)))
    met = {(item.label, item.factors["conflict"]) for item in items}
    assert len(met) == 10 * 3
    for item in source.items("train", range(20)):
        assert item.factors["conflict"] == 0
        look = LOOKS[CLASSES[item.label or 0]]
        drawn = {factor: FACTORS[factor][item.factors[factor]] for factor in FACTORS}
        assert drawn == {factor: getattr(look, factor) for factor in FACTORS}


def test_scenes_take_cues_too() -> None:
    dataset = _load("shapes_scenes")
    cues = Cues(colour=1.0, texture=1.0)
    for i in range(30):
        scene = sample_scene(dataset, None, np.random.default_rng([6, i]))
        changed = shapes_with_cues(scene, cues, np.random.default_rng([7, i]))
        assert (changed.colour, changed.texture) == (scene.colour, scene.texture)
        for shape in changed.shapes:
            look = LOOKS[shape.name]
            assert shape.texture == look.texture
            assert shape.colour == look.colour or look.colour == scene.colour
            assert shape.colour != scene.colour


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("shapes", {"cues": {"colour": 1.5}}, "'cues.colour' is 1.5"),
        ("shapes", {"cues": {"size": 0.5}}, "cues.size"),
        ("shapes", {"cues": {"colour": "often"}}, "cues.colour"),
        ("shapes_scenes", {"cues": {"ground_colour": 0.5}}, "cues.ground_colour is above 0"),
        ("shapes", {"conflicts": True}, "remove the key 'cues'"),
        ("shapes_scenes", {"conflicts": True}, "only for kind classification"),
    ],
)
def test_wrong_cues_are_errors_of_a_line(
    name: str, changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump({**read_yaml(PARAMS / f"{name}.yaml"), **changed}))
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        load(file, Dataset)  # type: ignore[arg-type]
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_drawn_sets_go_together() -> None:
    """Scenes have the cues of shapes, and what features see is asked of images drawn alike."""
    shapes = _load("shapes")
    assert shapes.cues is not None
    for name in ("shapes_scenes", "shapes_scenes_2k"):
        assert _load(name).cues == Cues(colour=shapes.cues.colour, texture=shapes.cues.texture)
    own = {"cues", "conflicts", "train", "val"}
    for name in ("shapes_independent", "shapes_conflicts"):
        assert _load(name).model_dump(exclude=own) == shapes.model_dump(exclude=own)
    assert _load("shapes_independent").is_independent
    assert shapes.val >= 4000
