"""Importing as a user does: one line for a file that is refused, an artifact that tasks take."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import torch

from steps.artifacts import read_manifest
from tests.scenery import Scenery
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
