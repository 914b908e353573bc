"""Replay the golden case ``finetune``: MAE's and BEiT's fine-tuning, mixing to final weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from steps.core.schedules import Progress, cosine, learning_rate
from steps.engine.optimizers import clip_gradients, set_rates
from steps.methods import MethodContext
from steps.methods.supervised import Supervised, mix, share_outside
from steps.models.backbones import create_backbone
from steps.models.beit import as_beit
from steps.official.names import from_official, our_name
from steps.params.backbone import Backbone, BEiTBackbone
from steps.params.methods.baselines import SupervisedParams
from steps.params.recipe import ClipGrad, Optimizer, Schedule
from tests.golden.case import GRADIENT, Case
from tests.golden.finetune_facts import compare_finetuning
from tests.golden.training import (
    check_curve,
    check_gradients,
    check_groups,
    check_learning_rates,
    check_weights,
)


class Part(Case):
    """One part of the case, as if it were a case of its own."""

    def __init__(self, whole: Case, name: str) -> None:
        self.folder = whole.folder
        self.facts = {**whole.facts["parts"][name], "method": whole.facts["method"]}
        inside = f"{name}/"
        self.tensors = {
            key.removeprefix(inside): tensor
            for key, tensor in whole.tensors.items()
            if key.startswith(inside)
        }
        self.used: set[str] = set()
        self.compared = 0


def replay(case: Case) -> None:
    """Every part; they differ in the backbone and in the schedule."""
    for name in case.facts["parts"]:
        part = Part(case, name)
        _replay_part(part, name)
        part.finish()
        case.used.update(f"{name}/{tensor}" for tensor in part.used)
        case.compared += part.compared
    if "mae_recipe" in case.facts.get("facts", {}):
        compare_finetuning(case)


def _replay_part(case: Part, name: str) -> None:
    facts, options, expected = case.facts, case.facts["options"], case.facts["expected"]
    method = _method(facts, name)
    _load(method, from_official("finetune", case.group("init/")))
    params, schedule = _optimizer(facts, name), _schedule(options, name)
    optimizer = check_groups(case, method, params, facts["model"]["depth"])
    _check_schedule(case, params, schedule)
    accumulation = options["accum_iter"] if name == "mae" else options["update_freq"]
    assert facts["batches"] == facts["steps"] * accumulation
    side = facts["model"]["img"]
    _check_mixed_images(case, method, side)
    for batch in range(facts["batches"]):
        _check_targets(case, method, batch, side)

    per_epoch = options["n_loader"] / accumulation
    if name == "beit":
        # Its table has whole updates alone.
        per_epoch = options["n_loader"] // accumulation
    losses: list[float] = []
    for update in range(facts["steps"]):
        step = options["epoch"] * per_epoch + update
        # Steps are not whole where an epoch does not divide by the accumulation.
        progress = Progress(step, per_epoch, options["epochs"] * per_epoch)  # type: ignore[arg-type]
        _set_rates(case, optimizer, method, params, schedule, progress, update)
        optimizer.zero_grad(set_to_none=True)
        for index in range(update * accumulation, (update + 1) * accumulation):
            logits = method.logits(case[f"batch{index}/input/images"])
            if index == 0:
                case.equal(logits, "step0/output/logits")
            log_p = logits.log_softmax(dim=-1)
            loss = -(case[f"batch{index}/input/targets"] * log_p).sum(dim=-1).mean()
            losses.append(loss.item())
            (loss / accumulation).backward()
        if update == 0:
            check_gradients(case, method, facts.get("zero_gradient_tensors", []))
        if options["clip_grad"] is not None:
            clip = ClipGrad(max_norm=options["clip_grad"], scope="global")
            clip_gradients(method.parameters(), clip)
        optimizer.step()
    _check_losses(case, losses, expected["loss"], accumulation)
    check_weights(case, method.state_dict(), facts.get("zero_gradient_tensors", []))
    method.eval()
    with torch.no_grad():
        logits = method.logits(case["eval/input/images"])
    # They follow from the final weights.
    case.equal(logits, "eval/output/logits", GRADIENT)


def _method(facts: dict[str, Any], name: str) -> Supervised:
    model, options = facts["model"], facts["options"]
    assert model["drop_path"] == 0.0, "no draws are recorded for drop path"
    assert model["in_chans"] == 3
    backbone = Backbone(
        scale="golden",
        architecture="vit_base_patch16_224",
        image_size=model["img"],
        patch_size=model["patch"],
        model_args={
            "embed_dim": model["dim"],
            "depth": model["depth"],
            "num_heads": model["heads"],
            "mlp_ratio": model["mlp_ratio"],
            "qkv_bias": model["qkv_bias"],
        },
    )
    pooled = model["global_pool"] if name == "mae" else model["use_mean_pooling"]
    if name == "beit":
        tables = BEiTBackbone(
            layer_scale=model["init_values"] or 0.0,
            relative_positions="block" if model["rel_pos_bias"] else "none",
            absolute_positions=model["abs_pos_emb"],
        )
        backbone = as_beit(backbone, tables)
    params = SupervisedParams(
        name="supervised",
        pooling="mean" if pooled else "cls",
        label_smoothing=options["smoothing"],
        mixup=options["mixup"],
        cutmix=options["cutmix"],
    )
    vit = create_backbone(backbone)
    for norm in vit.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.eps = model["norm_eps"]
    return Supervised(params, vit, MethodContext(num_classes=model["classes"]))


def _load(method: Supervised, weights: dict[str, Tensor]) -> None:
    """All that is trained; a norm that gives way to another keeps what it was drawn with."""
    missing, unexpected = method.load_state_dict(weights, strict=False)
    trained = {name for name, tensor in method.named_parameters() if tensor.requires_grad}
    assert not unexpected, f"not in our module: {unexpected}"
    assert not trained.intersection(missing), f"not recorded: {missing}"


def _optimizer(facts: dict[str, Any], name: str) -> Optimizer:
    options, recorded = facts["options"], facts["optimizer"]
    spared = ["pos_embed", "cls_token"]
    if name == "beit" and options["disable_wd_rel"]:
        spared.append("relative_position_bias_table")
    return Optimizer(
        name=recorded["name"].lower(),
        lr=options["lr"],
        lr_batch=None,
        betas=recorded["betas"],
        eps=recorded["eps"],
        weight_decay=options["weight_decay"],
        weight_decay_end=options.get("weight_decay_end"),
        layer_decay=options["layer_decay"],
        undecayed=spared,
    )


def _schedule(options: dict[str, Any], name: str) -> Schedule:
    """MAE's at fractional epochs; BEiT's table, whose ramp has both its ends."""
    warmup = options["warmup_epochs"]
    if name == "beit" and options["warmup_steps"] > 0:
        # Half a step more, which counting whole steps takes away again.
        warmup = (options["warmup_steps"] + 0.5) / (options["n_loader"] // options["update_freq"])
    return Schedule(
        warmup_epochs=warmup,
        min_lr=options["min_lr"],
        ramp="exclusive" if name == "mae" else "inclusive",
    )


def _check_schedule(case: Part, params: Optimizer, schedule: Schedule) -> None:
    facts, options = case.facts["schedule"], case.facts["options"]
    for name in ("lr", "min_lr", "warmup_epochs", "epochs"):
        assert facts["args"][name] == options[name], f"two values of {name}"
    if options.get("warmup_steps", -1) > 0:
        steps = options["warmup_steps"] + 0.5
        update = {"warmup_epochs": steps / facts["args"]["iterations_per_epoch"]}
        schedule = schedule.model_copy(update=update)
    check_learning_rates(case, "schedule", schedule, params.lr)
    if "weight_decay" in facts:
        check_curve(case, "schedule", "weight_decay", lambda at: _decay(params, at))


def _decay(params: Optimizer, progress: Progress) -> float:
    if params.weight_decay_end is None:
        return params.weight_decay
    return cosine(progress, params.weight_decay, params.weight_decay_end)


def _set_rates(
    case: Part,
    optimizer: torch.optim.Optimizer,
    method: Supervised,
    params: Optimizer,
    schedule: Schedule,
    progress: Progress,
    update: int,
) -> None:
    """The rates of an update, and those of every recorded group."""
    expected = case.facts["expected"]
    lr, decay = learning_rate(progress, schedule, params.lr), _decay(params, progress)
    case.number(lr, expected["lr"][update], f"lr {update}", 1e-9)
    case.number(decay, expected["weight_decay"][update], f"weight decay {update}", 1e-9)
    set_rates(optimizer, lr, decay)
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    ours = {
        names[id(parameter)]: group
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for index, recorded in enumerate(case.facts["optimizer"]["groups"]):
        for official in recorded["params"]:
            group = ours[our_name("finetune", official)]
            rate = expected["lr_per_group"][update][index]
            case.number(group["lr"], rate, f"lr of {official}", 1e-9)
            decayed = expected["weight_decay_per_group"][update][index]
            case.number(group["weight_decay"], decayed, f"weight decay of {official}", 1e-9)
            share = case.facts["lr_scale"][official]
            case.number(group["lr_scale"], share, f"lr_scale of {official}", 1e-9)


def _check_losses(case: Part, ours: list[float], recorded: list[float], accumulation: int) -> None:
    """Of every batch, or of every update: then the mean over its batches."""
    if len(recorded) != len(ours):
        ours = [
            sum(ours[first : first + accumulation]) / accumulation
            for first in range(0, len(ours), accumulation)
        ]
    for index, (mine, theirs) in enumerate(zip(ours, recorded, strict=True)):
        case.number(mine, theirs, f"loss {index}")


def _draws(case: Part, batch: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """The recorded draws as ours: weight, partner and box (top, left, bottom, right) a sample."""
    count, room = len(case[f"batch{batch}/input/labels"]), f"batch{batch}/draw"
    weights = case[f"{room}/lam_drawn"].clone()
    cuts = case[f"{room}/use_cutmix"].bool().tolist()
    boxes = torch.zeros(len(weights), 4, dtype=torch.int64)
    if f"{room}/cutmix_boxes" in case.tensors:
        drawn = zip(case[f"{room}/cutmix_boxes"], case[f"{room}/cutmix_lam"], strict=True)
        for index, cut in enumerate(cuts):
            # A weight of one mixes nothing: no box is drawn for it.
            if not cut or weights[index] == 1:
                continue
            (top, bottom, left, right), (before, after) = (row.tolist() for row in next(drawn))
            case.number(before, weights[index].item(), f"{room}/cutmix_lam, drawn", 1e-9)
            kept = share_outside((top, left, bottom, right), side)
            case.number(kept, after, f"{room}/cutmix_lam", 1e-9)
            weights[index] = kept
            boxes[index] = torch.tensor([top, left, bottom, right])
        assert next(drawn, None) is None, "boxes that no sample has"
    if len(weights) == 1:
        weights, boxes = weights.expand(count), boxes.expand(count, 4)
    elif len(weights) < count:
        # Pairs: the second half, backwards, has what the first one has.
        weights, boxes = (torch.cat([part, part.flip(0)]) for part in (weights, boxes))
    partners = count - 1 - 2 * torch.arange(count)
    return weights.float(), partners, boxes


def _check_mixed_images(case: Part, method: Supervised, side: int) -> None:
    raw = case["batch0/input/raw_images"]
    targets = method.targets(case["batch0/input/labels"])
    weights, partners, boxes = _draws(case, 0, side)
    mixed, _ = mix(raw, targets, weights, partners, boxes)
    case.equal(mixed, "batch0/input/images")


def _check_targets(case: Part, method: Supervised, batch: int, side: int) -> None:
    labels = case[f"batch{batch}/input/labels"]
    images = torch.zeros(len(labels), 1, side, side)
    _, targets = mix(images, method.targets(labels), *_draws(case, batch, side))
    case.equal(targets, f"batch{batch}/input/targets")


REPLAYS = {"finetune": replay}
