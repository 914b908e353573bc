"""Replay of bytedance/ibot: training steps with either head, and its loss alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from steps.core.schedules import Progress
from steps.methods import Draws, MethodContext
from steps.methods.ibot import IBOT
from steps.models.multicrop import by_sample, by_view
from steps.official.names import from_official
from steps.params.masks import RatioMasks
from steps.params.methods.ibot import IBOTParams
from steps.params.methods.method import PatchPrototypeHead
from tests.golden.case import Case
from tests.golden.dino_family import (
    Given,
    backbone_of,
    check_temperatures,
    inputs_of_call,
    replay_losses,
    replay_training,
    sides,
    temperature,
)

TEMPERATURES = ("teacher_temp", "teacher_patch_temp")
SHAPES = {"block": "block", "rand": "random"}


class Recorded(IBOT):
    """Takes masks as they are: before the start epoch the reference's loader gives none."""

    def mask(self, draws: Draws, progress: Progress) -> Tensor:
        return draws["mask"]


def replay(case: Case) -> None:
    """Dispatch on what the case records."""
    if case.facts["steps"] == 0:
        check_temperatures(case, loss_alone(case.facts), TEMPERATURES)
        replay_losses(case, call, TEMPERATURES)
        return
    method = _method(case)
    method.load_state_dict(from_official("ibot", case.group("init/")))
    replay_training(
        case,
        method,
        draws=partial(_draws, case),
        outputs=partial(_check_outputs, case),
        temperatures=TEMPERATURES,
    )


def _method(case: Case) -> IBOT:
    model, options = case.facts["model"], case.facts["options"]
    arguments, head = case.facts["schedule"]["args"], case.facts["model"]["head"]
    assert head["norm"] is None, "a head with a norm is not replayed yet"
    params = IBOTParams(
        name="ibot",
        global_views=options["global_crops"],
        masks=RatioMasks(
            shape=SHAPES[options["pred_shape"]],
            ratios=_list(options["pred_ratio"]),
            variances=_list(options["pred_ratio_var"]),
            start_epoch=options["pred_start_epoch"],
        ),
        head=PatchPrototypeHead(
            layers=head["nlayers"],
            hidden_dim=head["hidden_dim"],
            bottleneck_dim=head["bottleneck_dim"],
            out_dim=head["out_dim"],
            patch_out_dim=head["patch_out_dim"],
            norm_last_layer=head["norm_last_layer"],
            shared=head["shared_head"],
            shared_teacher=head["shared_head_teacher"],
        ),
        dino_weight=options["lambda1"],
        ibot_weight=options["lambda2"],
        student_temp=options["student_temp"],
        teacher_temp=arguments["teacher_temp"],
        warmup_teacher_temp=arguments["warmup_teacher_temp"],
        teacher_patch_temp=arguments["teacher_patch_temp"],
        warmup_teacher_patch_temp=arguments["warmup_teacher_patch_temp"],
        warmup_teacher_temp_epochs=arguments["warmup_teacher_temp_epochs"],
        momentum=arguments["momentum_teacher"],
        momentum_end=arguments["momentum_end"],
        center_momentum=options["center_momentum"],
        patch_center_momentum=options["center_momentum2"],
        freeze_last_layer_epochs=options["freeze_last_layer_epochs"],
        drop_path=model["drop_path"],
    )
    return Recorded(params, backbone_of(model), MethodContext(sides=tuple(sides(case))))


def _list(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def _draws(case: Case, step: int) -> Draws:
    crops = range(case.facts["options"]["global_crops"])
    masks = [case[f"step{step}/draw/mask{crop}"].flatten(1) for crop in crops]
    return {"mask": torch.stack(masks, dim=1)}


def _check_outputs(case: Case, method: IBOT, crops: list[Tensor], draws: Draws) -> None:
    first = case.facts["options"]["global_crops"]
    student = method.student.tokens(crops[:first], draws["mask"], method.mask_token)
    for name, network, (classes, patches) in (
        ("teacher", method.teacher, method.teacher.tokens(crops[:first])),
        ("student", method.student, student),
    ):
        case.equal(network.head(by_view(classes)), f"step0/output/{name}_cls_logits")
        case.equal(network.head.patches(by_view(patches)), f"step0/output/{name}_patch_logits")
    if len(crops) > first:
        local = method.student.head(by_view(method.student.classes(crops[first:])))
        case.equal(local, "step0/output/student_local_cls_logits")


def loss_alone(facts: dict[str, Any]) -> IBOT:
    """iBOT without networks: its features are the logits."""
    options, model = facts["options"], facts["model"]
    params = IBOTParams(
        name="ibot",
        global_views=options["global_crops"],
        masks=RatioMasks(
            shape="block", ratios=[0.3], variances=[0.0], start_epoch=options["pred_start_epoch"]
        ),
        head=PatchPrototypeHead(
            hidden_dim=1,
            bottleneck_dim=1,
            out_dim=model["out_dim"],
            patch_out_dim=model["patch_out_dim"],
            shared=False,
            shared_teacher=False,
        ),
        dino_weight=options["lambda1"],
        ibot_weight=options["lambda2"],
        student_temp=options["student_temp"],
        teacher_temp=options["teacher_temp"],
        warmup_teacher_temp=options["warmup_teacher_temp"],
        teacher_patch_temp=options["teacher_patch_temp"],
        warmup_teacher_patch_temp=options["warmup_teacher_patch_temp"],
        warmup_teacher_temp_epochs=options["warmup_teacher_temp_epochs"],
        momentum=1.0,
        center_momentum=options["center_momentum"],
        patch_center_momentum=options["center_momentum2"],
    )
    tiny = {"img_size": 8, "patch_size": 8, "embed_dim": 4, "depth": 1, "num_heads": 1}
    backbone = backbone_of({**tiny, "mlp_ratio": 1, "qkv_bias": True})
    views = options["global_crops"] + options["local_crops"]
    method = Recorded(params, backbone, MethodContext(sides=(8,) * views))
    method.student.head, method.teacher.head = Given(), Given()
    return method


def call(
    facts: dict[str, Any], tensors: dict[str, Tensor], epochs: list[int]
) -> list[dict[str, Any]]:
    """Successive calls of one loss object, the centres moving after each."""
    method, results = loss_alone(facts), []
    views = method.params.global_views
    for index, epoch in enumerate(epochs):
        inputs, progress = inputs_of_call(tensors, index), Progress(epoch, 1, 10**6)
        student, patches = inputs["student_logits"], inputs["student_patch_logits"]
        encoded = {
            "student_class": by_sample(student, method.views),
            "student_patches": by_sample(patches, views),
            "teacher_class": by_sample(inputs["teacher_logits"], views),
            "teacher_patches": by_sample(inputs["teacher_patch_logits"], views),
        }
        draws = {"mask": by_sample(inputs["mask"].flatten(1), views)}
        losses = method.losses(encoded, draws, progress)
        losses["loss"].backward()
        method.center.update()
        method.patch_center.update()
        results.append(
            {
                **{name: losses[name].item() for name in ("loss", "cls", "patch")},
                "gradients": {"student_logits": student.grad, "student_patch_logits": patches.grad},
                "center": method.center.value.clone(),
                "patch_center": method.patch_center.value.clone(),
                **{name: temperature(method, name, progress) for name in TEMPERATURES},
            }
        )
    return results


REPLAYS = {"ibot": replay}
