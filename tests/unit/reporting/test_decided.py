"""Decisions in a report: bits and draws that follow from the steps' files, and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from pycocotools.coco import COCO

from steps.artifacts import read_manifest, read_records, write_records
from steps.artifacts.decisions import (
    Decisions,
    of_classes,
    of_confusion,
    of_detections,
    of_values,
)
from steps.command import UserError
from steps.evaluation.precision import average_precision, in_coco_format
from steps.evaluation.segmentation import scores
from steps.reporting import decided as decided_module
from steps.reporting.decided import DECISIONS, IMAGES, RESAMPLES, decided_files, resamples
from steps.reporting.source import Source, read_source, source_files
from tests.unit.detection.conftest import make_scenes
from tests.unit.reporting.synthetic import Synthetic, build, write_task

IMAGES_OF = 37
IDS = [f"val/{index}" for index in range(IMAGES_OF)]
CLASSES = ("red", "green", "blue")


def classes(seed: int, ids: list[str] = IDS) -> Decisions:
    """Decisions of a classifier that is right in about half of the images."""
    rng = np.random.default_rng(seed)
    labels = np.arange(len(ids)) % 3
    top = np.stack([(labels + shift) % 3 for shift in (0, 1, 2)], axis=1)
    wrong = rng.random(len(ids)) < 0.5
    top[wrong] = top[wrong][:, [1, 0, 2]]
    return of_classes(ids, labels, top, np.ones(len(ids), np.float32))


def give(
    made: Synthetic, recipe: str, task: str, decisions: Decisions, seed: int = 0, **further: Any
) -> None:
    """Put decisions beside a record of a made-up experiment."""
    file = Path(made.paths.record(str(made.row(recipe, seed)), task, made.heading.tasks[task][0]))
    records, manifest = read_records(file)
    facts = {"class_counts": dict.fromkeys(CLASSES, 12)} if decisions.kind == "classes" else {}
    write_records(
        file,
        [record.model_copy(update=further) for record in records],
        node=task,
        params=manifest.params,
        inputs={"backbone": made.row(recipe, seed) / "backbone"},
        started=0.0,
        seed=manifest.seed,
        facts=facts,
        decisions=decisions,
    )


def _write(source: Source, folder: Path) -> None:
    for name, content in source_files(source).items():
        (folder / name).write_bytes(content)


@pytest.fixture
def made(tmp_path: Path) -> Synthetic:
    """Two methods, two seeds, k-NN and linear probing with decisions."""
    made = build(tmp_path, methods=("random", "mae"), seeds=(0, 1), tasks=("knn", "linear"))
    for seed in (0, 1):
        for index, recipe in enumerate(("random", "mae")):
            for task in ("knn", "linear"):
                give(made, recipe, task, classes(2 * seed + index), seed)
    return made


def test_bits_are_those_of_the_decisions(made: Synthetic, tmp_path: Path) -> None:
    source = made.source()
    frame = source.decisions
    assert frame.select("task", "recipe", "seed").rows() == [
        (task, recipe, seed)
        for task in ("knn", "linear")
        for recipe in ("random", "mae")
        for seed in (0, 1)
    ]
    assert frame["n"].unique().to_list() == [IMAGES_OF]
    assert frame["draws"].null_count() == frame.height
    row = frame.filter(task="knn", recipe="mae", seed=1).to_dicts()[0]
    bits = np.unpackbits(np.frombuffer(row["correct"], np.uint8))[:IMAGES_OF].astype(bool)
    table = classes(3).table.to_pydict()
    assert bits.tolist() == [
        top[0] == label for top, label in zip(table["top"], table["label"], strict=True)
    ]
    assert row["metric"] == "top1"
    file = made.results / source.traced[-1].source
    assert frame["digest"][-1] == read_records(file)[1].facts["decisions"]
    # Both tasks decide over the same images, which stand there once.
    assert source.images.rows(named=True) == [
        {
            "images": row["images"],
            "labels": [index % 3 for index in range(IMAGES_OF)],
            "classes": list(CLASSES),
        }
    ]

    (tmp_path / "report").mkdir()
    _write(source, tmp_path / "report")
    back = read_source(tmp_path / "report")
    assert back.decisions.equals(source.decisions)
    assert back.images.equals(source.images)
    for name in (DECISIONS, IMAGES):
        (tmp_path / "report" / name).unlink()
    before = read_source(tmp_path / "report")
    assert before.decisions.is_empty()
    assert before.decisions.schema == source.decisions.schema
    for name in (DECISIONS, IMAGES):
        (tmp_path / "report" / name).write_text("what is this\n")
        with pytest.raises(UserError, match=f"{name}.*not what a report holds"):
            read_source(tmp_path / "report")
        source.images.write_parquet(tmp_path / "report" / DECISIONS)
        with pytest.raises(UserError, match=r"decisions\.parquet: has the columns images, labels"):
            read_source(tmp_path / "report")
        _write(source, tmp_path / "report")


def test_records_of_before_have_no_rows(made: Synthetic) -> None:
    for seed in (0, 1):
        write_task(made.row("mae", seed), "knn")
    frame = made.source().decisions
    assert set(frame.select("task", "recipe").rows()) == {
        ("knn", "random"),
        ("linear", "random"),
        ("linear", "mae"),
    }


def test_decisions_that_are_not_those_of_their_record(made: Synthetic) -> None:
    file = made.file("mae", "knn").with_suffix(".parquet")
    whole = file.read_bytes()
    file.write_bytes(classes(99).encoded())
    with pytest.raises(UserError, match=r"knn\.parquet: decisions of the digest"):
        made.source()
    file.unlink()
    with pytest.raises(UserError, match=r"knn\.parquet: missing"):
        made.source()
    file.write_bytes(whole)
    made.source()


@pytest.mark.parametrize("change", ["order", "fewer"])
def test_other_images_than_a_rivals(change: str, made: Synthetic) -> None:
    ids = IDS[::-1] if change == "order" else IDS[:-3]
    give(made, "mae", "linear", classes(0, ids), seed=1)
    with pytest.raises(UserError) as error:
        made.source()
    (line,) = str(error.value).splitlines()
    first, second = ("random/seed0/linear", "mae/seed1/linear")
    assert f"{second}/shapes/features/linear.json: decides over other images than " in line
    assert f"{first}/shapes/features/linear.json" in line
    assert "run python -m steps.linear again" in line


def test_draws_are_the_same_for_the_same_number_of_images() -> None:
    weights = resamples(50)
    assert weights.shape == (RESAMPLES, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert np.array_equal(weights, resamples(50))
    assert len(np.unique(weights, axis=0)) == RESAMPLES
    # An image is drawn once on average, with a variance of 1 - 1/n.
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.02)


def drawn(tmp_path: Path, task: str, decisions: Decisions, metrics: tuple[str, ...]) -> Any:
    """The frame of one record of a task with decisions."""
    made = build(
        tmp_path,
        methods=("clip",),
        tasks=(task,) if task in ("retrieval", "detect") else ("knn",),
        text_methods=("clip",),
    )
    held = next(iter(made.heading.tasks))
    if task not in made.heading.tasks:  # as though the task were another one
        records, _ = read_records(made.file("clip", held))
        records = [
            records[0].model_copy(update={"task": task, "metric": metric}) for metric in metrics
        ]
        digest = _digest_of(decisions, tmp_path / "decisions.parquet")
        measured = decided_module.Measured(
            "file", tuple(records), tmp_path / "decisions.parquet", digest, (), tmp_path, ""
        )
        return decided_module.decide([measured]).decisions
    give(made, "clip", task, decisions)
    return made.source().decisions


def _digest_of(decisions: Decisions, path: Path) -> str:
    path.write_bytes(decisions.encoded())
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_draws_of_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random(IMAGES_OF).astype(np.float32)
    columns = {"jaccard": values.tolist(), "inside": values.tolist()}
    frame = drawn(tmp_path, "layout", of_values(IDS, columns), ("jaccard", "inside"))
    assert frame["metric"].to_list() == ["jaccard"]
    draws = np.array(frame["draws"][0].to_list())
    weights = resamples(IMAGES_OF)
    expected = [values[np.repeat(np.arange(IMAGES_OF), each)].mean() for each in weights]
    np.testing.assert_allclose(draws, expected, rtol=1e-5)
    assert frame["correct"].to_list() == [None]


def test_captions_are_drawn_with_their_image(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    owners = np.sort(np.concatenate([np.arange(IMAGES_OF), rng.integers(0, IMAGES_OF, 20)]))
    captions = 100.0 * (rng.random(len(owners)) < 0.4)
    first = np.diff(owners, prepend=-1) > 0
    of_images = 100.0 * (rng.random(IMAGES_OF) < 0.6)
    columns = {
        "text_R@1": [
            float(of_images[owner]) if here else None
            for owner, here in zip(owners, first, strict=True)
        ],
        "image_R@1": captions.tolist(),
    }
    ids = [IDS[owner] for owner in owners]
    frame = drawn(tmp_path, "retrieval", of_values(ids, columns), ())
    assert frame["metric"].to_list() == ["text_R@1", "image_R@1"]
    assert frame["n"].to_list() == [IMAGES_OF] * 2
    for draws, by_image in zip(frame["draws"], (of_images, None), strict=True):
        for found, weights in zip(draws[:50], resamples(IMAGES_OF), strict=False):
            if by_image is None:
                chosen = np.repeat(captions, weights[owners])
            else:
                chosen = np.repeat(by_image, weights)
            assert found == pytest.approx(chosen.mean(), rel=1e-5)


def test_draws_of_confusion(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 40, (IMAGES_OF, 4, 4))
    counts[:, :, 3] = counts[:, 3] = 0
    counts[5, 3, 1] = 9  # a class that is in one image only
    frame = drawn(tmp_path, "segment", of_confusion(IDS, counts), ("miou", "accuracy"))
    draws = frame["draws"][0].to_list()
    for found, weights in zip(draws[:40], resamples(IMAGES_OF), strict=False):
        summed = torch.from_numpy((weights[:, None, None] * counts).sum(axis=0))
        assert found == pytest.approx(100 * scores(summed)["miou"], rel=1e-5)


def test_draws_of_detections_need_the_dataset_that_was_measured(tmp_path: Path) -> None:
    scenes = make_scenes(tmp_path / "results/data/shapes_scenes", train=2, val=6)
    content = json.loads((scenes / "val.json").read_text())
    boxes = np.array([each["bbox"] for each in content["annotations"]], float)
    boxes[:, 2] += 1
    decisions = of_detections(
        [each["image_id"] for each in content["annotations"]],
        [each["category_id"] for each in content["annotations"]],
        np.linspace(0.9, 0.1, len(boxes)).tolist(),
        boxes,
        None,
    )
    made = build(tmp_path, methods=("random",), tasks=("detect",))
    file = made.file("random", "detect")
    records, manifest = read_records(file)
    inputs = {"backbone": made.row("random") / "backbone", "data": scenes}
    write_records(
        file,
        [record for record in records if record.metric == "box_AP"],
        node="detect",
        params=manifest.params,
        inputs=inputs,
        started=0.0,
        seed=0,
        decisions=decisions,
    )
    frame = made.source().decisions
    assert frame["metric"].to_list() == ["box_AP"]
    assert frame["n"].to_list() == [6]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(scenes / "val.json"))
        whole = average_precision(truth, in_coco_format(truth, decisions, "bbox"), "bbox")["AP"]
    draws = frame["draws"][0].to_numpy()
    assert draws.std() > 0
    assert abs(draws.mean() - whole) < 3 * draws.std()
    digest = read_manifest(scenes).digest
    make_scenes(scenes, train=2, val=6, seed=1)
    assert read_manifest(scenes).digest != digest
    with pytest.raises(UserError, match=r"measured on the dataset .* is now .*steps\.detect again"):
        made.source()


def test_a_report_that_is_too_large_to_commit(made: Synthetic) -> None:
    source = made.source()
    rng = np.random.default_rng(0)
    row = source.decisions[:1]
    large = pl.concat([row.with_columns(correct=pl.lit(rng.bytes(300_000))) for _ in range(8)])
    with pytest.raises(UserError, match=r"2\.4 MB of decisions .* at most 2 MB"):
        decided_files(decided_module.Decided(large, source.images))
