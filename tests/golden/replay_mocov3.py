"""Replay of facebookresearch/moco-v3 and of Separius/DILEMMA, which is built on it."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from steps.core.schedules import Progress, cosine, learning_rate
from steps.engine.optimizers import set_rates
from steps.methods import Batch, Draws, MethodContext
from steps.methods.dilemma import DILEMMA
from steps.methods.losses import momentum_contrast
from steps.methods.mocov3 import MoCoV3
from steps.official.names import from_official
from steps.params.methods.dilemma import DILEMMAParams
from steps.params.methods.method import Predictor, Projector
from steps.params.methods.mocov3 import MoCoV3Params
from steps.params.recipe import Optimizer, Schedule
from tests.golden.case import GRADIENT, LOSS, Case
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

_VIEWS = (1, 2)


def replay(case: Case) -> None:
    """Outputs, losses, gradients, schedules, moving averages, final weights, several processes."""
    facts, options = case.facts, case.facts["options"]
    arguments, expected = facts["schedule"]["args"], facts["expected"]
    assert options["world_size"] == 1, "recorded on several processes; replay it on as many"
    method = _method(case)
    init = from_official(facts["method"], case.group("init/"))
    if isinstance(method, MoCoV3):
        for name, table in method.state_dict().items():
            if name.endswith("pos_embed"):
                case.close(table, init[name], f"init/{name}", LOSS)
    method.load_state_dict(init)
    _check_schedules(case)

    optimizer_params = _optimizer(case)
    schedule, peak = _schedule(arguments), arguments["lr_after_batch_scaling"]
    case.number(optimizer_params.peak_lr(options["batch_size"]), peak, "peak lr", 1e-9)
    optimizer = check_groups(case, method, optimizer_params, facts["model"]["depth"])
    sensitivity = facts.get("sensitivity", {})
    zero = [*facts.get("zero_gradient_tensors", []), *sensitivity.get("zero_gradient_tensors", [])]
    zero += [name.replace("base_encoder", "momentum_encoder") for name in zero]
    per_epoch = arguments["iterations_per_epoch"]

    for step in range(facts["steps"]):
        progress = Progress(step, per_epoch, arguments["epochs"] * per_epoch)
        lr = learning_rate(progress, schedule, peak)
        decay = optimizer_params.weight_decay
        case.number(lr, expected["lr"][step], f"lr of step {step}", 1e-9)
        case.number(decay, expected["weight_decay"][step], f"weight decay of step {step}", 1e-9)
        set_rates(optimizer, lr, decay)
        method.before_step(progress)
        batch = Batch([case[f"step{step}/input/x{view}"] for view in _VIEWS], torch.empty(0))
        draws = _draws(case, step, method)
        if step == 0:
            _check_outputs(case, method, batch, draws, progress)
        losses = method(batch, draws, progress)
        _check_losses(case, losses, step)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if step == 0:
            check_gradients(case, method, zero)
        optimizer.step()
        momentum = method.after_step(progress)["momentum"]
        case.number(momentum, expected["momentum"][step], f"momentum of step {step}", 1e-9)
    check_weights(case, method.state_dict(), zero)
    _check_several_processes(case)


def _method(case: Case) -> MoCoV3 | DILEMMA:
    model, options = case.facts["model"], case.facts["options"]
    for name in ("projector", "predictor"):
        assert not model[name]["linear_bias"], f"{name}: the reference has no biases"
        assert not model[name]["last_bn_affine"], f"{name}: the reference's last norm is plain"
    assert model["predictor"]["out"] == model["projector"]["out"]
    assert model["drop_path"] == 0.0, "the reference has no drop path"
    start = options["moco_m"]
    shared: dict[str, Any] = {
        "temperature": options["temperature"],
        "momentum": start,
        "momentum_end": 1.0 if options["moco_m_cos"] else start,
        "projector": Projector(
            layers=model["projector"]["layers"],
            hidden_dim=model["projector"]["hidden"],
            out_dim=model["projector"]["out"],
        ),
        "predictor": Predictor(
            layers=model["predictor"]["layers"], hidden_dim=model["predictor"]["hidden"]
        ),
    }
    backbone = vision_transformer(model, in_chans=model["in_chans"])
    method: MoCoV3 | DILEMMA
    if case.facts["method"] == "mocov3":
        frozen = model["stop_grad_conv1"]
        params = MoCoV3Params(name="mocov3", frozen_patch_embed=frozen, **shared)
        method = MoCoV3(params, backbone, MethodContext())
    else:
        method = DILEMMA(
            DILEMMAParams(
                name="dilemma",
                drop_rate=options["token_drop_rate"],
                misplaced=options["dilemma_probability"],
                detection_weight=options["dilemma_lambda"],
                **shared,
            ),
            backbone,
            MethodContext(),
        )
        case.number(method.kept, options["tokens_kept"], "tokens kept")
    for module in method.modules():
        if isinstance(module, nn.LayerNorm):
            case.number(module.eps, model["norm_eps"], "eps of a layer norm")
        elif isinstance(module, nn.BatchNorm1d):
            case.number(module.eps, model["bn_eps"], "eps of a batch norm")
            case.number(module.momentum or 0.0, model["bn_momentum"], "momentum of a batch norm")
    return method


def _optimizer(case: Case) -> Optimizer:
    recorded = case.facts["optimizer"]
    (decay,) = {group["weight_decay"] for group in recorded["groups"]}
    rules: dict[str, Any]
    if recorded["name"] == "LARS":
        rules = {
            "momentum": recorded["momentum"],
            "trust_coefficient": recorded["trust_coefficient"],
        }
    else:
        rules = {"betas": recorded["betas"], "eps": recorded["eps"]}
    return Optimizer(
        name=recorded["name"].lower(),
        lr=case.facts["schedule"]["args"]["base_lr_per_256"],
        weight_decay=decay,
        decay="all",
        **rules,
    )


def _schedule(arguments: dict[str, float]) -> Schedule:
    return Schedule(warmup_epochs=float(arguments["warmup_epochs"]))


def _check_schedules(case: Case) -> None:
    """Both recorded schedules: the case's own and, where there is one, that of published length."""
    for table, arguments, peak in recorded_schedules(case):
        check_learning_rates(case, table, _schedule(arguments), peak)
        start = arguments["moco_m"]
        end = 1.0 if case.facts["options"]["moco_m_cos"] else start
        check_curve(case, table, "momentum", lambda at, a=start, b=end: cosine(at, a, b))


def _draws(case: Case, step: int, method: MoCoV3 | DILEMMA) -> Draws:
    if isinstance(method, MoCoV3):
        return {}
    return {
        kind: torch.stack(
            [case[f"step{step}/draw/view{view}_{kind}_noise"] for view in _VIEWS], dim=1
        )
        for kind in ("order", "label")
    }


def _check_outputs(
    case: Case, method: MoCoV3 | DILEMMA, batch: Batch, draws: Draws, progress: Progress
) -> None:
    """Queries, keys and what else the case has; running statistics stay as they were."""
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    with torch.no_grad():
        encoded = method.encode(batch, draws, progress)
        for view in _VIEWS:
            feature = encoded[f"q{view}"]
            case.equal(method.pair.queries(feature), f"step0/output/q{view}")
            case.equal(method.pair.keys(encoded[f"k{view}"]), f"step0/output/k{view}")
            if isinstance(method, MoCoV3):
                projection = method.pair.encoder.projector(feature)
                case.equal(projection, f"step0/output/projection{view}")
                continue
            label = draws["label"][:, view - 1]
            own, given = method.indices(draws["order"][:, view - 1], label)
            case.equal(own, f"step0/output/real_pos{view}")
            case.equal(given, f"step0/output/input_pos{view}")
            case.equal(method.misplaced(label).float(), f"step0/output/token_labels{view}")
            case.equal(encoded[f"d{view}"], f"step0/output/dilemma_logits{view}")
        for name, buffer in method.named_buffers():
            buffer.copy_(before[name])


def _check_losses(case: Case, losses: dict[str, Tensor], step: int) -> None:
    expected = case.facts["expected"]
    case.number(losses["loss"].item(), expected["loss"][step], f"loss of step {step}")
    for name, recorded in expected.get("components", {}).items():
        ours = losses[name.replace("dilemma_view", "detection")]
        case.number(ours.item(), recorded[step], f"{name} of step {step}")


def _check_several_processes(case: Case) -> None:
    """The loss of each process's own queries, and its gradient."""
    worlds = {match[1] for name in case.tensors if (match := re.match(r"dist(\d+)/", name))}
    for world in sorted(worlds):
        inputs = [case.group(f"dist{world}/rank{rank}/input/") for rank in range(int(world))]
        temperature = case.facts["options"]["temperature"]
        results = on_ranks(_own_loss, [(features, temperature) for features in inputs])
        recorded = case.facts["expected"][f"dist{world}_loss_per_rank"]
        assert len(recorded) == len(results)
        for rank, result in enumerate(results):
            place = f"dist{world}/rank{rank}"
            case.number(result["loss"], recorded[rank], f"{place} loss")
            for name in ("q1", "q2"):
                case.equal(result[name], f"{place}/grad/{name}", GRADIENT)


def _own_loss(features: dict[str, Tensor], temperature: float) -> dict[str, Any]:
    q1, q2 = (features[name].requires_grad_(True) for name in ("q1", "q2"))
    loss = momentum_contrast(q1, features["k2"], temperature)
    loss = loss + momentum_contrast(q2, features["k1"], temperature)
    loss.backward()
    return {"loss": loss.item(), "q1": q1.grad, "q2": q2.grad}


REPLAYS = {"mocov3": replay, "dilemma": replay}
