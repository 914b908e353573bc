"""Replay of DINOv2's losses alone: targets by centre and by Sinkhorn, both terms, KoLeo."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steps.methods.losses import all_pairs, koleo, masked_patches, patch_weights
from steps.models.center import LazyCenter, sinkhorn_knopp
from tests.golden.case import GRADIENT, Case
from tests.golden.ranks import on_ranks


def replay(case: Case) -> None:
    """Each part with the recorded inputs, on one process and on as many as were recorded."""
    _check_targets(case, "dino", "teacher_logits", (1,))
    _check_targets(case, "ibot", "teacher_masked_logits", (1, 1))
    expected = dict(case.facts["expected"])
    ours = {**_class_loss(case), **_patch_losses(case), **_koleo(case)}
    recorded = expected.pop("loss")
    assert sorted(expected.values()) == sorted(recorded)
    assert expected.keys() == ours.keys()
    for name, value in ours.items():
        case.number(value, expected[name], name)
    _check_ranks(case)


def _check_targets(case: Case, room: str, inputs: str, shape: tuple[int, ...]) -> None:
    """The centre call by call, softmax targets, Sinkhorn at each temperature and length."""
    options, prototypes = case.facts["options"], case.facts["model"]["prototypes"]
    temps = options["teacher_temps"]
    center = LazyCenter(*shape, prototypes, momentum=options["center_momentum"])
    calls = sorted(case.group(f"{room}/input/{inputs}").items(), key=lambda item: int(item[0]))
    for index, logits in calls:
        temp = temps[int(index) % len(temps)]
        case.equal(center.used, f"{room}/output/center_used{index}")
        softmax = F.softmax((logits - center.used) / temp, dim=-1)
        case.equal(softmax, f"{room}/output/softmax_center{index}")
        center.accumulate(logits)
        center.update()
    case.equal(center.used, f"{room}/output/center_final")
    first = calls[0][1]
    for name in [name for name in case.tensors if name.startswith(f"{room}/output/sinkhorn_")]:
        found = re.fullmatch(r".*/sinkhorn_(temp|iter)(\d+)", name)
        assert found is not None, name
        number = int(found.group(2))
        if found.group(1) == "temp":
            targets = sinkhorn_knopp(first, temps[number], options["sinkhorn_iterations"])
        else:
            targets = sinkhorn_knopp(first, temps[0], number)
        case.equal(targets, name)


def _class_loss(case: Case) -> dict[str, float]:
    options = case.facts["options"]
    students = [
        logits.requires_grad_(True)
        for _, logits in sorted(case.group("dino/input/student_logits").items())
    ]
    targets = case["dino/output/sinkhorn_temp0"]
    views = targets.view(-1, *students[0].shape)
    loss = all_pairs(students, list(views), options["student_temp"])
    loss.backward()
    for index, student in enumerate(students):
        case.equal(_gradient(student), f"dino/grad/student_logits{index}", GRADIENT)
    return {f"dino_loss_{len(students)}x{len(views)}_pairs": loss.item()}


def _patch_losses(case: Case) -> dict[str, float]:
    """Dense, masked with its own weights, and masked with others behind padding."""
    temp, mask = case.facts["options"]["student_temp"], case["ibot/draw/masks"]
    targets, rows = case["ibot/input/teacher_probs"][mask], len(mask)
    dense = case["ibot/input/student_logits"].clone().requires_grad_(True)
    whole = masked_patches(dense[mask], targets, patch_weights(mask), rows, temp)
    whole.backward()
    case.equal(_gradient(dense), "ibot/grad/student_logits_dense", GRADIENT)

    masked = dense.detach()[mask].requires_grad_(True)
    alone = masked_patches(masked, targets, patch_weights(mask), rows, temp)
    alone.backward()
    case.equal(_gradient(masked), "ibot/grad/student_logits_masked", GRADIENT)

    padding = case["ibot/input/padding_rows"]
    padded = torch.cat([masked.detach(), padding]).requires_grad_(True)
    weights = case["ibot/input/masks_weight_custom"]
    weighted = masked_patches(padded[: len(targets)], targets, weights, rows, temp)
    weighted.backward()
    case.equal(_gradient(padded), "ibot/grad/student_logits_padded", GRADIENT)
    return {
        "ibot_loss_dense": whole.item(),
        "ibot_loss_masked": alone.item(),
        "ibot_loss_masked_padded_weighted": weighted.item(),
    }


def _koleo(case: Case) -> dict[str, float]:
    losses = {}
    for name in sorted(case.group("koleo/input/")):
        features = case[f"koleo/input/{name}"].requires_grad_(True)
        loss = koleo(features)
        loss.backward()
        case.equal(_gradient(features), f"koleo/grad/{name}", GRADIENT)
        losses[name.replace("features", "koleo_loss")] = loss.item()
    return losses


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _check_ranks(case: Case) -> None:
    """Sinkhorn over the rows of all processes, and centres that average the processes."""
    names = [name.split("/") for name in case.tensors if name.startswith("dist2/")]
    ranks = sorted({rank for _, rank, *_ in names})
    inputs = [case.group(f"dist2/{rank}/input/") for rank in ranks]
    results = on_ranks(_rank, [(case.facts, given) for given in inputs])
    for rank, outputs in zip(ranks, results, strict=True):
        for name, ours in outputs.items():
            case.equal(ours, f"dist2/{rank}/output/{name}")


def _rank(facts: dict[str, Any], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What one process makes of its own rows beside those of the others."""
    options, prototypes = facts["options"], facts["model"]["prototypes"]
    outputs = {}
    for kind, room, shape in (("cls", "dino", (1,)), ("patch", "ibot", (1, 1))):
        logits = given[f"{kind}_logits"]
        outputs[f"{room}_sinkhorn"] = sinkhorn_knopp(
            logits, options["teacher_temps"][0], options["sinkhorn_iterations"]
        )
        center = LazyCenter(
            *shape, prototypes, momentum=options["center_momentum"], equal_processes=True
        )
        center.accumulate(logits)
        center.update()
        outputs[f"{room}_center"] = center.used
    return outputs
