"""Replay of facebookresearch/mae."""

from __future__ import annotations

import torch
from torch import Tensor

from steps.methods import Batch, MethodContext
from steps.methods.mae import MAE
from steps.models.tokens import patch_tokens
from steps.params.methods.mae import MAEParams
from tests.golden.case import GRADIENT, Case
from tests.golden.masked import Run, decoder, encoder, known, load


def replay(case: Case) -> None:
    """Outputs, losses, gradients, schedule and final weights."""
    options, expected = case.facts["options"], case.facts["expected"]
    known(options, "mask_ratio", "norm_pix_loss", "clip_grad")
    known(expected, "loss", "lr", "weight_decay", "grad_norm")
    params = MAEParams(
        name="mae",
        mask_ratio=options["mask_ratio"],
        norm_pix_loss=options["norm_pix_loss"],
        decoder=decoder(case),
    )
    method = MAE(params, encoder(case), MethodContext())
    load(case, method)
    run = Run.of(case, method, "global")
    for step, progress in run.steps():
        images = case[f"step{step}/input/images"]
        noise = case[f"step{step}/draw/noise"]
        _, masking = method.encode(images, noise)
        case.equal(masking.restore, f"step{step}/output/ids_restore")
        if step == 0:
            _check_outputs(case, method, images, noise)
        losses = method(Batch([images], torch.empty(0)), {"noise": noise}, progress)
        norms = run.update(step, losses["loss"])
        if "grad_norm" in expected:
            norm = torch.tensor(norms).norm().item()
            case.number(norm, expected["grad_norm"][step], f"grad norm {step}", GRADIENT)


@torch.no_grad()
def _check_outputs(case: Case, method: MAE, images: Tensor, noise: Tensor) -> None:
    latent, masking = method.encode(images, noise)
    case.equal(patch_tokens(method.backbone, images), "step0/output/patch_embed")
    case.equal(masking.removed.float(), "step0/output/mask")
    case.equal(latent, "step0/output/latent")
    case.equal(method.decoder(latent, masking.restore), "step0/output/pred")
    case.equal(method.targets(images), "step0/output/target")


REPLAYS = {"mae": replay}
