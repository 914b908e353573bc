"""Replay of facebookresearch/mae."""

from __future__ import annotations

import torch

from steps.engine.optimizers import set_rates
from steps.engine.schedules import Progress, learning_rate
from steps.methods import Batch
from steps.methods.mae import MAE
from steps.models.backbones import create_backbone
from steps.models.official import from_official
from steps.models.tokens import patch_tokens
from steps.params.backbone import Backbone
from steps.params.methods.mae import MAEDecoder, MAEParams
from steps.params.training import Optimizer, Schedule
from tests.golden.case import LOSS, Case
from tests.golden.training import (
    check_gradients,
    check_groups,
    check_learning_rates,
    check_weights,
)


def replay(case: Case) -> None:
    """Outputs, losses, gradients, schedule and final weights."""
    facts, model = case.facts, case.facts["model"]
    arguments = facts["schedule"]["args"]
    backbone = Backbone(
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
    decoder = MAEDecoder(
        embed_dim=model["decoder_embed_dim"],
        depth=model["decoder_depth"],
        num_heads=model["decoder_num_heads"],
    )
    method = MAE(
        MAEParams(name="mae", decoder=decoder, **facts["options"]), create_backbone(backbone)
    )
    init = from_official("mae", case.group("init/"))
    tables = {name: table for name, table in method.state_dict().items() if "pos_embed" in name}
    for name, table in tables.items():
        case.close(table, init[name], f"init/{name}", LOSS)
    method.load_state_dict(init)

    optimizer_params = Optimizer(
        name="adamw",
        lr=arguments["blr"],
        betas=facts["optimizer"]["betas"],
        eps=facts["optimizer"]["eps"],
        weight_decay=arguments["weight_decay"],
    )
    schedule = Schedule(warmup_epochs=float(arguments["warmup_epochs"]), min_lr=arguments["min_lr"])
    peak = optimizer_params.peak_lr(arguments["effective_batch_size"])
    case.number(peak, arguments["lr"], "peak lr", 1e-9)
    check_learning_rates(case, "schedule", schedule, peak)
    optimizer = check_groups(case, method, optimizer_params, model["depth"])
    per_epoch = arguments["iterations_per_epoch"]
    assert facts["optimizer"]["clip_grad"] is None, "a recorded clipping is not replayed yet"

    for step in range(facts["steps"]):
        progress = Progress(
            arguments["first_iteration"] + step, per_epoch, arguments["epochs"] * per_epoch
        )
        lr = learning_rate(progress, schedule, peak)
        case.number(lr, facts["expected"]["lr"][step], f"lr of step {step}", 1e-9)
        case.number(
            optimizer_params.weight_decay,
            facts["expected"]["weight_decay"][step],
            f"weight decay of step {step}",
        )
        set_rates(optimizer, lr, optimizer_params.weight_decay)
        images = case[f"step{step}/input/images"]
        noise = case[f"step{step}/draw/noise"]
        _, _, restore = method.encode(images, noise)
        case.equal(restore, f"step{step}/output/ids_restore")
        if step == 0:
            _check_outputs(case, method, images, noise)
        losses = method(Batch([images], torch.empty(0)), {"noise": noise}, progress)
        case.number(losses["loss"].item(), facts["expected"]["loss"][step], f"loss {step}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if step == 0:
            check_gradients(case, method, facts.get("zero_gradient_tensors", []))
        optimizer.step()
        method.after_step(progress)
    check_weights(case, method.state_dict(), facts.get("zero_gradient_tensors", []))


def _check_outputs(case: Case, method: MAE, images: torch.Tensor, noise: torch.Tensor) -> None:
    with torch.no_grad():
        latent, mask, restore = method.encode(images, noise)
        prediction = method.decoder(latent, restore)
        case.equal(patch_tokens(method.backbone, images), "step0/output/patch_embed")
        case.equal(mask, "step0/output/mask")
        case.equal(latent, "step0/output/latent")
        case.equal(prediction, "step0/output/pred")
        case.equal(method.target(images), "step0/output/target")


REPLAYS = {"mae": replay}
