"""Replay of microsoft/unilm, beit2: training of the VQ-KD tokenizer against recorded features."""

from __future__ import annotations

import torch
from torch import Tensor

from steps.core.schedules import Progress, learning_rate
from steps.engine.optimizers import set_rates
from steps.official.names import from_official, our_name
from steps.params.recipe import Optimizer, Schedule
from steps.params.tokenizers import Transformer, VQKDParams
from steps.tokenizers.codebook import kmeans
from steps.tokenizers.vqkd import VQKD
from tests.golden.case import Case
from tests.golden.training import (
    check_gradients,
    check_groups,
    check_learning_rates,
    check_weights,
)

_UNUSED = "quantize.embedding.embed_avg"
"""A parameter of the reference that nothing reads or moves."""


def replay(case: Case) -> None:
    """Codes, both losses, gradients, codebook and its statistics, final weights."""
    facts, expected = case.facts, case.facts["expected"]
    arguments, components = facts["schedule"]["args"], facts["expected"]["components"]
    method = _method(case)
    init = case.group("init/")
    case.close(case[f"final/{_UNUSED}"], init.pop(_UNUSED), _UNUSED, 0.0)
    method.load_state_dict(from_official("vqkd", init))
    codebook = method.tokenizer.codebook

    assert facts["optimizer"]["clip_grad"] is None, "a recorded clipping is not replayed yet"
    optimizer_params = Optimizer(
        name="adamw",
        lr=arguments["lr"],
        lr_batch=None,
        betas=facts["optimizer"]["betas"],
        eps=facts["optimizer"]["eps"],
        weight_decay=arguments["weight_decay"],
        undecayed=["cls_token", "pos_embed"],
    )
    per_epoch = arguments["iterations_per_epoch"]
    schedule = Schedule(
        warmup_epochs=arguments["warmup_steps"] / per_epoch,
        min_lr=arguments["min_lr"],
        ramp="inclusive",
    )
    check_learning_rates(case, "schedule", schedule, arguments["lr"])
    optimizer = check_groups(case, method, optimizer_params, depth=0)
    zero = facts.get("zero_gradient_tensors", [])

    for step in range(facts["steps"]):
        progress = Progress(
            arguments["first_iteration"] + step, per_epoch, arguments["epochs"] * per_epoch
        )
        lr = learning_rate(progress, schedule, arguments["lr"])
        case.number(lr, expected["lr"][step], f"lr of step {step}", 1e-9)
        decay = optimizer_params.weight_decay
        case.number(decay, expected["weight_decay"][step], f"weight decay of step {step}")
        set_rates(optimizer, lr, decay)
        images = case[f"step{step}/input/images"]
        # The reference takes images for 0 to 255 where the batch has a value above 1.
        pixels = images / 255 if images.max() > 1 else images
        if not codebook.ready:
            _check_kmeans(case, method, pixels, step)
        features = method.tokenizer.features(pixels).detach()
        indices = codebook.nearest(features)
        case.equal(indices, f"step{step}/output/indices")
        used = indices.unique().numel()
        case.number(used, components["codes_used"][step], f"codes used in step {step}")
        _check_margin(case, features @ codebook.codes.T, components["smallest_margin"][step])
        if step == 0:
            _check_outputs(case, method, pixels)
        losses = method.losses(pixels, case[f"step{step}/input/teacher_features"])
        case.number(losses["loss"].item(), expected["loss"][step], f"loss {step}")
        for name in ("quant_loss", "rec_loss"):
            case.number(losses[name].item(), components[name][step], f"{name} {step}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if step == 0:
            check_gradients(case, method, zero)
        optimizer.step()
        method.after_step(progress)
        case.equal(codebook.codes, f"step{step}/output/codebook")
        case.equal(codebook.cluster_size, f"step{step}/output/cluster_size")
    recorded = set(case.group("final/")) - {_UNUSED}
    assert {our_name("vqkd", name) for name in recorded} <= method.state_dict().keys()
    check_weights(case, {**method.state_dict(), _UNUSED: case[f"final/{_UNUSED}"]}, zero)


def _method(case: Case) -> VQKD:
    model, options = case.facts["model"], case.facts["options"]
    assert model["in_chans"] == 3
    assert model["layer_scale_init_value"] == 0, "the reference's tokenizer has no layer scale"
    assert model["drop_path"] == 0, "recorded with drop path, whose draws are not replayed yet"
    params = VQKDParams(
        name="vqkd",
        image_size=model["img_size"],
        patch_size=model["patch_size"],
        encoder=Transformer(
            embed_dim=model["embed_dim"],
            depth=model["depth"],
            num_heads=model["num_heads"],
            mlp_ratio=float(model["mlp_ratio"]),
        ),
        decoder=Transformer(
            embed_dim=model["decoder_embed_dim"],
            depth=model["decoder_depth"],
            num_heads=model["decoder_num_heads"],
            mlp_ratio=float(model["decoder_mlp_ratio"]),
        ),
        codes=model["n_code"],
        code_dim=model["code_dim"],
        ema_decay=options["ema_decay"],
        kmeans_init=options["kmeans_init"],
        commitment=float(options["beta"]),
        rec_loss_type=options["rec_loss_type"],
        process_type=options["process_type"],
    )
    assert model["norm_eps"] == 1e-6
    return VQKD(params, None, model["decoder_out_dim"])


@torch.no_grad()
def _check_kmeans(case: Case, method: VQKD, pixels: Tensor, step: int) -> None:
    """Start the codebook as a training does, from the recorded permutation."""
    permutation = case[f"step{step}/draw/kmeans_permutation"]
    order = torch.empty(len(permutation))
    order[permutation] = torch.arange(len(permutation), dtype=torch.float32)
    codebook = method.tokenizer.codebook
    features = method.tokenizer.features(pixels)
    codes, sizes = kmeans(features.flatten(0, 1), permutation, len(codebook.codes))
    case.equal(codes, f"step{step}/output/kmeans_codebook")
    case.equal(sizes, f"step{step}/output/kmeans_bins")
    method.start_from([(features, order.view(len(pixels), -1))])
    case.close(codebook.codes, codes, "codebook as started", 0.0)
    recorded = case.facts["expected"]["components"]["kmeans_smallest_margin"]
    cosines = [
        features.flatten(0, 1) @ kmeans(features.flatten(0, 1), permutation, len(codes), done)[0].T
        for done in range(10)
    ]
    _check_margin(case, torch.cat(cosines), recorded)


def _check_margin(case: Case, cosines: Tensor, recorded: float) -> None:
    first, second = cosines.topk(2, dim=-1).values.unbind(dim=-1)
    # A margin is a small difference of large numbers.
    case.small((first - second).min(), torch.tensor(recorded), "smallest margin", 1e-5)


@torch.no_grad()
def _check_outputs(case: Case, method: VQKD, pixels: Tensor) -> None:
    tokenizer = method.tokenizer
    case.equal(tokenizer.normalise(pixels), "step0/output/pixels")
    grid = (method.grid, method.grid)
    features = tokenizer.raw_features(pixels)
    case.equal(features.transpose(1, 2).unflatten(2, grid), "step0/output/to_quantizer")
    codes = tokenizer.codebook.codes[tokenizer.tokens(pixels)]
    case.equal(codes.transpose(1, 2).unflatten(2, grid), "step0/output/quantized")
    case.equal(method.decode(codes), "step0/output/rec")


REPLAYS = {"vqkd": replay}
