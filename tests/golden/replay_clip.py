"""Replay of openai/CLIP, trained as by mlfoundations/open_clip, and of open_clip's SigLIP loss."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.distributed import gather, rank
from steps.core.schedules import Progress, learning_rate
from steps.engine.optimizers import set_rates
from steps.methods import Batch, MethodContext
from steps.methods.clip import CLIP, image_text_logits, image_text_softmax
from steps.models.backbones import create_backbone
from steps.official.names import from_official
from steps.params.backbone import Backbone
from steps.params.methods.clip import CLIPParams, SigmoidLoss, SoftmaxLoss
from steps.params.recipe import Optimizer, Schedule
from steps.params.text import TextTransformer, Vocabulary
from tests.golden.case import GRADIENT, LOSS, Case
from tests.golden.ranks import on_ranks
from tests.golden.training import check_gradients, check_groups, check_weights

Results = dict[str, Tensor]
OURS = "local1_gathergrad1"
"""How we gather, of the ways that open_clip has."""


def replay(case: Case) -> None:
    """Outputs, losses, gradients, schedule, clamp, final weights, and the ways of gathering."""
    facts, expected = case.facts, case.facts["expected"]
    assert facts["options"]["world_size"] == 1, "recorded on several processes"
    arguments = facts["schedule"]["args"]
    method = _method(case)
    method.load_state_dict(from_official("clip", case.group("init/")))
    groups = facts["optimizer"]["groups"]
    optimizer_params = Optimizer(
        name="adamw",
        lr=arguments["lr"],
        lr_batch=None,
        betas=facts["optimizer"]["betas"],
        eps=facts["optimizer"]["eps"],
        weight_decay=max(group["weight_decay"] for group in groups),
        undecayed=["cls_token"],
    )
    optimizer = check_groups(case, method, optimizer_params, facts["model"]["vision"]["layers"])
    for table in ("schedule", "schedule_published_length"):
        _check_learning_rates(case, table)
    zero = facts.get("zero_gradient_tensors", [])

    for step in range(facts["steps"]):
        progress, lr = _rate(arguments, step)
        case.number(lr, expected["lr"][step], f"lr of step {step}", 1e-9)
        set_rates(optimizer, lr, optimizer_params.weight_decay)
        images, ids = case[f"step{step}/input/images"], case[f"step{step}/input/text_ids"]
        if step == 0:
            _check_outputs(case, method, images, ids)
        losses = method(Batch([images], torch.empty(0), ids), {}, progress)
        case.number(losses["loss"].item(), expected["loss"][step], f"loss {step}")
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if step == 0:
            check_gradients(case, method, zero)
        _check_scale(case, method, "logit_scale_before", step)
        optimizer.step()
        method.after_step(progress)
        _check_scale(case, method, "logit_scale_after", step)
    check_weights(case, method.state_dict(), zero)

    for before, after in facts["clamp_table"]:
        nn.init.constant_(method.logit_scale, before)
        method.after_step(Progress(0, 1, 1))
        case.number(method.logit_scale.item(), after, f"clamp of {before}", 1e-6)
    _check_ways_of_gathering(case)


def _method(case: Case) -> CLIP:
    model, options = case.facts["model"], case.facts["options"]
    vision, text = model["vision"], model["text"]
    assert not vision["conv_bias"], "the published tower has none"
    quick = "quick" in model["act"]
    backbone = Backbone(
        scale="golden",
        architecture=f"vit_base_patch16_clip_{'quickgelu_' if quick else ''}224",
        image_size=vision["img_size"],
        patch_size=vision["patch_size"],
        model_args={
            "embed_dim": vision["width"],
            "depth": vision["layers"],
            "num_heads": vision["heads"],
            "mlp_ratio": float(model["mlp_ratio"]),
        },
    )
    params = CLIPParams(
        name="clip",
        embed_dim=model["embed_dim"],
        text_tower=TextTransformer(
            context_length=text["context_length"],
            width=text["width"],
            depth=text["layers"],
            num_heads=text["heads"],
            activation="quick_gelu" if quick else "gelu",
            causal=text["causal"],
        ),
        vocabulary=Vocabulary(file="as recorded"),
        loss=SoftmaxLoss(
            name="softmax",
            logit_scale=options["logit_scale_init"],
            logit_scale_clamp=options["logit_scale_clamp"],
        ),
    )
    method = CLIP(params, create_backbone(backbone), MethodContext(vocabulary=text["vocab_size"]))
    case.number(method.logit_scale.item(), options["logit_scale_init"], "initial logit_scale", 1e-6)
    norms = [module for module in method.modules() if isinstance(module, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {model["norm_eps"]}
    return method


def _rate(arguments: dict[str, float], step: int) -> tuple[Progress, float]:
    """A step's place and learning rate: warm-up and length are given in iterations."""
    schedule = Schedule(warmup_epochs=arguments["warmup_iterations"], ramp="shifted")
    progress = Progress(step, 1, int(arguments["total_iterations"]))
    return progress, learning_rate(progress, schedule, arguments["lr"])


def _check_learning_rates(case: Case, table: str) -> None:
    for step, value in case.facts[table]["lr"]:
        _, lr = _rate(case.facts[table]["args"], step)
        case.number(lr, value, f"{table}.lr[{step}]", 1e-9)


def _check_outputs(case: Case, method: CLIP, images: Tensor, ids: Tensor) -> None:
    with torch.no_grad():
        image, text = method.image_features(images), method.text_features(ids)
        case.equal(image, "step0/output/image_features")
        case.equal(text, "step0/output/text_features")
        image, text = F.normalize(image, dim=1), F.normalize(text, dim=1)
        scale = method.logit_scale.exp()
        case.equal(image_text_logits(image, text, scale), "step0/output/logits_per_image")
        case.equal(image_text_logits(text, image, scale), "step0/output/logits_per_text")


def _check_scale(case: Case, method: CLIP, key: str, step: int) -> None:
    theirs = case.facts["expected"][key][step]
    case.number(method.logit_scale.item(), theirs, f"{key} of step {step}", 1e-6)


def _check_ways_of_gathering(case: Case) -> None:
    """Each way's loss and gradients in each of two processes.

    Ours, and only the mean over processes of ours, has the gradient of the whole batch.
    """
    found = re.search(r"logit_scale parameter ([0-9.]+)", str(case.facts["tensors"]))
    assert found is not None, "the note on dist2 says which logit_scale it was recorded with"
    scale = float(found.group(1))
    expected = case.facts["expected"]
    inputs = [
        (case[f"dist2/rank{r}/input/image"], case[f"dist2/rank{r}/input/text"], scale)
        for r in range(2)
    ]
    ranks = on_ranks(_gather_each_way, inputs)
    for place, ways in enumerate(ranks):
        assert ways.keys() == expected["dist2_loss_per_rank"].keys()
        for way, results in ways.items():
            name = f"rank {place}, {way}"
            loss = expected["dist2_loss_per_rank"][way][place]
            case.number(results["loss"].item(), loss, f"loss of {name}")
            slope = expected["dist2_logit_scale_grad_per_rank"][way][place]
            case.number(results["logit_scale"].item(), slope, f"scale of {name}", GRADIENT)
            for tower in ("image", "text"):
                case.equal(results[tower], f"dist2/rank{place}/grad/{way}/{tower}", GRADIENT)
    whole = _ours(*(torch.cat([rows[i] for rows in inputs]) for i in range(2)), scale)
    for tower in ("image", "text"):
        mean = torch.cat([ways[OURS][tower] for ways in ranks]) / len(ranks)
        case.close(mean, whole[tower], f"mean {tower} gradient", GRADIENT)


def _gather_each_way(image: Tensor, text: Tensor, scale: float) -> dict[str, Results]:
    others = {
        f"local{local:d}_gathergrad{carries:d}": _theirs(image, text, scale, local, carries)
        for local, carries in ((False, False), (False, True), (True, False))
    }
    return {**others, OURS: _ours(image, text, scale)}


def _ours(image: Tensor, text: Tensor, scale: float) -> Results:
    """What ``CLIP`` does: own pairs are the queries, and what it gathers carries gradient."""
    return _learn(SoftmaxLoss(name="softmax", logit_scale=scale), image, text)


def _theirs(image: Tensor, text: Tensor, scale: float, local: bool, carries: bool) -> Results:
    """Another way of gathering, around our loss.

    Args:
        local: own pairs are the queries; else all pairs are, in each process.
        carries: what was gathered carries gradient to its process.
    """
    leaves = _leaves(image, text)
    logit_scale = torch.tensor(scale, requires_grad=True)
    own = [F.normalize(rows, dim=1) for rows in leaves]
    first = rank() * len(image)
    everyone = [gather(rows) if carries else gather(rows.detach()).clone() for rows in own]
    if not carries and not local:
        for rows, mine in zip(everyone, own, strict=True):
            rows[first : first + len(mine)] = mine
    queries, first = (own, first) if local else (everyone, 0)
    loss = image_text_softmax(*queries, *everyone, logit_scale.exp(), first)
    loss.backward()
    return _gradients(loss, image=leaves[0], text=leaves[1], logit_scale=logit_scale)


def _learn(loss_params: SoftmaxLoss | SigmoidLoss, image: Tensor, text: Tensor) -> Results:
    """The loss that ``CLIP`` takes of towers' features, and all its gradients."""
    backbone = Backbone(
        scale="golden",
        architecture="vit_tiny_patch16_224",
        image_size=8,
        patch_size=8,
        model_args={"embed_dim": 8, "depth": 1, "num_heads": 1},
    )
    params = CLIPParams(
        name="clip",
        embed_dim=image.shape[1],
        text_tower=TextTransformer(context_length=3, width=8, depth=1, num_heads=1),
        vocabulary=Vocabulary(size=258),
        loss=loss_params,
    )
    method = CLIP(params, create_backbone(backbone), MethodContext(vocabulary=258))
    leaves = _leaves(image, text)
    own = [F.normalize(rows, dim=1) for rows in leaves]
    for rows in own:
        rows.retain_grad()
    losses = method.losses({"image": own[0], "text": own[1]}, {}, Progress(0, 1, 1))
    losses["loss"].backward()
    learnt = dict(method.named_parameters(recurse=False))
    return _gradients(
        losses["loss"],
        image=leaves[0],
        text=leaves[1],
        image_normalised=own[0],
        text_normalised=own[1],
        **learnt,
    )


def _leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.clone().requires_grad_(True) for tensor in tensors]


def _gradients(loss: Tensor, **leaves: Tensor) -> Results:
    gradients = {name: leaf.grad for name, leaf in leaves.items()}
    return {"loss": loss.detach(), **{k: g for k, g in gradients.items() if g is not None}}


def replay_siglip(case: Case) -> None:
    """Logits, loss and gradients in one process, and in two."""
    options, expected = case.facts["options"], case.facts["expected"]
    params = SigmoidLoss(
        name="sigmoid", logit_scale=options["logit_scale_log"], logit_bias=options["logit_bias"]
    )
    published, defaults = options["published_init"], SigmoidLoss(name="sigmoid")
    case.number(defaults.logit_scale, published["logit_scale_log"], "published scale", 1e-9)
    case.number(defaults.logit_bias, published["logit_bias"], "published bias", 1e-9)
    image, text = case["input/image"], case["input/text"]
    scale = torch.tensor(params.logit_scale).exp()
    logits = image_text_logits(F.normalize(image, dim=1), F.normalize(text, dim=1), scale)
    case.equal(logits + params.logit_bias, "output/logits")

    results = _learn(params, image, text)
    numbers = {"loss": expected["loss"][0]}
    numbers |= {key: expected[f"{key}_grad"] for key in ("logit_scale", "logit_bias")}
    _check_numbers(case, results, numbers, "one process")
    for tower in ("image", "text"):
        case.equal(results[tower], f"grad/{tower}", GRADIENT)
        case.equal(results[f"{tower}_normalised"], f"grad/{tower}_normalised", GRADIENT)

    losses = expected["dist2_loss_per_rank"]
    inputs = [
        (params, case[f"dist2/rank{r}/input/image"], case[f"dist2/rank{r}/input/text"])
        for r in range(len(losses))
    ]
    for place, results in enumerate(on_ranks(_learn, inputs)):
        numbers = {"loss": losses[place]}
        for key in ("logit_scale", "logit_bias"):
            numbers[key] = expected[f"dist2_{key}_grad_per_rank"][place]
        _check_numbers(case, results, numbers, f"rank {place}")
        for tower in ("image", "text"):
            case.equal(results[tower], f"dist2/rank{place}/grad/{tower}", GRADIENT)


def _check_numbers(case: Case, results: Results, expected: dict[str, float], name: str) -> None:
    for key, value in expected.items():
        case.number(
            results[key].item(), value, f"{key}, {name}", LOSS if key == "loss" else GRADIENT
        )


REPLAYS = {"clip": replay, "siglip": replay_siglip}
