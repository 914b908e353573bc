"""Importing as a user does: one line for a file that is refused, an artifact that tasks take."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.models.backbones import image_size, load_backbone, normalisation
from steps.params.imported import Imported
from steps.params.load import validate
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


# --- Models of timm and folders of transformers


def eva_file(path: Path) -> None:
    """Weights of a small DINOv3 of timm."""
    model: Any = timm.create_model(
        "vit_small_patch16_dinov3",
        **{"num_classes": 0, "img_size": 32, "patch_size": 8, **BACKBONE["model_args"]},
    )
    save_file({name: each.contiguous() for name, each in model.state_dict().items()}, path)


def test_a_model_of_timm_from_a_file(scenery: Scenery, step: Step) -> None:
    file, out = scenery.root / "eva.safetensors", scenery.root / "imported"
    eva_file(file)
    network = {**BACKBONE, "architecture": "vit_small_patch16_dinov3"}
    backbone = scenery.write("backbones/eva.yaml", network)
    given = ("--format", "timm", "--model", "vit_small_patch16_dinov3.lvd1689m")
    row = ("--backbone", backbone, "--name", "dinov3_s", "--method", "dinov3", "--out", out)
    done = step("import", *given, "--official", "no/eva.safetensors", *row)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no such file | allowed: weights of timm's vit_small_patch16_dinov3.lvd1689m, of" in line
    assert not out.exists()
    done = step("import", *given, "--checkpoint", file, *row)
    assert done.returncode == 0, done.stderr
    facts = read_manifest(out, "pretrain").facts
    assert (facts["method"], facts["kind"], facts["scale"]) == ("dinov3", "Hybrid", "ViT-Test")
    # Those of timm's config of that name.
    assert normalisation(out) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    images = torch.randn(1, 3, 48, 48)
    theirs: Any = timm.create_model(f"local-dir:{out}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        assert torch.equal(load_backbone(out)(images), theirs(images))


def test_a_folder_of_transformers(scenery: Scenery, step: Step) -> None:
    transformers = pytest.importorskip("transformers")
    folder, out = scenery.root / "siglip", scenery.root / "imported"
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {**sizes, "intermediate_size": 48, "image_size": 32, "patch_size": 8}
    transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**config)).save_pretrained(
        folder
    )
    given = ("--format", "transformers", "--checkpoint", folder, "--out", out)
    done = step("import", *given)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "no word on the normalisation of its images | allowed: imagenet, inception, cl" in line
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    done = step("import", *given, "--normalise", "imagenet", "--name", "siglip")
    assert done.returncode == 0, done.stderr
    assert "its images have the mean [0.5, 0.5, 0.5]" in done.stderr
    facts = read_manifest(out, "pretrain").facts
    assert (facts["method"], facts["kind"], facts["recipe"]) == ("siglip", "Contrastive", "siglip")
    # Without a class token every task reads what the pooling head gives.
    data, features = scenery.images(), scenery.root / "features"
    protocol = scenery.write("protocols/f.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    done = step(
        "features", "--protocol", protocol, "--backbone", out, "--data", data, "--out", features
    )
    assert done.returncode == 0, done.stderr


def test_an_origin_without_its_file(tmp_path: Path, step: Step) -> None:
    done = step("import", "--format", "transformers", "--out", tmp_path / "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--format transformers: no file | allowed: --checkpoint PATH, or --official" in line


ROW = {"name": "row", "backbone": "vit_test"}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "row has no origin; one of format, timm, transformers is needed"),
        ({"timm": "vit_small_patch16_224", "format": "mae"}, "row has format and timm"),
        ({"format": "mae"}, "format mae needs the key 'checkpoint'"),
        ({"transformers": "a", "checkpoint": "b"}, "transformers names the folder: remove"),
        ({"transformers": "../a"}, "transformers"),
        ({"timm": "official/vit.pth"}, "move official/vit.pth to 'checkpoint'"),
        ({"timm": "vit_small_patch16_224", "network": "teacher"}, "network is of official files"),
        ({"format": "mae", "checkpoint": "a", "method": "mae"}, "format names the method: remove"),
        ({"timm": "vit_small_patch16_224", "method": "dinov9"}, "method dinov9 is none of"),
    ],
)
def test_rows_that_say_too_little_or_too_much(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        validate({**ROW, **keys}, Imported, "experiment")
    message = str(caught.value)
    assert said in message
    assert "\n" not in message


def test_options_of_rows() -> None:
    row = validate({**ROW, "transformers": "hub/dinov2", "method": "dinov2"}, Imported, "row")
    assert row.options == [
        *("--format", "transformers", "--official", "hub/dinov2", "--method", "dinov2")
    ]
    assert row.asked["official"] == "hub/dinov2"
    row = validate({**ROW, "timm": "vit_small_patch16_224.dino"}, Imported, "row")
    assert row.options == ["--format", "timm", "--model", "vit_small_patch16_224.dino"]
    official = validate({**ROW, "format": "mae", "checkpoint": "a.pth"}, Imported, "row")
    assert official.options == ["--format", "mae", "--official", "a.pth"]
    assert "model" not in official.asked
