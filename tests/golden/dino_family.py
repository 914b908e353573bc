"""What the replays of DINO and iBOT share: their training loop, schedules, losses by rank."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from steps.core.schedules import Progress, cosine, learning_rate
from steps.engine.optimizers import clip_gradients, set_rates
from steps.methods import Batch, Draws
from steps.params.recipe import ClipGrad, Optimizer, Schedule
from tests.golden.case import GRADIENT, Case
from tests.golden.networks import vision_transformer
from tests.golden.ranks import on_ranks
from tests.golden.training import (
    check_curve,
    check_gradients,
    check_groups,
    check_learning_rates,
    check_weights,
    recorded_schedules,
)


def backbone_of(model: dict[str, Any]) -> Any:
    """The vision transformer of a case."""
    scale = model.get("layer_scale")
    return vision_transformer(model, **({"init_values": scale} if scale else {}))


def sides(case: Case) -> list[int]:
    """Of each view, in pixels."""
    model, options = case.facts["model"], case.facts["options"]
    crops = {"img_size": options["global_crops"], "local_size": options["local_crops"]}
    return [model[size] for size, count in crops.items() for _ in range(count)]


def replay_training(
    case: Case,
    method: Any,
    *,
    draws: Callable[[int], Draws],
    outputs: Callable[[Any, list[Tensor], Draws], None],
    temperatures: tuple[str, ...],
) -> None:
    """Every step of a case: schedules, losses, gradients, clipping, averages, final weights.

    Args:
        case: with ``steps`` above 0.
        method: with the recorded initial weights.
        draws: of a step.
        outputs: compares those of the first step, on a copy of the method.
        temperatures: names under which ``after_step`` logs them and the case has them.
    """
    facts, options = case.facts, case.facts["options"]
    arguments, expected = facts["schedule"]["args"], facts["expected"]
    assert options["world_size"] == 1, "recorded on several processes; replay it on as many"
    check_schedules(case, method, temperatures)
    decay, decay_end = arguments["weight_decay"], arguments["weight_decay_end"]
    optimizer_params = Optimizer(
        name="adamw",
        lr=arguments["base_lr_per_256"],
        betas=facts["optimizer"]["betas"],
        eps=facts["optimizer"]["eps"],
        weight_decay=decay,
        weight_decay_end=decay_end,
    )
    schedule, peak = schedule_of(arguments), arguments["lr_after_batch_scaling"]
    case.number(optimizer_params.peak_lr(options["batch_size"]), peak, "peak lr", 1e-9)
    optimizer = check_groups(case, method, optimizer_params, facts["model"]["depth"])
    zero = facts.get("zero_gradient_tensors", [])
    limit = options.get("clip_grad_per_parameter")
    views = options["global_crops"] + options["local_crops"]
    per_epoch = arguments["iterations_per_epoch"]

    for step in range(facts["steps"]):
        progress = Progress(step, per_epoch, arguments["epochs"] * per_epoch)
        lr = learning_rate(progress, schedule, peak)
        weight_decay = cosine(progress, decay, decay_end)
        case.number(progress.epoch, expected["epoch"][step], f"epoch of step {step}")
        case.number(lr, expected["lr"][step], f"lr of step {step}", 1e-9)
        case.number(weight_decay, expected["weight_decay"][step], f"wd of step {step}", 1e-9)
        set_rates(optimizer, lr, weight_decay)
        crops = [case[f"step{step}/input/crop{index}"] for index in range(views)]
        chosen = draws(step)
        if step == 0:
            # A copy, because batch norm in a head moves with every pass.
            with torch.no_grad():
                outputs(copy.deepcopy(method), crops, chosen)
        losses = method(Batch(crops, torch.empty(0)), chosen, progress)
        case.number(losses["loss"].item(), expected["loss"][step], f"loss {step}")
        for name, values in expected.get("components", {}).items():
            case.number(losses[name].item(), values[step], f"{name} of step {step}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if step == 0:
            check_gradients(case, method, zero)
        if limit:
            _check_norms(case, method, step, limit)
            clip_gradients(method.parameters(), ClipGrad(max_norm=limit, scope="tensor"))
        for parameter in method.without_gradient(progress):
            parameter.grad = None
        optimizer.step()
        logged = method.after_step(progress)
        for name in ("momentum", *temperatures):
            case.number(logged[name], expected[name][step], f"{name} of step {step}", 1e-9)
        if step == 0:
            for centre, recorded in CENTRES.items():
                if hasattr(method, centre):
                    ours = getattr(method, centre).value
                    case.equal(ours, f"step0/output/{recorded}_after")
    check_weights(case, method.state_dict(), zero)


CENTRES = {"center": "center", "patch_center": "center2"}
"""Our names of the centres, and those of the reference."""


def schedule_of(arguments: dict[str, float]) -> Schedule:
    """That of the learning rate."""
    return Schedule(
        warmup_epochs=float(arguments["warmup_epochs"]),
        min_lr=arguments["min_lr"],
        ramp="inclusive",
    )


def check_schedules(case: Case, method: Any, temperatures: tuple[str, ...]) -> None:
    """All recorded schedules: the case's own and, where there is one, of published length."""
    for table, arguments, peak in recorded_schedules(case):
        check_learning_rates(case, table, schedule_of(arguments), peak)
        decay = (arguments["weight_decay"], arguments["weight_decay_end"])
        momentum = (arguments["momentum_teacher"], arguments.get("momentum_end", 1.0))
        check_curve(case, table, "weight_decay", lambda at, pair=decay: cosine(at, *pair))
        check_curve(case, table, "momentum", lambda at, pair=momentum: cosine(at, *pair))
    check_temperatures(case, method, temperatures)


def check_temperatures(case: Case, method: Any, names: tuple[str, ...]) -> None:
    """Of every recorded epoch."""
    for name in names:
        for epoch, value in case.facts["schedule"][f"{name}_per_epoch"]:
            ours = temperature(method, name, Progress(epoch, 1, 10**6))
            case.number(ours, value, f"{name} of epoch {epoch}", 1e-9)


def temperature(method: Any, name: str, progress: Progress) -> float:
    """By the name that the case gives it."""
    value: float = {"teacher_temp": "teacher_temp", "teacher_patch_temp": "patch_temp"}[name]
    return getattr(method, value)(progress)


def _check_norms(case: Case, method: Any, step: int, limit: float) -> None:
    recorded = case.facts["expected"]["grad_norms_before_clip"][step]
    norms = [p.grad.norm().item() for p in method.parameters() if p.grad is not None]
    assert len(norms) == recorded["of"]
    assert sum(norm > limit for norm in norms) == recorded["clipped"]
    case.number(max(norms), recorded["max"], f"largest gradient norm of step {step}", 1e-4)


class Given(nn.Module):
    """Stands for a head where a loss is replayed alone: what it is given are logits already."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits

    project = patches = patch_layer = forward


def replay_losses(
    case: Case,
    call: Callable[[dict[str, Any], dict[str, Tensor], list[int]], list[dict[str, Any]]],
    temperatures: tuple[str, ...],
) -> None:
    """The loss alone: successive calls in one process, and two calls in each of several.

    Args:
        case: with ``steps`` of 0.
        call: (the case's facts, inputs by name, epoch of each call) to what each call gives: the
            losses, the gradients by the name of their input, the centres after it. All calls are
            of one loss object on the same inputs, unless a call's own are given as call<i>/.
        temperatures: the names under which the case has them.
    """
    facts, expected = case.facts, case.facts["expected"]
    epochs = facts["options"]["epoch_of_call"]
    inputs = {f"call{name}": tensor for name, tensor in case.group("call").items()}
    for index, ours in enumerate(call(facts, inputs, epochs)):
        case.number(ours["loss"], expected["loss"][index], f"loss of call {index}")
        for name, values in expected.get("components", {}).items():
            case.number(ours[name], values[index], f"{name} of call {index}")
        for name in temperatures:
            case.number(ours[name], expected[name][index], f"{name} of call {index}", 1e-9)
        _check_call(case, ours, f"call{index}/", "_after")
    ranks = ranks_of(case)
    if not ranks:
        return
    group = ranks[0].partition("/")[0]
    epoch = facts["options"][f"{group}_epoch"]
    results = on_ranks(call, [(facts, case.group(rank), [epoch, epoch]) for rank in ranks])
    for index, (rank, (first, second)) in enumerate(zip(ranks, results, strict=True)):
        for key, ours in (("loss", first), ("loss_second_call", second)):
            theirs = expected[f"{group}_{key}_per_rank"][index]
            case.number(ours["loss"], theirs, f"{rank}{key}")
        _check_call(case, {**second, "gradients": first["gradients"]}, rank, "_after_two_calls")


def _check_call(case: Case, ours: dict[str, Any], prefix: str, suffix: str) -> None:
    for name in case.tensors:
        if name.startswith(f"{prefix}grad/"):
            key = name.removeprefix(f"{prefix}grad/")
            case.equal(ours["gradients"][key], name, GRADIENT)
    for centre, recorded in CENTRES.items():
        if centre in ours:
            case.equal(ours[centre], f"{prefix}output/{recorded}{suffix}")


def inputs_of_call(tensors: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """Those of call ``index``, or of every call where none are its own; logits take gradients."""
    own = f"call{index}/"
    mine = {
        name.removeprefix(own): tensor for name, tensor in tensors.items() if name.startswith(own)
    }
    chosen = {
        name.rpartition("/")[2]: tensor
        for name, tensor in (mine or tensors).items()
        if name.startswith(("input/", "draw/"))
    }
    return {
        name: tensor.clone().requires_grad_(name.startswith("student"))
        for name, tensor in chosen.items()
    }


def ranks_of(case: Case) -> list[str]:
    """Prefixes of what was recorded on several processes, in the order of ranks."""
    found = {
        m.group(0) for m in (re.match(r"dist\d+/rank\d+/", name) for name in case.tensors) if m
    }
    return sorted(found, key=lambda prefix: int(re.findall(r"\d+", prefix)[-1]))
