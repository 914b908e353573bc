"""Replay of the linear probes of facebookresearch/mae, facebookresearch/dino and dinov2."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from steps.core.schedules import Progress, learning_rate
from steps.evaluation.accuracy import correct_in_top, percent
from steps.evaluation.probes import (
    FeatureSpec,
    Head,
    Probes,
    assemble,
    best,
    build_optimizer,
    cross_entropies,
    grid,
    set_rates,
    train_step,
)
from steps.models import dinov2_vit
from steps.models.backbones import Transformer
from steps.models.features import last_blocks
from steps.official.names import from_official
from steps.params.recipe import Schedule
from tests.golden import dino_family, dinov2_model
from tests.golden.case import GRADIENT, LOSS, RESOLUTION, Case
from tests.golden.probe_facts import check_facts

SCHEDULE = 1e-9
FRACTION = 1e-6
"""Relative: accuracies are recorded as float32."""


def replay(case: Case) -> None:
    """The three parts, each with its options, and the published facts."""
    parts = {"mae": replay_mae, "dino": replay_dino, "dinov2": replay_dinov2}
    unknown = case.facts["parts"].keys() - parts.keys()
    assert not unknown, f"no replay of the parts {unknown}"
    for name, part in case.facts["parts"].items():
        parts[name](case, part)
    check_facts(case)


def _steps(case: Case, part: str) -> int:
    return len(
        [name for name in case.tensors if re.fullmatch(rf"{part}/step\d+/input/labels", name)]
    )


def replay_mae(case: Case, part: dict[str, Any]) -> None:
    """Batch norm and linear layer on given features: LARS, warm-up and cosine at every step."""
    options, expected, update = part["options"], part["expected"], part["optimizer"]
    reads = FeatureSpec(1, "cls")
    # The recorded rate is that of the batch; ours is for a batch of 256.
    head = Head(reads, options["lr"] * 256 / options["batch"])
    probes = Probes([head], {reads: options["dim"]}, options["classes"], batch_norm=True)
    (norm,), (linear,) = probes.norms, probes.linears
    linear.load_state_dict(case.group("mae/init/head.1."))
    assert update["name"] == "LARS"
    optimizer = build_optimizer(
        probes,
        "lars",
        options["batch"],
        momentum=update["momentum"],
        weight_decay=options["weight_decay"],
        trust=update["trust_coefficient"],
    )
    schedule = Schedule(warmup_epochs=options["warmup_epochs"], min_lr=options["min_lr"])
    per_epoch, total = options["n"], options["epochs"] * options["n"]
    for step, value in part["schedule"]["lr"]:
        ours = learning_rate(Progress(step, per_epoch, total), schedule, options["lr"])
        case.number(ours, value, f"mae schedule lr[{step}]", SCHEDULE)
    for step in range(_steps(case, "mae")):
        set_rates(
            optimizer, Progress(options["epoch"] * per_epoch + step, per_epoch, total), schedule
        )
        rate = optimizer.param_groups[0]["lr"]
        case.number(rate, expected["lr"][step], f"mae lr[{step}]", SCHEDULE)
        features, labels = (
            case[f"mae/step{step}/input/features"],
            case[f"mae/step{step}/input/labels"],
        )
        (loss,) = train_step(probes, optimizer, {reads: features}, labels)
        case.number(loss.item(), expected["loss"][step], f"mae loss[{step}]")
        for name, theirs in case.group(f"mae/step{step}/grad/head.1.").items():
            ours = linear.get_parameter(name).grad
            case.close(ours, theirs, f"mae step {step} gradient of {name}", GRADIENT)
    final = case.group("mae/final/")
    for name, parameter in linear.named_parameters():
        case.close(parameter.detach(), final.pop(f"head.1.{name}"), name, GRADIENT, RESOLUTION)
        momentum = optimizer.state[parameter]["momentum"]
        case.close(momentum, final.pop(f"momentum/head.1.{name}"), name, GRADIENT, RESOLUTION)
    for name, buffer in norm.named_buffers():
        case.close(buffer, final.pop(f"head.0.{name}"), name, LOSS)
    assert not final, f"not compared: {list(final)}"
    probes.eval()
    with torch.no_grad():
        logits = probes({reads: case["mae/eval/input/features"]})[:, 0]
    case.equal(logits, "mae/eval/output/logits")
    if "mae/eval/input/labels" in case.tensors:
        assert len(case["mae/eval/input/labels"]) == len(logits)


def replay_dino(case: Case, part: dict[str, Any]) -> None:
    """Each variant of what the classifier reads: SGD, cosine over epochs, one batch an epoch."""
    options = part["options"]
    weights = case.group("dino/backbone/")
    vit = dino_family.backbone_of(
        {
            "img_size": options["img"],
            "patch_size": options["patch"],
            "embed_dim": options["dim"],
            "depth": options["depth"],
            "num_heads": options["heads"],
            "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] / options["dim"],
            "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        }
    ).eval()
    vit.load_state_dict(from_official("dino", weights))
    blocks = _blocks(vit, case["dino/step0/input/images"])
    for index, tokens in enumerate(blocks):
        case.equal(tokens, f"dino/step0/output/normed_block{index}")
    for name, (n, average) in options["variants"].items():
        _replay_dino_variant(case, part, vit, name, FeatureSpec(n, _dino_pooling(average)))
    key = "avgpool_with_more_than_one_block"
    if key in part["expected"]:
        assert "raises" in part["expected"][key]
        with pytest.raises(ValueError, match="one block"):
            assemble(blocks, vit.num_prefix_tokens, FeatureSpec(2, _dino_pooling(True)))
        case.compared += 1


def _dino_pooling(average: bool) -> Any:
    return "cls_mean_interleaved" if average else "cls"


def _replay_dino_variant(
    case: Case, part: dict[str, Any], vit: Transformer, name: str, reads: FeatureSpec
) -> None:
    options, expected, update = part["options"], part["expected"][name], part["optimizer"]
    case.number(reads.blocks, expected["n_last_blocks"], f"{name} blocks")
    case.number(
        float(reads.pooling != "cls"), float(expected["avgpool"]), f"{name} average pooling"
    )
    width = expected["feature_dim"]
    probes = Probes([Head(reads, options["base_lr"])], {reads: width}, options["classes"])
    (linear,) = probes.linears
    linear.load_state_dict(case.group(f"dino/{name}/init/linear."))
    assert update["name"] == "SGD"
    optimizer = build_optimizer(
        probes,
        "sgd",
        options["batch"],
        momentum=update["momentum"],
        weight_decay=update["weight_decay"],
    )
    schedule = Schedule(warmup_epochs=0)
    for epoch in range(options["steps"]):
        features = _features(case, vit, f"dino/step{epoch}", [reads])
        if epoch == 0:
            case.equal(features[reads], f"dino/{name}/step0/output/features")
        # The place within an epoch does not change the rate.
        place = Progress(3 * epoch + 2, 3, 3 * options["epochs"])
        set_rates(optimizer, place, schedule, every="epoch")
        rate = optimizer.param_groups[0]["lr"]
        case.number(rate, expected["lr"][epoch], f"{name} lr[{epoch}]", SCHEDULE)
        labels = case[f"dino/step{epoch}/input/labels"]
        (loss,) = train_step(probes, optimizer, features, labels)
        case.number(loss.item(), expected["loss"][epoch], f"{name} loss[{epoch}]")
    for key, theirs in case.group(f"dino/{name}/final/linear.").items():
        case.close(linear.get_parameter(key), theirs, f"{name} {key}", GRADIENT, RESOLUTION)
    labels = case["dino/val/input/labels"]
    with torch.no_grad():
        logits = probes(_features(case, vit, "dino/val", [reads]))
    (loss,) = cross_entropies(logits, labels)
    found = {"loss": loss.item()}
    for top in (1, 5):
        found[f"acc{top}"] = percent(correct_in_top(logits[:, 0], labels, top), len(labels))
    for key, value in expected["validation"].items():
        case.number(found[key], value, f"{name} validation {key}")


def replay_dinov2(case: Case, part: dict[str, Any]) -> None:
    """The grid of heads on one pass, cosine at every step; the best of them on other data."""
    options, expected, update = part["options"], part["expected"], part["optimizer"]
    vit = _dinov2_backbone(case, options)
    parsed = [_official_head(name) for name in expected["heads"]]
    blocks = list(dict.fromkeys(n for n, _, _ in parsed))
    poolings = list(dict.fromkeys(pooling for _, pooling, _ in parsed))
    heads = grid(blocks, poolings, options["lrs"])
    # A name that several heads have is that of the last of them; none of ours is lost.
    owners = {_official_name(head, options["batch"]): i for i, head in enumerate(heads)}
    assert list(owners) == expected["heads"], "not the recorded heads, or not in their order"
    case.compared += len(owners)
    prefix, width = vit.num_prefix_tokens, options["dim"]
    widths = {
        head.reads: width * (head.reads.blocks + (head.reads.pooling != "cls")) for head in heads
    }
    probes = Probes(heads, widths, options["classes"])
    assert len(probes.heads) == len(blocks) * len(poolings) * len(options["lrs"])
    for name, index in owners.items():
        probes.linears[index].load_state_dict(
            case.group(f"dinov2/init/classifiers_dict.{name}.linear.")
        )
    assert update["name"] == "SGD"
    optimizer = build_optimizer(
        probes,
        "sgd",
        options["batch"],
        momentum=update["momentum"],
        weight_decay=update["weight_decay"],
    )
    tokens = _blocks(vit, case["dinov2/step0/input/images"])
    for n in blocks:
        for pooling in poolings:
            recorded = f"features_{n}_blocks_avgpool_{pooling != 'cls'}"
            ours = assemble(tokens, prefix, FeatureSpec(n, pooling))
            case.equal(ours, f"dinov2/step0/output/{recorded}")
    for step in range(options["steps"]):
        set_rates(optimizer, Progress(step, 1, options["steps"]), Schedule(warmup_epochs=0))
        rates = [group["lr"] for group in optimizer.param_groups]
        theirs = expected["lr_per_head"][step]
        # The reference's optimiser keeps the heads whose name is lost.
        rates = rates if len(theirs) == len(heads) else [rates[i] for i in owners.values()]
        assert len(rates) == len(theirs)
        for i, (rate, value) in enumerate(zip(rates, theirs, strict=True)):
            case.number(rate, value, f"dinov2 lr[{step}][{i}]", SCHEDULE)
        features = _features(case, vit, f"dinov2/step{step}", probes.reads)
        losses = train_step(probes, optimizer, features, case[f"dinov2/step{step}/input/labels"])
        for name, index in owners.items():
            case.number(losses[index].item(), expected["loss"][step][name], f"{name} loss[{step}]")
        total = losses[list(owners.values())].sum().item()
        case.number(total, expected["total_loss"][step], f"dinov2 total loss[{step}]")
    for name, index in owners.items():
        for key, value in case.group(f"dinov2/final/classifiers_dict.{name}.linear.").items():
            ours = probes.linears[index].get_parameter(key)
            case.close(ours, value, f"{name} {key}", GRADIENT, RESOLUTION)
    kept = list(owners.items())
    val = _correct(case, vit, probes, "dinov2/val", kept, expected["validation"])
    test = _correct(case, vit, probes, "dinov2/test", kept, expected["test"])
    chosen, found = expected["best_on_validation"], best(val)
    share = val[found] / len(case["dinov2/val/input/labels"])
    case.number(share, chosen["accuracy"], "best on validation", FRACTION)
    if share > 0:  # else the reference names none
        assert kept[found][0] == chosen["name"] == expected["test_of_best"]["name"]
        case.compared += 1
        share = test[found] / len(case["dinov2/test/input/labels"])
        case.number(share, expected["test_of_best"]["accuracy"], "test of the best", FRACTION)


def _dinov2_backbone(case: Case, options: dict[str, Any]) -> Transformer:
    weights = case.group("dinov2/backbone/")
    gated = "blocks.0.mlp.w12.weight" in weights
    hidden = weights[f"blocks.0.mlp.{'w12' if gated else 'fc1'}.weight"].shape[0]
    vit = dinov2_vit.for_training(
        dinov2_model.backbone_of(
            {
                "num_register_tokens": options["reg"],
                "ffn": "swiglu" if gated else "mlp",
                "ffn_hidden": hidden // 2 if gated else hidden,
                "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
                "layer_scale_init": 1.0 if "blocks.0.ls1.gamma" in weights else None,
                "embed_dim": options["dim"],
                "depth": options["depth"],
                "num_heads": options["heads"],
                "img_size": options["img"],
                "patch_size": options["patch"],
            }
        )
    ).eval()
    vit.load_state_dict(from_official("dinov2", weights))
    return vit


def _official_head(name: str) -> tuple[int, Any, str]:
    found = re.fullmatch(r"classifier_(\d+)_blocks_avgpool_(True|False)_lr_(\w+)", name)
    assert found is not None, name
    return int(found[1]), "cls_mean" if found[2] == "True" else "cls", found[3]


def _official_name(head: Head, batch: int) -> str:
    average, rate = head.reads.pooling != "cls", head.lr * batch / 256
    text = f"{rate:.5f}".replace(".", "_")
    return f"classifier_{head.reads.blocks}_blocks_avgpool_{average}_lr_{text}"


@torch.no_grad()
def _correct(
    case: Case,
    vit: Transformer,
    probes: Probes,
    room: str,
    kept: list[tuple[str, int]],
    recorded: dict[str, dict[str, float]],
) -> list[int]:
    """How many each recorded head gets right; shares compared with the recorded ones."""
    logits, labels = probes(_features(case, vit, room, probes.reads)), case[f"{room}/input/labels"]
    assert recorded.keys() == {name for name, _ in kept}
    for name, index in kept:
        for key, value in recorded[name].items():
            top = int(key.removeprefix("top-"))
            share = correct_in_top(logits[:, index], labels, top) / len(labels)
            case.number(share, value, f"{room} {name} {key}", FRACTION)
    return [correct_in_top(logits[:, index], labels, 1) for _, index in kept]


@torch.no_grad()
def _blocks(vit: Transformer, images: Tensor) -> list[Tensor]:
    return last_blocks(vit, images, len(vit.blocks))


def _features(
    case: Case, vit: Transformer, room: str, reads: list[FeatureSpec]
) -> dict[FeatureSpec, Tensor]:
    blocks = _blocks(vit, case[f"{room}/input/images"])
    return {one: assemble(blocks, vit.num_prefix_tokens, one) for one in reads}


REPLAYS = {"linear_probe": replay}
