"""Importing as a user does: one line for a file that is refused, an artifact that tasks take."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from steps.artifacts import read_manifest
from steps.models.backbones import image_size, load_backbone
from tests.scenery import BACKBONE, Scenery
from tests.unit.models.official.test_files import Payload
from tests.unit.models.official.test_reading import official

Step = Callable[..., subprocess.CompletedProcess[str]]


def test_a_payload_ends_in_one_line(tmp_path: Path, step: Step) -> None:
    mark, path = tmp_path / "ran", tmp_path / "official.pth"
    torch.save({**official("mae"), "args": Payload(mark)}, path)
    done = step("import", "--format", "mae", "--checkpoint", path, "--out", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: not readable as weights alone")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_an_imported_backbone_goes_through_a_task(scenery: Scenery, step: Step) -> None:
    path, out = scenery.root / "official.pth", scenery.root / "imported"
    torch.save({**official("dino_full"), "epoch": 100}, path)
    options = ("--heads", 3, "--name", "dino_published", "--epochs", 300)
    done = step("import", "--format", "dino", "--checkpoint", path, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stderr
    assert "epoch" in done.stderr
    facts = read_manifest(out, "pretrain").facts
    assert (facts["method"], facts["recipe"], facts["epochs"]) == ("dino", "dino_published", 300)
    protocol = scenery.write("protocols/f.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    features = scenery.root / "features"
    arguments = ("--protocol", protocol, "--backbone", out, "--data", scenery.images())
    done = step("features", *arguments, "--out", features)
    assert done.returncode == 0, done.stderr
    assert (features / "train_cls.npy").is_file()


def test_what_an_experiment_imports(scenery: Scenery, step: Step) -> None:
    torch.save(official("mae"), scenery.root / "mae.pth")
    out = scenery.root / "imported"
    # The file is of images of 16 px.
    size = {
        "image_size": 32,
        "patch_size": 4,
        "model_args": {**BACKBONE["model_args"], "num_heads": 3},
    }
    backbone = scenery.write("backbones/vit_tiny.yaml", {**BACKBONE, **size})
    given = ("--format", "mae", "--backbone", backbone, "--name", "theirs", "--seed", 3)
    source = ("--source", "the authors' page")

    done = step("import", *given, *source, "--official", "no/mae.pth", "--out", out)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no/mae.pth: no such file | allowed: the official checkpoint of mae, of a vit_t" in line
    assert "put it there (from the authors' page), or point PRETEXT_DATA at the folder that" in line

    other = ("--backbone", scenery.write("backbones/other.yaml", BACKBONE))
    file = ("--official", scenery.root / "mae.pth")
    done = step("import", *given, *other, "--heads", 3, *file, "--out", out)
    assert done.returncode == 2
    assert "a backbone of 24 channels, 2 layers, 3 heads, 4 px a patch" in done.stderr
    assert "allowed: 24 channels, 2 layers, 2 heads, 8 px a patch, as " in done.stderr

    done = step("import", *given, *file, "--out", out)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(out, "pretrain")
    names = [manifest.facts[key] for key in ("recipe", "backbone", "scale", "kind")]
    assert names == ["theirs", "vit_tiny", "ViT-Test", "Generative"]
    assert manifest.seed == 3
    assert image_size(load_backbone(out)) == 32
