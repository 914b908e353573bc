"""Replay of facebookresearch/dinov2: training steps, its backbone alone, its losses alone."""

from __future__ import annotations

import torch
from torch import Tensor

from steps.core.schedules import Progress, cosine, learning_rate
from steps.engine.optimizers import clip_gradients, set_rates
from steps.methods import Batch
from steps.methods.dinov2 import DINOv2
from steps.methods.losses import patch_weights
from steps.models import row_drop
from steps.models.dinov2_vit import mask_token
from steps.models.heads import PrototypeHead
from steps.models.multicrop import Headed, by_sample, by_view
from steps.models.tokens import encode
from steps.official.names import from_official, our_name
from steps.params.recipe import ClipGrad, Optimizer, Schedule
from tests.golden import dinov2_backbone, dinov2_losses
from tests.golden.case import Case
from tests.golden.dinov2_model import method_of
from tests.golden.training import (
    check_curve,
    check_gradients,
    check_groups,
    check_learning_rates,
    check_weights,
)


def replay(case: Case) -> None:
    """Dispatch on what the case records."""
    if "prototypes" in case.facts["model"]:
        dinov2_losses.replay(case)
    elif case.facts["steps"] == 0:
        dinov2_backbone.replay(case)
    else:
        replay_training(case)


def replay_training(case: Case) -> None:
    """Outputs, losses, gradients, clipping, schedules, centres, averages, final weights."""
    facts, options = case.facts, case.facts["options"]
    arguments, expected = facts["schedule"]["args"], facts["expected"]
    assert options["world_size"] == 1, "recorded on several processes; replay it on as many"
    method = method_of(case)
    init = from_official("dinov2", case.group("init/"))
    left_out = method.load_state_dict(init, strict=False)
    assert not left_out.unexpected_keys
    waiting = {"_waiting", "_filled"}
    assert {name.rpartition(".")[2] for name in left_out.missing_keys} <= waiting
    _check_schedules(case, method)

    decay, decay_end = arguments["weight_decay"], arguments["weight_decay_end"]
    optimizer_params = Optimizer(
        name="adamw",
        lr=arguments["base_lr_per_1024_sqrt"],
        lr_batch=1024,
        lr_scaling="sqrt",
        betas=facts["optimizer"]["betas"],
        eps=facts["optimizer"]["eps"],
        weight_decay=decay,
        weight_decay_end=decay_end,
        layer_decay=options["layerwise_decay"],
        patch_embed_scale=options["patch_embed_lr_mult"],
    )
    schedule, peak = _schedule(arguments), arguments["lr_after_batch_scaling"]
    case.number(optimizer_params.peak_lr(options["batch_size"]), peak, "peak lr", 1e-9)
    optimizer = check_groups(case, method, optimizer_params, facts["model"]["depth"])
    zero = facts.get("zero_gradient_tensors", [])
    limit = options.get("clip_grad_per_submodule")
    per_epoch = arguments["iterations_per_epoch"]

    for step in range(facts["steps"]):
        progress = Progress(step, per_epoch, arguments["epochs"] * per_epoch)
        lr = learning_rate(progress, schedule, peak)
        weight_decay = cosine(progress, decay, decay_end)
        case.number(lr, expected["lr"][step], f"lr of step {step}", 1e-9)
        case.number(weight_decay, expected["weight_decay"][step], f"wd of step {step}", 1e-9)
        set_rates(optimizer, lr, weight_decay, method.with_zero_lr(progress))
        _check_last_layers(case, method, optimizer, step)
        batch, draws = _inputs(case, method, step)
        if step == 0:
            _check_outputs(case, method, batch, draws, progress)
        losses = method(batch, draws, progress)
        _check_losses(case, losses, step)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if step == 0:
            check_gradients(case, method, zero)
        _check_norms(case, method, step)
        if limit:
            for part in method.submodules():
                clip_gradients(part.parameters(), ClipGrad(max_norm=limit, scope="submodule"))
        optimizer.step()
        values = method.after_step(progress)
        for name in ("momentum", "teacher_temp"):
            case.number(values[name], expected[name][step], f"{name} of step {step}", 1e-9)
    check_weights(case, method.state_dict(), zero)


def _inputs(case: Case, method: DINOv2, step: int) -> tuple[Batch, dict[str, Tensor]]:
    """The recorded crops and draws, as views and with the batch first."""
    options, room = case.facts["options"], f"step{step}"
    views = list(case[f"{room}/input/global_crops"].chunk(options["global_crops"]))
    if options["local_crops"]:
        views += case[f"{room}/input/local_crops"].chunk(options["local_crops"])
    masks = case[f"{room}/draw/masks"]
    case.equal(masks.flatten().nonzero().squeeze(1), f"{room}/draw/mask_indices")
    case.equal(patch_weights(masks), f"{room}/draw/masks_weight")
    assert int(case[f"{room}/draw/upperbound"]) >= int(masks.sum())
    draws = {"mask": by_sample(masks, options["global_crops"])}
    if case.facts["model"]["drop_path"] > 0:
        groups = [len(masks), len(masks) // options["global_crops"] * options["local_crops"]]
        gates = dinov2_backbone.gates(case, f"{room}/draw/nested_perm", method.drop_rates, groups)
        draws["gates_global"] = by_sample(gates[0], options["global_crops"])
        if options["local_crops"]:
            draws["gates_local"] = by_sample(gates[1], options["local_crops"])
    return Batch(views, torch.empty(0)), draws


def _check_losses(case: Case, losses: dict[str, Tensor], step: int) -> None:
    """The optimised sum, and its terms as the reference logs them."""
    options, expected = case.facts["options"], case.facts["expected"]
    case.number(losses["loss"].item(), expected["loss"][step], f"loss of step {step}")
    ours = {
        "dino_local_crops_loss": ("dino_local", 1.0),
        "dino_global_crops_loss": ("dino_global", 1.0),
        "koleo_loss": ("koleo", options["koleo_loss_weight"] / 2),
        "ibot_loss": ("ibot", 0.5),
    }
    for name, values in expected["components"].items():
        term, factor = ours[name]
        value = losses[term].item() * factor
        case.number(value, values[step], f"{name} of step {step}")


def _through(network: Headed, tokens: Tensor, gates: Tensor | None = None) -> Tensor:
    """All tokens after the last block and the final norm."""
    vit = network.backbone
    tokens = encode(vit, tokens) if gates is None else row_drop.encode(vit, tokens, gates)
    return vit.norm(tokens)


def _check_outputs(
    case: Case, method: DINOv2, batch: Batch, draws: dict[str, Tensor], progress: Progress
) -> None:
    """Tokens, head outputs and targets of the first step."""
    registers = case.facts["model"]["num_register_tokens"]
    room, mask = "step0/output", case["step0/draw/masks"]
    spare = int(case["step0/draw/upperbound"]) - int(mask.sum())
    crops = torch.cat(batch.views[:2])
    rows = {name: by_view(draw) for name, draw in draws.items()}
    with torch.no_grad():
        token = mask_token(method.student.backbone)
        masked = method.student.embed(crops, mask, token)
        networks = {
            "student_0": _through(method.student, masked, rows.get("gates_global")),
            "teacher_0": _through(method.teacher, method.teacher.embed(crops)),
        }
        if len(batch.views) > 2:
            local = method.student.embed(torch.cat(batch.views[2:]))
            networks["student_1"] = _through(method.student, local, rows.get("gates_local"))
        for name, tokens in networks.items():
            case.equal(tokens[:, 0], f"{room}/{name}_clstoken")
            case.equal(tokens[:, 1 + registers :], f"{room}/{name}_patchtokens")
            if registers:
                case.equal(tokens[:, 1 : 1 + registers], f"{room}/{name}_regtokens")

        def padded(tokens: Tensor) -> Tensor:
            """The reference's buffer of masked patches: zeros behind them."""
            masked = tokens[:, 1 + registers :][mask]
            return torch.cat([masked, masked.new_zeros(spare, masked.shape[1])])

        student, teacher = networks["student_0"], networks["teacher_0"]
        classes = [networks["student_1"][:, 0]] if len(batch.views) > 2 else []
        classes.append(student[:, 0])
        swapped = teacher[:, 0].roll(len(teacher) // 2, dims=0)
        if case.facts["options"]["ibot_separate_head"]:
            student_out = method.student.dino_head(torch.cat(classes))
            teacher_out = method.teacher.dino_head(swapped)
            patches_out = method.teacher.patch_head(padded(teacher))
            case.equal(method.student.patch_head(padded(student)), f"{room}/student_ibot_head_out")
            case.equal(patches_out, f"{room}/teacher_ibot_head_out")
        else:
            student_out = method.student.dino_head(torch.cat([*classes, padded(student)]))
            teacher_out = method.teacher.dino_head(torch.cat([swapped, padded(teacher)]))
            patches_out = teacher_out[len(swapped) :]
        case.equal(student_out.unsqueeze(0), f"{room}/student_dino_head_out")
        case.equal(teacher_out, f"{room}/teacher_dino_head_out")
        temp = method.teacher_temp(progress)
        masked = patches_out[: int(mask.sum())]
        for logits, center, name in (
            (teacher_out[: len(swapped)], method.class_center, "dino_targets"),
            (masked, method.patch_center, "ibot_targets"),
        ):
            recorded = case[f"{room}/{name}"]
            ours = method.targets(logits, center, temp)
            case.close(ours.view_as(recorded), recorded, name, 1e-5)
            # As if the targets had never been asked for.
            center._sum.zero_()
            center._rows.zero_()


def _check_norms(case: Case, method: DINOv2, step: int) -> None:
    recorded = case.facts["expected"]["grad_norm_before_clip_per_submodule"][step]
    parts = dict(method.student.named_children())
    assert recorded.keys() == parts.keys()
    for name, part in parts.items():
        norms = [p.grad.norm() for p in part.parameters() if p.grad is not None]
        ours = torch.stack(norms).norm().item()
        case.number(ours, recorded[name], f"gradient norm of {name}, step {step}")


def _check_last_layers(
    case: Case, method: DINOv2, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Their rate, and that they are the tensors that the reference treats so."""
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    last = {
        our_name("dinov2", name)
        for group in case.facts["optimizer"]["groups"]
        if group["is_last_layer"]
        for name in group["params"]
    }
    rate = case.facts["expected"]["last_layer_lr"][step]
    found = set()
    for group in optimizer.param_groups:
        members = {names[id(parameter)] for parameter in group["params"]} & last
        if members:
            found |= members
            case.number(group["lr"], rate * group["lr_scale"], f"last layer lr {step}", 1e-9)
    assert found == last
    heads = [head for head in method.student.children() if isinstance(head, PrototypeHead)]
    assert last == {
        names[id(parameter)] for head in heads for parameter in head.last_layer.parameters()
    }


def _schedule(arguments: dict[str, float]) -> Schedule:
    return Schedule(
        warmup_epochs=float(arguments["warmup_epochs"]),
        min_lr=arguments["min_lr"],
        ramp="inclusive",
    )


def _check_schedules(case: Case, method: DINOv2) -> None:
    """Both recorded schedules: the case's own and one of published length."""
    for table in ("schedule", "schedule_published_length"):
        if table not in case.facts:
            continue
        arguments = case.facts[table]["args"]
        timed = method_of(case, table)
        peak = arguments.get("lr_after_batch_scaling")
        if peak is None:
            base = arguments["base_lr_per_1024_sqrt"]
            params = Optimizer(
                name="adamw", lr=base, lr_batch=1024, lr_scaling="sqrt", weight_decay=0.0
            )
            peak = params.peak_lr(arguments["batch"])
        schedule = _schedule(arguments)
        check_learning_rates(case, table, schedule, peak)
        decay = (arguments["weight_decay"], arguments["weight_decay_end"])
        momentum = (arguments["momentum_teacher"], arguments.get("momentum_end", 1.0))
        check_curve(case, table, "weight_decay", lambda at, pair=decay: cosine(at, *pair))
        check_curve(case, table, "momentum", lambda at, pair=momentum: cosine(at, *pair))
        check_curve(case, table, "teacher_temp", timed.teacher_temp)

        def last_layer(
            at: Progress, timed: DINOv2 = timed, schedule: Schedule = schedule, peak: float = peak
        ) -> float:
            return 0.0 if timed.with_zero_lr(at) else learning_rate(at, schedule, peak)

        check_curve(case, table, "last_layer_lr", last_layer)


REPLAYS = {"dinov2": replay}
