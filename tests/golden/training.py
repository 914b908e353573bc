"""What the replays of training steps share: optimiser groups, schedule, gradients, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer as TorchOptimizer

from steps.core.schedules import Progress, learning_rate
from steps.engine.optimizers import build_optimizer
from steps.official.names import our_form, our_name
from steps.params.recipe import Optimizer, Schedule
from tests.golden.case import GRADIENT, RESOLUTION, ROUNDING, SENSITIVITY, Case


def recorded_schedules(case: Case) -> Iterator[tuple[str, dict[str, Any], float]]:
    """The schedules of a case, its own and, where there is one, that of published length: the
    table's name, its arguments, and the peak learning rate."""
    for table in ("schedule", "schedule_published_length"):
        if table not in case.facts:
            continue
        arguments = case.facts[table]["args"]
        if "batch" in arguments:
            params = Optimizer(name="adamw", lr=arguments["base_lr_per_256"], weight_decay=0.0)
            yield table, arguments, params.peak_lr(arguments["batch"])
        else:
            yield table, arguments, arguments["lr_after_batch_scaling"]


def check_groups(
    case: Case, module: nn.Module, params: Optimizer, depth: int, prefix: str = ""
) -> TorchOptimizer:
    """Our optimiser; its groups must hold the recorded parameters, decay and rates.

    ``prefix`` stands ahead of the recorded names.
    """
    optimizer = build_optimizer(module, params, depth, params.lr)
    names = {parameter: name for name, parameter in module.named_parameters()}
    ours = {
        names[parameter]: (group["decayed"], group["lr_scale"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    method = case.facts["method"]
    theirs = {
        prefix + our_name(method, name): (_decayed(group), group["lr_scale"])
        for group in case.facts["optimizer"]["groups"]
        for name in group["params"]
    }
    assert ours == theirs, "parameter groups differ from the recorded ones"
    case.compared += len(theirs)
    return optimizer


def _decayed(group: dict[str, Any]) -> bool:
    """Whether a recorded group is decayed: by a number, or a multiplier of the scheduled one."""
    decay = group["wd_multiplier"] if "wd_multiplier" in group else group["weight_decay"]
    return bool(decay != 0.0)


def check_learning_rates(case: Case, table: str, schedule: Schedule, peak: float) -> None:
    """Our learning rate at every recorded point of a schedule."""
    facts = case.facts[table]
    per_epoch = facts["args"]["iterations_per_epoch"]
    total = facts["args"]["epochs"] * per_epoch
    for step, value in facts["lr"]:
        ours = learning_rate(Progress(step, per_epoch, total), schedule, peak)
        case.number(ours, value, f"{table}.lr[{step}]", 1e-9)


def check_curve(case: Case, table: str, key: str, ours: Callable[[Progress], float]) -> None:
    """One of our values at every recorded point of a schedule."""
    facts = case.facts[table]
    per_epoch = facts["args"]["iterations_per_epoch"]
    total = facts["args"]["epochs"] * per_epoch
    for step, value in facts[key]:
        case.number(ours(Progress(step, per_epoch, total)), value, f"{table}.{key}[{step}]", 1e-9)


def check_gradients(case: Case, module: nn.Module, zero: list[str]) -> None:
    """The gradient of every parameter against the recorded one."""
    method = case.facts["method"]
    recorded = _recorded(method, case.group("step0/grad/"))
    trainable = {
        name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    assert recorded.keys() == trainable.keys(), "not the recorded set of trainable parameters"
    for name, (official, theirs) in recorded.items():
        ours = trainable[name].grad
        assert ours is not None, f"{name}: no gradient"
        _compare(case, ours, theirs, official, zero, bound=1e-5)


def check_weights(case: Case, ours: dict[str, Tensor], zero: list[str]) -> None:
    """Every final weight and buffer against the recorded one."""
    method = case.facts["method"]
    recorded = _recorded(method, case.group("final/"))
    missing = sorted(recorded.keys() - ours.keys())
    assert not missing, f"no such weights in our module: {missing}"
    gradients = _recorded(method, case.group("step0/grad/"))
    recorded_change = case.facts.get("sensitivity", {}).get("final_max_absolute", 0.0)
    rounding = max(RESOLUTION, SENSITIVITY * recorded_change)
    for name, (official, theirs) in recorded.items():
        floor = torch.tensor(rounding)
        if name in gradients and case.facts["optimizer"]["name"] == "AdamW":
            floor = _adam_rounding(case, gradients[name][1]).clamp(min=rounding)
        _compare(case, ours[name], theirs, official, zero, bound=ROUNDING, floor=floor)


def _adam_rounding(case: Case, gradient: Tensor) -> Tensor:
    """Distance that rounding of a gradient may move each element of a weight in all steps.

    Adam divides a gradient by its own size, so that an error of that size moves a weight by the
    whole learning rate. Sums in another order, of another processor, change a gradient by
    ``RESOLUTION`` of the tensor's largest: a few elements in a thousand are as small as that.
    """
    error = RESOLUTION * gradient.abs().max() / gradient.abs()
    return error.clamp(max=1.0).nan_to_num(1.0) * sum(case.facts["expected"]["lr"])


def _recorded(method: str, tensors: dict[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """Official name and tensor by our name, in our form."""
    return {
        our_name(method, name): (name, our_form(method, name, tensor))
        for name, tensor in tensors.items()
    }


def _compare(
    case: Case,
    ours: Tensor,
    theirs: Tensor,
    name: str,
    zero: list[str],
    bound: float,
    floor: float | Tensor = 0.0,
) -> None:
    """Key biases of fused qkv layers, and what the case lists, are zero but for rounding."""
    if name in zero:
        case.small(ours, theirs, name, bound)
    elif name.endswith(("attn.qkv.bias", "attn.in_proj_bias")):
        query, key, value = ours.chunk(3)
        their_query, their_key, their_value = theirs.chunk(3)
        small = torch.as_tensor(floor).clamp(min=GRADIENT * theirs.abs().max().item())
        query_bound, _, value_bound = small.expand_as(theirs).chunk(3)
        case.small(query, their_query, f"{name} (query)", query_bound)
        case.small(key, their_key, f"{name} (key)", bound)
        case.small(value, their_value, f"{name} (value)", value_bound)
    else:
        case.close(ours, theirs, name, GRADIENT, floor)
