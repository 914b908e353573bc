"""Replay of Haochen-Wang409/DropPos, with one task and with two."""

from __future__ import annotations

import torch
from torch import Tensor

from steps.methods import Batch, MethodContext
from steps.methods.droppos import DropPos, confidence, smoothed_labels
from steps.methods.method import Draws, Losses
from steps.models.tokens import patch_tokens
from steps.params.methods.droppos import DropPosParams, PixelTask
from tests.golden.case import GRADIENT, Case
from tests.golden.masked import Run, decoder, encoder, known, load
from tests.golden.training import check_curve

OPTIONS = {
    *("mask_ratio", "pos_mask_ratio", "mask_token_type", "shuffle", "multi_task", "pos_weight"),
    *("label_smoothing_sigma", "sigma_decay", "conf_ignore", "attn_guide", "norm_pix_loss"),
    *("clip_grad",),
}
LOSSES = {"loss_drop_pos": "position_loss", "loss_mae": "pixel_loss", "acc1": "position_accuracy"}
"""Ours, by the recorded name."""


def replay(case: Case) -> None:
    """Maskings, outputs, both losses, gradients, clipping, schedules and final weights."""
    expected = case.facts["expected"]
    known(expected, "loss", "lr", "weight_decay", "components")
    known(
        expected["components"],
        *("sigma", "tensors_clipped", "largest_parameter_grad_norm"),
        *LOSSES,
    )
    method = DropPos(_params(case), encoder(case), MethodContext())
    load(case, method)
    run = Run.of(case, method, "tensor")
    check_curve(case, "schedule", "sigma", method.sigma)
    for step, progress in run.steps():
        sigma = method.sigma(progress)
        case.number(sigma, expected["components"]["sigma"][step], f"sigma {step}", 1e-9)
        images = case[f"step{step}/input/images"]
        draws = {name: case[f"step{step}/draw/{name}"] for name in ("noise_patch", "noise_pos")}
        _check_maskings(case, method, draws, step)
        if step == 0:
            _check_outputs(case, method, images, draws, sigma)
        losses = method(Batch([images], torch.empty(0)), draws, progress)
        norms = run.update(step, losses["loss"])
        _check_components(case, run, losses, norms, step)


def _params(case: Case) -> DropPosParams:
    options = case.facts["options"]
    known(options, *OPTIONS)
    assert not (options["shuffle"] and options["multi_task"]), (
        "the reference's pixel decoder does not undo a shuffle"
    )
    task = None
    if options["multi_task"]:
        task = PixelTask(pos_weight=options["pos_weight"], norm_pix_loss=options["norm_pix_loss"])
    return DropPosParams(
        name="droppos",
        mask_ratio=options["mask_ratio"],
        pos_mask_ratio=options["pos_mask_ratio"],
        dropped_position={"param": "learnt", "zeros": "zeros"}[options["mask_token_type"]],
        decoder=decoder(case),
        label_smoothing_sigma=options["label_smoothing_sigma"],
        sigma_decay=options["sigma_decay"],
        attn_guide=options["attn_guide"],
        conf_ignore=options["conf_ignore"],
        pixel_task=task,
    )


def _check_maskings(case: Case, method: DropPos, draws: Draws, step: int) -> None:
    masks, room = method.maskings(draws), f"step{step}/output"
    case.equal(masks.patches.removed, f"{room}/mask")
    case.equal(masks.patches.keep, f"{room}/ids_keep")
    case.equal(masks.patches.restore, f"{room}/ids_restore")
    case.equal(masks.positions.removed, f"{room}/mask_pos")
    case.equal(masks.positions.keep, f"{room}/ids_keep_pos")
    case.equal(masks.positions.restore, f"{room}/ids_restore_pos")


@torch.no_grad()
def _check_outputs(case: Case, method: DropPos, images: Tensor, draws: Draws, sigma: float) -> None:
    room, masks = "step0/output", method.maskings(draws)
    latent = method.encode_visible(images, masks)
    logits, labels = method.decoder(latent)[:, 1:], smoothed_labels(method.grid, sigma)
    seen = latent
    if case.facts["options"]["shuffle"]:
        # The reference shuffles the tokens that it encodes, and undoes it after the decoder.
        (name,) = (n for n in case.tensors if n.startswith("step0/draw/") and "shuffle" in n)
        order = case[name].argsort(dim=1)
        seen = torch.cat([latent[:, :1], latent[:, 1:].gather(1, _wide(order, latent))], dim=1)
    case.equal(patch_tokens(method.backbone, images), f"{room}/patch_embed")
    case.equal(seen, f"{room}/latent")
    case.equal(logits, f"{room}/pred")
    case.equal(labels, f"{room}/label_map")
    visible = masks.patches.keep
    if method.params.attn_guide:
        attention = method.attention(images)
        case.equal(attention, f"{room}/attn_full")
        case.equal(method.visible_attention(attention, visible), f"{room}/attn")
    if method.params.conf_ignore:
        sure = confidence(logits, visible)
        case.equal(sure, f"{room}/conf")
        case.equal(sure < labels.diagonal()[visible], f"{room}/conf_mask")
    if method.pixel_decoder is not None:
        prediction = method.pixel_decoder(latent, masks.patches.restore)
        case.equal(prediction, f"{room}/pred_mae")
        case.equal(method.pixel_targets(images), f"{room}/target_mae")


def _wide(order: Tensor, tokens: Tensor) -> Tensor:
    return order.unsqueeze(2).expand(-1, -1, tokens.shape[2])


def _check_components(case: Case, run: Run, losses: Losses, norms: list[float], step: int) -> None:
    components = case.facts["expected"]["components"]
    for theirs, ours in LOSSES.items():
        if theirs in components:
            case.number(losses[ours].item(), components[theirs][step], f"{theirs} {step}")
    largest = components["largest_parameter_grad_norm"][step]
    case.number(max(norms), largest, f"largest gradient norm {step}", GRADIENT)
    limit = run.clip.max_norm if run.clip is not None else float("inf")
    clipped = sum(limit / (norm + 1e-6) < 1 for norm in norms)
    case.number(clipped, components["tensors_clipped"][step], f"tensors clipped {step}", 0.0)


REPLAYS = {"droppos": replay}
