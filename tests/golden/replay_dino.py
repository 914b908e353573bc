"""Replay of facebookresearch/dino."""

from __future__ import annotations

import torch

from steps.engine.optimizers import clip_gradients, set_rates
from steps.engine.schedules import Progress, cosine, learning_rate
from steps.methods import Batch
from steps.methods.dino import DINO
from steps.models.backbones import create_backbone
from steps.models.official import from_official
from steps.models.positions import resize_table
from steps.params.backbone import Backbone
from steps.params.methods.dino import DINOParams
from steps.params.methods.prototypes import PrototypeHead
from steps.params.training import ClipGrad, Optimizer, Schedule
from tests.golden.case import Case
from tests.golden.training import (
    check_curve,
    check_gradients,
    check_groups,
    check_learning_rates,
    check_weights,
)


def replay(case: Case) -> None:
    """Outputs, losses, gradients, clipping, schedules, centre, moving averages, final weights."""
    facts, options = case.facts, case.facts["options"]
    arguments, expected = facts["schedule"]["args"], facts["expected"]
    assert options["world_size"] == 1, "recorded on several processes; replay it on as many"
    method = _method(case)
    method.load_state_dict(from_official("dino", case.group("init/")))
    _check_schedules(case)

    decay, decay_end = arguments["weight_decay"], arguments["weight_decay_end"]
    optimizer_params = Optimizer(
        name="adamw",
        lr=arguments["base_lr_per_256"],
        betas=facts["optimizer"]["betas"],
        eps=facts["optimizer"]["eps"],
        weight_decay=decay,
        weight_decay_end=decay_end,
    )
    schedule, peak = _schedule(arguments), arguments["lr_after_batch_scaling"]
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
        if step == 0:
            _check_outputs(case, method, crops)
        losses = method(Batch(crops, torch.empty(0)), {}, progress)
        case.number(losses["loss"].item(), expected["loss"][step], f"loss {step}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if step == 0:
            check_gradients(case, method, zero)
        if limit:
            _check_norms(case, method, step, limit)
            clip_gradients(method.parameters(), ClipGrad(max_norm=limit, scope="tensor"))
        for parameter in method.frozen(progress):
            parameter.grad = None
        optimizer.step()
        values = method.after_step(progress)
        for name in ("momentum", "teacher_temp"):
            case.number(values[name], expected[name][step], f"{name} of step {step}", 1e-9)
        if step == 0:
            case.equal(method.center.value, "step0/output/center_after")
    check_weights(case, method.state_dict(), zero)


def _method(case: Case) -> DINO:
    model, options = case.facts["model"], case.facts["options"]
    arguments, head = case.facts["schedule"]["args"], case.facts["model"]["head"]
    backbone = Backbone(
        scale="golden",
        architecture="vit_tiny_patch16_224",
        image_size=model["img_size"],
        patch_size=model["patch_size"],
        model_args={
            "embed_dim": model["embed_dim"],
            "depth": model["depth"],
            "num_heads": model["num_heads"],
            "mlp_ratio": float(model["mlp_ratio"]),
            "qkv_bias": model["qkv_bias"],
        },
    )
    params = DINOParams(
        name="dino",
        global_views=options["global_crops"],
        head=PrototypeHead(
            layers=head["nlayers"],
            hidden_dim=head["hidden_dim"],
            bottleneck_dim=head["bottleneck_dim"],
            out_dim=head["out_dim"],
            norm_last_layer=head["norm_last_layer"],
            use_bn=head["use_bn"],
        ),
        student_temp=options["student_temp"],
        teacher_temp=arguments["teacher_temp"],
        warmup_teacher_temp=arguments["warmup_teacher_temp"],
        warmup_teacher_temp_epochs=arguments["warmup_teacher_temp_epochs"],
        momentum=arguments["momentum_teacher"],
        momentum_end=arguments["momentum_end"],
        center_momentum=options["center_momentum"],
        freeze_last_layer_epochs=options["freeze_last_layer_epochs"],
        drop_path=model["drop_path"],
    )
    views = options["global_crops"] + options["local_crops"]
    return DINO(params, create_backbone(backbone), views)


def _schedule(arguments: dict[str, float]) -> Schedule:
    return Schedule(
        warmup_epochs=float(arguments["warmup_epochs"]),
        min_lr=arguments["min_lr"],
        ramp="inclusive",
    )


def _check_schedules(case: Case) -> None:
    """Both recorded schedules: the case's own and one of published length."""
    for table in ("schedule", "schedule_published_length"):
        if table not in case.facts:
            continue
        arguments = case.facts[table]["args"]
        if "batch" in arguments:
            params = Optimizer(name="adamw", lr=arguments["base_lr_per_256"], weight_decay=0.0)
            peak = params.peak_lr(arguments["batch"])
        else:
            peak = arguments["lr_after_batch_scaling"]
        check_learning_rates(case, table, _schedule(arguments), peak)
        decay = (arguments["weight_decay"], arguments["weight_decay_end"])
        momentum = (arguments["momentum_teacher"], arguments.get("momentum_end", 1.0))
        check_curve(case, table, "weight_decay", lambda at, pair=decay: cosine(at, *pair))
        check_curve(case, table, "momentum", lambda at, pair=momentum: cosine(at, *pair))
    method, per_epoch = _method(case), case.facts["schedule"]["args"]["iterations_per_epoch"]
    for epoch, value in case.facts["schedule"]["teacher_temp_per_epoch"]:
        ours = method.teacher_temp(Progress(epoch * per_epoch, per_epoch, 10**6))
        case.number(ours, value, f"teacher temperature of epoch {epoch}", 1e-9)


def _check_outputs(case: Case, method: DINO, crops: list[torch.Tensor]) -> None:
    targets = case.facts["options"]["global_crops"]
    with torch.no_grad():
        case.equal(method.teacher(crops[:targets]), "step0/output/teacher_logits")
        case.equal(method.student(crops), "step0/output/student_logits")
        case.equal(method.student.features(crops[:targets]), "step0/output/student_global_cls")
        vit = method.student.backbone
        if len(crops) > targets:
            local = method.student.features(crops[targets:])
            case.equal(local, "step0/output/student_local_cls")
            grid = crops[-1].shape[-1] // vit.patch_embed.patch_size[0]
            table = resize_table(vit.pos_embed, (grid, grid))
            case.equal(table, "step0/output/local_pos_embed")


def _check_norms(case: Case, method: DINO, step: int, limit: float) -> None:
    recorded = case.facts["expected"]["grad_norms_before_clip"][step]
    norms = [p.grad.norm().item() for p in method.parameters() if p.grad is not None]
    assert len(norms) == recorded["of"]
    assert sum(norm > limit for norm in norms) == recorded["clipped"]
    case.number(max(norms), recorded["max"], f"largest gradient norm of step {step}", 1e-4)


REPLAYS = {"dino": replay}
