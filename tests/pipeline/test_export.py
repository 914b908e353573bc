"""A backbone out to timm, transformers, ONNX and TorchScript, through the command."""

from __future__ import annotations

import builtins
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from steps import export
from steps.artifacts import Record, publish, read_manifest, write_records
from steps.command import UserError
from steps.exporting import write as writing
from steps.exporting.graph import axis
from steps.exporting.transformers import write_transformers
from steps.models.backbones import create_backbone, save_backbone
from steps.models.dinov2_vit import as_dinov2
from steps.models.positions import Resizing, resize_map
from steps.params.backbone import Backbone, BEiTBackbone
from steps.params.methods.dinov2 import DINOv2Backbone
from tests.scenery import RESNET
from tests.unit.detection.conftest import make_backbone, seal

BOUND = 1e-5
"""Largest difference of an output in these tests, where outputs are below 10."""
BACKBONES: dict[str, dict[str, Any]] = {
    "vit": {},
    "vit_without_qkv_bias": {"qkv_bias": False},
    "dinov2": {"init_values": 0.5},
    "dinov2_registers": {"init_values": 0.5, "reg_tokens": 3, "no_embed_class": True},
    "beit_shared": {"beit": BEiTBackbone(relative_positions="shared")},
    "beit_both": {"beit": BEiTBackbone(relative_positions="both", layer_scale=0.5)},
    "beit_absolute": {
        "beit": BEiTBackbone(relative_positions="none", absolute_positions=True, layer_scale=0)
    },
}
OTHERS: dict[str, dict[str, Any]] = {
    "dinov3": {"architecture": "vit_small_patch16_dinov3"},
    "eva02": {"architecture": "eva02_tiny_patch14_224"},
    "siglip": {"architecture": "vit_base_patch16_siglip_224"},
}
"""Rotary positions, and no class token; transformers' architectures hold neither."""
CLASSES = {
    "vit": "ViTModel",
    "vit_without_qkv_bias": "ViTModel",
    "dinov2": "Dinov2Model",
    "dinov2_registers": "Dinov2WithRegistersModel",
    "beit_shared": "BeitModel",
    "beit_both": "BeitModel",
    "beit_absolute": "BeitModel",
}


def backbone(folder: Path, name: str = "vit") -> Path:
    """An artifact none of whose tensors is zero or one throughout."""
    options = {"depth": 2, **(BACKBONES | OTHERS)[name]}
    make_backbone(folder, **options)
    weights = load_file(folder / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    for key, tensor in weights.items():
        weights[key] = tensor + 0.2 * torch.randn(tensor.shape, generator=draw)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    seal(folder)
    return folder


def run(*arguments: object) -> None:
    """The command, in this process."""
    saved, sys.argv = sys.argv, ["export", *map(str, arguments)]
    try:
        export.main()
    finally:
        sys.argv = saved


def exported(root: Path, name: str, *options: object) -> Path:
    """The folder of an export, whose self-check was within BOUND."""
    out = root / "out"
    run("--backbone", backbone(root / "backbone", name), "--out", out, "--to", *options)
    assert read_manifest(out, "export").facts["difference"] < BOUND
    return out


@pytest.mark.parametrize("name", BACKBONES)
def test_transformers_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    out = exported(tmp_path, name, "transformers")
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == [CLASSES[name]]
    if name != "vit":
        return
    from transformers import AutoImageProcessor, AutoModel

    picture = Image.effect_noise((100, 80), 80).convert("RGB")
    pixels = AutoImageProcessor.from_pretrained(out)(picture, return_tensors="pt")["pixel_values"]
    transform = timm.data.create_transform(
        (3, 64, 64), mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0, interpolation="bicubic"
    )
    # Another library's resizing: a level of 255 here and there.
    assert (pixels[0] - transform(picture)).abs().max() < 3 / 255 / 0.25
    assert AutoModel.from_pretrained(out)(pixels).last_hidden_state.shape == (1, 65, 32)


@pytest.mark.parametrize("name", ["vit", "dinov2_registers", "beit_both", *OTHERS])
def test_timm_gives_the_same_outputs(name: str, tmp_path: Path) -> None:
    out = exported(tmp_path, name, "timm")
    config = timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{out}"))
    assert (config["input_size"], config["mean"], config["crop_pct"]) == (
        [3, 64, 64],
        [0.5, 0.5, 0.5],
        1.0,
    )


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit", None),
        ("vit", "free"),
        ("dinov2_registers", "free"),
        ("beit_both", 96),
        ("dinov3", 96),
        ("eva02", None),
        ("siglip", "free"),
    ],
)
def test_onnxruntime_gives_the_same_outputs(
    name: str, size: int | str | None, tmp_path: Path
) -> None:
    import onnx

    options = [] if size is None else ["--size", size]
    out = exported(tmp_path, name, "onnx", *options)
    (ours,) = [each for each in onnx.load(out / "model.onnx").opset_import if not each.domain]
    assert ours.version == 18
    assert [path.name for path in sorted(out.iterdir())] == [
        "README.md",
        "manifest.json",
        "model.onnx",
    ]
    fed = re.search(r"fed at (.*) px", (out / "README.md").read_text())
    assert fed is not None
    side = 64 if size in (None, "free") else size
    assert fed[1] == f"{side} x {side}" + (", 80 x 72, 128 x 128" if size == "free" else "")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit", "free"),
        ("dinov2_registers", 96),
        ("beit_shared", None),
        ("dinov3", None),
        ("eva02", 96),
        ("siglip", 96),
    ],
)
def test_torchscript_gives_the_same_outputs(
    name: str, size: int | str | None, tmp_path: Path
) -> None:
    out = exported(tmp_path, name, "torchscript", *([] if size is None else ["--size", size]))
    model = torch.jit.load(out / "model.pt")
    side = size if isinstance(size, int) else 64
    first, mean = model(torch.zeros(3, 3, side, side))
    assert first.shape == mean.shape == (3, 32)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "dinov3",
            ["--to", "transformers"],
            "a transformer of timm's class Eva (rotary positions)",
        ),
        ("dinov3", ["--to", "onnx", "--size", "free"], "an EVA, whose rotary positions belong to"),
        ("siglip", ["--to", "transformers"], "no class token: no architecture of transformers"),
    ],
)
def test_forms_that_do_not_hold_the_others(
    name: str, options: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        run("--backbone", backbone(tmp_path / "a", name), "--out", tmp_path / "out", *options)
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", ["torchscript", "onnx"])
def test_a_resnet_goes_out_as_a_graph_only(target: str, tmp_path: Path) -> None:
    artifact, out, other = resnet(tmp_path / "resnet"), tmp_path / "out", tmp_path / "other"
    run("--backbone", artifact, "--out", out, "--to", target, "--size", "free")
    assert read_manifest(out, "export").facts["difference"] < BOUND
    for name, said in (("timm", "which timm itself lacks"), ("transformers", "a ResNet, whose")):
        with pytest.raises(UserError, match=said):
            run("--backbone", artifact, "--out", other, "--to", name)
    assert not other.exists()


def resnet(folder: Path) -> Path:
    """A small ResNet as it is initialised, with the facts of the other backbones here."""
    facts = read_manifest(make_backbone(folder.with_name("vit"), depth=1)).facts
    params = Backbone(**RESNET)
    with publish(folder, node="pretrain", params={}, inputs={}, seed=0) as draft:
        model = create_backbone(params)
        save_backbone(model, params, draft.path, mean=[0.5] * 3, std=[0.25] * 3)
        draft.facts.update(facts)
    return folder


def test_the_card_says_what_is_known(
    tmp_path: Path, step: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    artifact = backbone(tmp_path / "backbone")
    measured = {"task": "knn", "protocol": "knn", "metric": "top1", "unit": "%", "n": 200}
    score = Record.of_backbone(artifact, **measured, value=75.0, dataset="shapes")
    write_records(
        tmp_path / "knn.json",
        [score],
        node="knn",
        params={},
        inputs={"backbone": artifact},
        started=0.0,
    )
    images = tmp_path / "photos/deep"
    images.mkdir(parents=True)
    for index in range(12):
        Image.effect_noise((90, 70), 60 + index).save(images / f"{index}.png")
    options = ["--backbone", artifact, "--to", "timm", "--out", "out", "--images", "photos"]
    done = step("export", *options, "--records", "knn.json")
    assert done.returncode == 0, done.stderr
    assert "largest difference of an output on 10 images of photos" in done.stdout
    text = (tmp_path / "out/README.md").read_text()
    assert "| Method | random (Random) |" in text
    assert "| Licence | unknown - set by you |" in text
    # Wilson's interval of 150 of 200, from Agresti and Coull's formula by hand.
    assert "| knn | knn | shapes | top1 | 75 % | 68.6 to 80.5 | 200 |" in text
    assert "Class and mean tokens of 10 images of photos" in text
    assert 'timm.create_model("local-dir:out", pretrained=True' in text


def test_refusals_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, out = backbone(tmp_path / "backbone"), tmp_path / "out"
    beit = backbone(tmp_path / "beit", "beit_shared")
    (tmp_path / "empty").mkdir()
    for options, said in (
        (["--backbone", tmp_path / "none", "--to", "timm"], "no such folder"),
        (["--backbone", tmp_path / "empty", "--to", "timm"], "no backbone artifact"),
        (["--backbone", artifact, "--to", "timm", "--size", "96"], "resizes positions itself"),
        (["--backbone", artifact, "--to", "onnx", "--size", "97"], "does not divide into the 8 px"),
        (["--backbone", beit, "--to", "onnx", "--size", "free"], "belong to one grid"),
        (["--backbone", artifact, "--to", "timm", "--images", tmp_path / "no"], "nothing there"),
    ):
        with pytest.raises(UserError, match=said):
            run(*options, "--out", out)
    records = tmp_path / "beit.json"
    score = Record.of_backbone(
        beit, task="knn", protocol="knn", metric="top1", unit="%", n=2, value=1.0, dataset="x"
    )
    inputs = {"backbone": beit}
    write_records(records, [score], node="knn", params={}, inputs=inputs, started=0.0)
    options = ["--backbone", artifact, "--to", "timm", "--out", out]
    with pytest.raises(UserError, match="a score of another backbone"):
        run(*options, "--records", records)
    monkeypatch.setattr(writing, "BOUND", -1.0)
    with pytest.raises(UserError, match="outputs of the export differ from the backbone's by"):
        run(*options)
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name in ("transformers", "onnxruntime"):
            raise ImportError(f"No module named '{name}'")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    for target, group in (("transformers", "transformers"), ("onnx", "onnx")):
        with pytest.raises(UserError, match=rf"not installed .* uv sync --frozen --group {group}"):
            run("--backbone", artifact, "--to", target, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("registers", [0, 2])
@torch.inference_mode()
def test_transformers_holds_gated_mlps(registers: int, tmp_path: Path) -> None:
    plain = Backbone(
        scale="ViT-Test",
        architecture="vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        model_args={"embed_dim": 24, "depth": 2, "num_heads": 2},
    )
    added = DINOv2Backbone(layer_scale=0.5, registers=registers, ffn="swiglu")
    model = create_backbone(as_dinov2(plain, added)).eval()
    draw = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight += 0.2 * torch.randn(weight.shape, generator=draw)
    options: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_fraction": 1.0}
    tokens = write_transformers(model, tmp_path, **options, where="here")
    images = torch.randn(10, 3, 32, 32, generator=draw)
    torch.testing.assert_close(tokens(images), model.forward_features(images), atol=BOUND, rtol=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pre_norm": True},
        {"qk_norm": True},
        {"reg_tokens": 2},
        {"init_values": 1, "mlp_ratio": 3.5},
    ],
)
def test_other_vision_transformers_are_refused_by_transformers(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    artifact = make_backbone(tmp_path / "backbone", depth=1, **arguments)
    with pytest.raises(UserError, match=r"no architecture of transformers holds it .* onnx"):
        run("--backbone", artifact, "--to", "transformers", "--out", tmp_path / "out")


@pytest.mark.parametrize("resizing", [Resizing(), Resizing(0.0), Resizing(0.0, antialias=True)])
def test_positions_are_resized_as_torch_does(resizing: Resizing) -> None:
    table = torch.randn(1, 7, 7, 5, generator=torch.Generator().manual_seed(0))
    for rows, columns in ((3, 9), (14, 5), (7, 20)):
        down, across = axis(7, rows, resizing), axis(7, columns, resizing)
        found = torch.einsum("rh,bhwd,cw->brcd", down, table, across)
        torch.testing.assert_close(
            found, resize_map(table, (rows, columns), resizing), atol=1e-5, rtol=0
        )
