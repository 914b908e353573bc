"""Replay of microsoft/unilm: beit, and beit2 with either output layer."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steps.core.schedules import Progress, cosine, learning_rate
from steps.engine.optimizers import clip_gradients, set_rates
from steps.methods import Batch, Losses, MethodContext
from steps.methods.beit import BEiT
from steps.methods.beit2 import BEiT2
from steps.models.backbones import create_backbone
from steps.models.beit import as_beit
from steps.models.masks import mean_hidden
from steps.models.tokens import patch_tokens, relative_bias
from steps.official.names import from_official
from steps.params.backbone import Backbone, BEiTBackbone
from steps.params.masks import BlockMasks
from steps.params.methods.beit import BEiTParams
from steps.params.methods.beit2 import BEiT2Params, PatchAggregation
from steps.params.recipe import ClipGrad, Optimizer, Schedule
from tests.golden.case import GRADIENT, Case
from tests.golden.training import (
    check_curve,
    check_gradients,
    check_groups,
    check_learning_rates,
    check_weights,
)

TABLES = {(True, False): "shared", (False, True): "block", (True, True): "both"}
"""By use_shared_rel_pos_bias and use_rel_pos_bias."""
COMPONENTS = {
    "beit": {"mlm_acc": "token_accuracy"},
    "beit2": {
        "loss_1": "loss_last",
        "loss_2": "loss_aggregated",
        "mlm_acc_1": "token_accuracy",
        "mlm_acc_2": "token_accuracy_aggregated",
    },
}
"""What we log, by the name that the case gives it."""


class Recorded(nn.Module):
    """A tokenizer whose tokens are given in place of the image."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def tokens(self, images: Tensor) -> Tensor:
        return images


def replay(case: Case) -> None:
    """Outputs, losses, gradients, their norm, clipping, both schedules, final weights."""
    _check_schedules(case)
    method = _train(case)
    zero = case.facts.get("zero_gradient_tensors", [])
    check_weights(case, method.state_dict() | _indices(method), zero)


def _train(case: Case) -> BEiT | BEiT2:
    facts, expected = case.facts, case.facts["expected"]
    arguments = facts["schedule"]["args"]
    method = _method(case)
    init, indices = case.group("init/"), _indices(method)
    for official in init.keys() & {name.removeprefix("backbone.") for name in indices}:
        case.close(indices[f"backbone.{official}"], init[official], f"init/{official}", 0.0)
    method.load_state_dict(from_official(facts["method"], init))

    decay, decay_end = _decay(arguments)
    optimizer_params = Optimizer(
        name="adamw",
        lr=arguments["lr"],
        lr_batch=None,
        betas=facts["optimizer"]["betas"],
        eps=facts["optimizer"]["eps"],
        weight_decay=decay,
        weight_decay_end=decay_end,
        undecayed=["pos_embed", "cls_token"],
    )
    optimizer = check_groups(case, method, optimizer_params, facts["model"]["depth"])
    schedule = _schedule(arguments)
    per_epoch = arguments["iterations_per_epoch"]

    for step in range(facts["steps"]):
        progress = Progress(
            arguments["first_iteration"] + step, per_epoch, arguments["epochs"] * per_epoch
        )
        lr = learning_rate(progress, schedule, arguments["lr"])
        weight_decay = cosine(progress, decay, decay_end)
        case.number(lr, expected["lr"][step], f"lr of step {step}", 1e-9)
        case.number(weight_decay, expected["weight_decay"][step], f"wd of step {step}", 1e-9)
        set_rates(optimizer, lr, weight_decay)
        batch = Batch(
            [case[f"step{step}/input/images"], case[f"step{step}/input/token_ids"]],
            torch.empty(0),
        )
        mask = case[f"step{step}/draw/mask"].flatten(1)
        if step == 0:
            _check_outputs(case, method, batch, mask)
        losses = method(batch, {"mask": mask, "hidden": mean_hidden(mask)}, progress)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        _check_losses(case, losses, mask, step)
        if step == 0:
            check_gradients(case, method, facts.get("zero_gradient_tensors", []))
        norm = torch.stack([p.grad.norm() for p in method.parameters() if p.grad is not None])
        recorded = expected["components"]["grad_norm"][step]
        case.number(norm.norm().item(), recorded, f"gradient norm {step}", GRADIENT)
        if limit := facts["optimizer"]["clip_grad"]:
            clip_gradients(method.parameters(), ClipGrad(max_norm=limit, scope="global"))
        optimizer.step()
        method.after_step(progress)
    return method


def _method(case: Case) -> BEiT | BEiT2:
    model, options = case.facts["model"], case.facts["options"]
    plain = Backbone(
        scale="golden",
        architecture="vit_tiny_patch16_224",
        image_size=model["img_size"],
        patch_size=model["patch_size"],
        model_args={
            "embed_dim": model["embed_dim"],
            "depth": model["depth"],
            "num_heads": model["num_heads"],
            "mlp_ratio": model["mlp_ratio"],
        },
    )
    tables = (model["use_shared_rel_pos_bias"], model["use_rel_pos_bias"])
    changes = BEiTBackbone(
        layer_scale=float(model["layer_scale_init_value"] or 0.0),
        relative_positions=TABLES.get(tables, "none"),
        absolute_positions=model["use_abs_pos_emb"],
        init_std=model["init_std"],
    )
    patches = (model["img_size"] // model["patch_size"]) ** 2
    common: dict[str, Any] = {
        "backbone": changes,
        "masks": BlockMasks(
            # Rounded down to whole patches it is the recorded count.
            ratio=(options["num_masking_patches"] + 0.5) / patches,
            min_block=options["min_num_patches"],
            max_block=options["max_num_patches"],
            min_aspect=options["min_aspect"],
        ),
        "drop_path": model["drop_path"],
    }
    params = as_beit(plain, changes)
    norm = {"norm_layer": partial(nn.LayerNorm, eps=model["norm_eps"])}
    params = params.model_copy(update={"model_args": {**params.model_args, **norm}})
    backbone = create_backbone(params)
    context = MethodContext(tokenizer=Recorded(model["vocab_size"]))
    if case.facts["method"] == "beit":
        method: BEiT | BEiT2 = BEiT(BEiTParams(name="beit", **common), backbone, context)
    else:
        head = PatchAggregation(
            early_layers=options["early_layers"],
            layers=options["head_layers"],
            shared_output=options["shared_lm_head"],
        )
        params = BEiT2Params(name="beit2", aggregation=head, **common)
        method = BEiT2(params, backbone, context)
    assert method.masks.patches == options["num_masking_patches"]
    return method


def _indices(method: nn.Module) -> dict[str, Tensor]:
    """The indices of relative positions, which our state dict is without."""
    buffers = method.named_buffers()
    return {name: buffer for name, buffer in buffers if name.endswith("relative_position_index")}


def _decay(arguments: dict[str, Any]) -> tuple[float, float]:
    start, end = arguments["weight_decay"], arguments["weight_decay_end"]
    return start, start if end is None else end


def _schedule(arguments: dict[str, Any]) -> Schedule:
    warmup = float(arguments["warmup_epochs"])
    steps = arguments.get("warmup_steps", -1)
    if warmup > 0 and steps > 0:
        # Rounded down to whole steps it is the recorded count.
        warmup = (steps + 0.5) / arguments["iterations_per_epoch"]
    return Schedule(warmup_epochs=warmup, min_lr=arguments["min_lr"], ramp="inclusive")


def _check_schedules(case: Case) -> None:
    arguments = case.facts["schedule"]["args"]
    check_learning_rates(case, "schedule", _schedule(arguments), arguments["lr"])
    decay = _decay(arguments)
    check_curve(case, "schedule", "weight_decay", lambda at: cosine(at, *decay))


def _check_losses(case: Case, losses: Losses, mask: Tensor, step: int) -> None:
    expected, names = case.facts["expected"], COMPONENTS[case.facts["method"]]
    recorded = expected["components"]
    assert recorded.keys() == {"grad_norm", "masked_per_sample", *names}, "not all are compared"
    case.number(losses["loss"].item(), expected["loss"][step], f"loss {step}")
    for theirs, ours in names.items():
        case.number(losses[ours].item(), recorded[theirs][step], f"{theirs} {step}")
    assert mask.sum(dim=1).tolist() == recorded["masked_per_sample"][step]
    case.compared += len(mask)


def _check_outputs(case: Case, method: BEiT | BEiT2, batch: Batch, mask: Tensor) -> None:
    images, token_ids = batch.views
    with torch.no_grad():
        case.equal(patch_tokens(method.backbone, images), "step0/output/patch_embed")
        case.equal(token_ids[mask], "step0/output/labels")
        bias = relative_bias(method.backbone)
        if bias is not None:
            case.equal(bias, "step0/output/rel_pos_bias")
        if isinstance(method, BEiT):
            outputs = {"": method.features(images, mask)}
            lm_head = {"": method.lm_head}
        else:
            last, aggregated = method.features(images, mask)
            outputs = {"": last, "_cls": aggregated}
            lm_head = {"": method.lm_head, "_cls": method.aggregation.lm_head or method.lm_head}
        for suffix, features in outputs.items():
            case.equal(features, f"step0/output/features{suffix}")
            logits = lm_head[suffix](features[:, 1:][mask])
            case.equal(logits, f"step0/output/logits{suffix}")


REPLAYS = {"beit": replay, "beit2": replay}
