"""Replay of MP3, whose numbers come from its formula: no official code is published."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from steps.core.schedules import Progress
from steps.engine.optimizers import clip_gradients, set_rates
from steps.methods import Batch, MethodContext
from steps.methods.mp3 import MP3
from steps.params.methods.mp3 import MP3Params
from steps.params.recipe import ClipGrad, Optimizer
from tests.golden.case import Case
from tests.golden.masked import encoder, known, load
from tests.golden.training import check_gradients, check_groups, check_weights

COMPONENTS = {"context_tokens": "context_loss", "other_tokens": "other_loss"}
"""Ours, by the recorded name."""


def replay(case: Case) -> None:
    """Outputs, losses of both kinds of tokens, gradients and final weights."""
    facts, expected = case.facts, case.facts["expected"]
    known(expected, "loss", "accuracy", "lr", "components")
    known(expected["components"], *COMPONENTS)
    method = _method(case)
    load(case, method)
    (decay,) = {g["weight_decay"] for g in facts["optimizer"]["groups"] if g["weight_decay"]}
    params = Optimizer(
        name="adamw",
        lr=max(expected["lr"]),
        betas=facts["optimizer"]["betas"],
        eps=facts["optimizer"]["eps"],
        weight_decay=decay,
    )
    optimizer = check_groups(case, method, params, facts["model"]["depth"])
    limit = facts["optimizer"].get("clip_grad")
    zero = facts.get("zero_gradient_tensors", [])
    for step in range(facts["steps"]):
        set_rates(optimizer, expected["lr"][step], decay)
        images, chosen = case[f"step{step}/input/images"], case[f"step{step}/draw/context"]
        assert (chosen.sum(dim=1) == method.context_size).all(), "not the recorded context size"
        context = chosen.int().argsort(dim=1, descending=True)[:, : method.context_size]
        if step == 0:
            _check_outputs(case, method, images, context)
        batch, progress = Batch([images], torch.empty(0)), Progress(step, 1, facts["steps"])
        losses = method(batch, {"context": context}, progress)
        case.number(losses["loss"].item(), expected["loss"][step], f"loss {step}")
        accuracy = losses["position_accuracy"].item()
        case.number(accuracy, expected["accuracy"][step], f"accuracy {step}")
        for theirs, ours in COMPONENTS.items():
            value = expected["components"][theirs][step]
            case.number(losses[ours].item(), value, f"{theirs} {step}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if step == 0:
            check_gradients(case, method, zero)
        if limit:
            clip_gradients(method.parameters(), ClipGrad(max_norm=limit, scope="global"))
        optimizer.step()
        method.after_step(progress)
    check_weights(case, method.state_dict(), zero)


def _method(case: Case) -> MP3:
    model, options = case.facts["model"], case.facts["options"]
    known(options, "batch_size", "mask_ratio", "context_tokens", "mask_count_rule", "clip_grad")
    assert model["pos_embed"] is None, "MP3 has no positions"
    arguments = {"pos_embed": "none", "class_token": model["class_token"]}
    if not model["class_token"]:
        # The final norm stays the norm over tokens.
        arguments |= {"global_pool": "avg", "fc_norm": False}
    method = MP3(
        MP3Params(name="mp3", mask_ratio=options["mask_ratio"]),
        encoder(case, **arguments),
        MethodContext(),
    )
    case.number(method.context_size, options["context_tokens"], "context tokens", 0.0)
    return method


@torch.no_grad()
def _check_outputs(case: Case, method: MP3, images: Tensor, context: Tensor) -> None:
    features = method.features(images, context)
    logits = method.logits(features)
    places = torch.arange(method.patches).expand(len(images), -1)
    case.equal(features, "step0/output/features")
    case.equal(logits, "step0/output/logits")
    errors = F.cross_entropy(logits.transpose(1, 2), places, reduction="none")
    case.equal(errors, "step0/output/cross_entropy")
    case.equal(
        method.logits(method.features(images, places)), "step0/output/logits_without_masking"
    )


REPLAYS = {"mp3": replay}
