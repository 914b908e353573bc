"""Every class of bad input: one line with file, key and remedy, status 2, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.processes import REPOSITORY
from tests.scenery import RECIPES, Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]


def _refused(done: subprocess.CompletedProcess[str], out: Path, *parts: str) -> str:
    assert done.returncode == 2, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[0], f"{part!r} is not in: {lines[0]}"
    assert not out.exists(), "something was written"
    assert not list(out.parent.glob(f".{out.name}*")), "a draft was left behind"
    return lines[0]


def _photos(folder: Path, classes: int = 2, images: int = 3) -> None:
    for split in ("train", "val"):
        for name in range(classes):
            (folder / split / f"class{name}").mkdir(parents=True)
            for index in range(images):
                image = Image.radial_gradient("L").resize((40, 40)).convert("RGB")
                image.save(folder / split / f"class{name}" / f"{index}.jpg")


@pytest.mark.parametrize(
    ("group", "values", "parts"),
    [
        ("method", {"name": "mea"}, ["method", "'mea'", "'mae'"]),
        ("method", {"mask_ration": 0.5}, ["unknown key 'method.mask_ration'", "remedy:"]),
        ("method", {"mask_ratio": "0.75"}, ["'method.mask_ratio' is '0.75' (str)", "remedy:"]),
        ("training", {"batch_size": 4096}, ["training.batch_size", "4096", "48 training images"]),
    ],
)
def test_recipes(
    group: str, values: dict[str, object], parts: list[str], scenery: Scenery, step: Step
) -> None:
    recipe = {**RECIPES["mae"], group: {**RECIPES["mae"][group], **values}}
    path = scenery.write("recipes/test/mae.yaml", recipe)
    out = scenery.root / "out"
    done = step("pretrain", *scenery.pretrain_arguments(path, scenery.images(), out))
    _refused(done, out, str(path), *parts)


@pytest.mark.parametrize("command", ["misspelt", "unknown"])
def test_snakemake_checks_before_any_work(command: str, scenery: Scenery) -> None:
    tree = {
        "experiments/quickstart.yaml": (REPOSITORY / "params/experiments/quickstart.yaml"),
    }
    for name, source in tree.items():
        target = scenery.params / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text()
        target.write_text(
            text.replace("seeds:", "sedes:")
            if command == "misspelt"
            else text.replace("supervised, mae", "supervised, maee")
        )
    for folder in ("recipes", "backbones", "datasets", "protocols"):
        for file in (REPOSITORY / "params" / folder).rglob("*.yaml"):
            target = scenery.params / file.relative_to(REPOSITORY / "params")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.read_text())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "-n", "report"),
            *("--snakefile", str(REPOSITORY / "workflow/Snakefile")),
            *("--config", f"params={scenery.params}"),
        ],
        cwd=scenery.root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    expected = (
        ["unknown key 'sedes'", "remedy:"]
        if command == "misspelt"
        else ["maee.yaml", "no such params file", "did you mean 'mae'?"]
    )
    _refused(done, scenery.root / "results/quickstart", str(scenery.params), *expected)


def test_missing_data_folder(scenery: Scenery, step: Step) -> None:
    path = scenery.write(
        "datasets/mine.yaml", {"format": "folder", "train": "mine/train", "val": "mine/val"}
    )
    out = scenery.root / "results/data/mine"
    done = step("prepare", "--dataset", path, "--out", out)
    _refused(done, out, "mine/train", "remedy:")


def test_empty_data_folder(scenery: Scenery, step: Step) -> None:
    (scenery.root / "data/mine/train").mkdir(parents=True)
    (scenery.root / "data/mine/val").mkdir(parents=True)
    path = scenery.write(
        "datasets/mine.yaml", {"format": "folder", "train": "mine/train", "val": "mine/val"}
    )
    out = scenery.root / "results/data/mine"
    done = step("prepare", "--dataset", path, "--out", out)
    _refused(done, out, "mine/train", "remedy:")


def test_truncated_jpeg(scenery: Scenery, step: Step) -> None:
    _photos(scenery.root / "data/mine")
    victim = scenery.root / "data/mine/train/class1/1.jpg"
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    path = scenery.write(
        "datasets/mine.yaml", {"format": "folder", "train": "mine/train", "val": "mine/val"}
    )
    out = scenery.root / "results/data/mine"
    done = step("prepare", "--dataset", path, "--out", out)
    _refused(done, out, "class1/1.jpg", "remedy:")
    skipping = {"format": "folder", "train": "mine/train", "val": "mine/val"}
    skipping |= {"on_bad": "skip", "max_bad_share": 0.5}  # type: ignore[dict-item]
    path = scenery.write("datasets/mine.yaml", skipping)
    done = step("prepare", "--dataset", path, "--out", out)
    assert done.returncode == 0, done.stderr
    problems = json.loads((out / "manifest.json").read_text())["facts"]["problems"]
    assert [problem["item"] for problem in problems] == ["class1/1.jpg"]


def test_coco_json_that_names_a_missing_image(scenery: Scenery, step: Step) -> None:
    root = scenery.root / "data/mine"
    instances = {
        "images": [
            {"id": number, "file_name": f"{name}.jpg", "width": 40, "height": 40}
            for number, name in ((7, "gone"), (8, "there"))
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 7,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [1, 1, 9, 9],
                "area": 81,
                "segmentation": [[1, 1, 10, 1, 10, 10]],
            }
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        (root / f"{split}.json").write_text(json.dumps(instances))
        Image.new("RGB", (40, 40)).save(root / split / "there.jpg")
    splits = {
        split: {"images": f"mine/{split}", "annotations": f"mine/{split}.json"}
        for split in ("train", "val")
    }
    path = scenery.write("datasets/mine.yaml", {"format": "coco", **splits})
    out = scenery.root / "results/data/mine"
    done = step("prepare", "--dataset", path, "--out", out)
    _refused(done, out, "gone.jpg", "remedy:")
