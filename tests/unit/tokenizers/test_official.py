"""Official weights: the whole of them, and nothing but weights."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor, nn

from steps.command import UserError
from steps.params.tokenizers import DalleParams, VQKDParams
from steps.tokenizers.dalle import DVAE, Block, Conv, Decoder, Double, Encoder, Halve
from steps.tokenizers.official import official_dalle, read_official
from steps.tokenizers.vqkd import VQTokenizer
from tests.processes import REPOSITORY
from tests.scenery import TOKENIZERS

GOLDEN = REPOSITORY / "tests/golden/data"


def _recorded(case: str) -> dict[str, Tensor]:
    tensors = load_file(GOLDEN / case / "tensors.safetensors")
    return {n.removeprefix("init/"): t for n, t in tensors.items() if n.startswith("init/")}


def _dvae(**changes: int) -> DVAE:
    sizes = {"vocab_size": 64, "encoder": {"hidden": 8, "blocks_per_group": 1}, **changes}
    params = {**TOKENIZERS["dalle"]["tokenizer"], **sizes}
    return DVAE(TypeAdapter(DalleParams).validate_python(params))


def _files(tmp_path: Path) -> dict[str, Path]:
    """Encoder and decoder apart, as they are published."""
    weights, files = _recorded("dalle_dvae"), {}
    for part in ("encoder", "decoder"):
        inside = {n.removeprefix(f"{part}."): t for n, t in weights.items() if n.startswith(part)}
        files[part] = tmp_path / f"{part}.pt"
        torch.save(inside, files[part])
    return files


def test_encoder_and_decoder_of_dalle(tmp_path: Path) -> None:
    dvae = _dvae()
    read_official(dvae, "dalle", _files(tmp_path))
    weights = _recorded("dalle_dvae")
    assert torch.equal(dvae.encoder.blocks.input.weight, weights["encoder.blocks.input.w"])
    assert torch.equal(
        dvae.decoder.blocks.output.conv.bias, weights["decoder.blocks.output.conv.b"]
    )


def test_the_tokenizer_alone_out_of_a_vqkd_training(tmp_path: Path) -> None:
    weights = _recorded("vqkd")
    torch.save({"model": weights}, tmp_path / "vqkd.pth")
    params = {
        **TOKENIZERS["vqkd"]["tokenizer"],
        "image_size": 48,
        "encoder": {"embed_dim": 48, "depth": 2, "num_heads": 3},
        "codes": 32,
        "code_dim": 8,
    }
    tokenizer = VQTokenizer(TypeAdapter(VQKDParams).validate_python(params))
    read_official(tokenizer, "vqkd", {"model": tmp_path / "vqkd.pth"})
    assert torch.equal(tokenizer.codebook.codes, weights["quantize.embedding.weight"])
    assert torch.equal(tokenizer.task_layer[2].weight, weights["encode_task_layer.2.weight"])


def test_weights_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tensors do not fit, such as: .* is \(64, 64, 1, 1\)"):
        read_official(_dvae(vocab_size=32), "dalle", _files(tmp_path))


def _published(module: nn.Module, package: dict[str, type[nn.Module]]) -> nn.Module:
    """A module of ours as dall_e would hold it."""
    if isinstance(module, Conv):
        conv = package["dall_e.utils.Conv2d"]()
        conv.w, conv.b = module.weight, module.bias
        return conv
    if not list(module.children()):
        return {Halve: nn.MaxPool2d(2), Double: nn.Upsample(scale_factor=2)}.get(
            type(module), module
        )
    part = "encoder" if isinstance(module, Encoder | Block) else "decoder"
    names = {Encoder: "Encoder", Decoder: "Decoder", Block: "EncoderBlock"}
    name = f"dall_e.{part}.{names.get(type(module))}"
    outer = package[name]() if name in package else nn.Sequential()
    for child, inner in module.named_children():
        outer.add_module(child, _published(inner, package))
    return outer


def test_the_published_modules_are_read_without_their_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, theirs = {}, _dvae()
    with monkeypatch.context() as context:
        package: dict[str, type[nn.Module]] = {}
        context.setitem(sys.modules, "dall_e", ModuleType("dall_e"))
        for name in ("utils.Conv2d", "encoder.Encoder", "encoder.EncoderBlock", "decoder.Decoder"):
            module, _, cls = f"dall_e.{name}".rpartition(".")
            package[f"{module}.{cls}"] = type(cls, (nn.Module,), {"__module__": module})
            if module not in sys.modules:
                context.setitem(sys.modules, module, ModuleType(module))
            setattr(sys.modules[module], cls, package[f"{module}.{cls}"])
        for part in ("encoder", "decoder"):
            files[part] = tmp_path / f"{part}.pkl"
            torch.save(_published(getattr(theirs, part), package), files[part])
    assert not [name for name in sys.modules if name.startswith("dall_e")]
    ours = _dvae()
    read_official(ours, "dalle", files)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_a_pickled_object_is_not_opened(tmp_path: Path) -> None:
    files = {part: tmp_path / f"{part}.pkl" for part in ("encoder", "decoder")}
    for path in files.values():
        torch.save(_dvae(), path)
    with pytest.raises(UserError, match=r"encoder.pkl: not readable as weights alone.*remedy"):
        read_official(_dvae(), "dalle", files)


def test_sizes_of_dalle_follow_from_its_files(tmp_path: Path) -> None:
    files = _files(tmp_path)
    ours, params = official_dalle(files["encoder"], files["decoder"], 64)
    assert (params.vocab_size, params.encoder.hidden, params.image_size) == (64, 8, 64)
    expected = _dvae()
    read_official(expected, "dalle", files)
    pixels = torch.rand(1, 3, 16, 16)
    assert torch.equal(ours.logits(pixels), expected.eval().logits(pixels))
    with pytest.raises(UserError, match="in this order"):
        official_dalle(files["decoder"], files["encoder"], 64)
