"""Replay of facebookresearch/dino: training steps, and its loss alone."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from steps.core.schedules import Progress
from steps.methods import Draws, MethodContext
from steps.methods.dino import DINO
from steps.models.multicrop import by_sample, by_view
from steps.models.positions import resize_table
from steps.official.names import from_official
from steps.params.methods.dino import DINOParams
from steps.params.methods.method import PrototypeHead
from tests.golden.case import Case
from tests.golden.dino_family import (
    Given,
    backbone_of,
    check_temperatures,
    inputs_of_call,
    replay_losses,
    replay_training,
    temperature,
)

TEMPERATURES = ("teacher_temp",)


def replay(case: Case) -> None:
    """Dispatch on what the case records."""
    if case.facts["steps"] == 0:
        check_temperatures(case, loss_alone(case.facts), TEMPERATURES)
        replay_losses(case, call, TEMPERATURES)
        return
    method = _method(case)
    method.load_state_dict(from_official("dino", case.group("init/")))
    replay_training(
        case,
        method,
        draws=lambda step: {},
        outputs=partial(_check_outputs, case),
        temperatures=TEMPERATURES,
    )


def _method(case: Case) -> DINO:
    model, options = case.facts["model"], case.facts["options"]
    arguments, head = case.facts["schedule"]["args"], case.facts["model"]["head"]
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
    return DINO(params, backbone_of(model), MethodContext(views=views))


def _check_outputs(case: Case, method: DINO, crops: list[Tensor], draws: Draws) -> None:
    targets, vit = case.facts["options"]["global_crops"], method.student.backbone
    seen, classes = method.teacher.classes(crops[:targets]), method.student.classes(crops)
    case.equal(method.teacher.head(by_view(seen)), "step0/output/teacher_logits")
    case.equal(method.student.head(by_view(classes)), "step0/output/student_logits")
    case.equal(by_view(classes[:, :targets]), "step0/output/student_global_cls")
    if len(crops) > targets:
        case.equal(by_view(classes[:, targets:]), "step0/output/student_local_cls")
        grid = crops[-1].shape[-1] // vit.patch_embed.patch_size[0]
        table = resize_table(vit.pos_embed, (grid, grid))
        case.equal(table, "step0/output/local_pos_embed")


def loss_alone(facts: dict[str, Any]) -> DINO:
    """DINO without networks: its features are the logits."""
    options, prototypes = facts["options"], facts["model"]["out_dim"]
    params = DINOParams(
        name="dino",
        global_views=options["global_crops"],
        head=PrototypeHead(hidden_dim=1, bottleneck_dim=1, out_dim=prototypes),
        student_temp=options["student_temp"],
        teacher_temp=options["teacher_temp"],
        warmup_teacher_temp=options["warmup_teacher_temp"],
        warmup_teacher_temp_epochs=options["warmup_teacher_temp_epochs"],
        momentum=1.0,
        center_momentum=options["center_momentum"],
    )
    tiny = {"img_size": 8, "patch_size": 8, "embed_dim": 4, "depth": 1, "num_heads": 1}
    backbone = backbone_of({**tiny, "mlp_ratio": 1, "qkv_bias": True})
    views = options["global_crops"] + options["local_crops"]
    method = DINO(params, backbone, MethodContext(views=views))
    method.student.head, method.teacher.head = Given(), Given()
    return method


def call(
    facts: dict[str, Any], tensors: dict[str, Tensor], epochs: list[int]
) -> list[dict[str, Any]]:
    """Successive calls of one loss object, the centre moving after each."""
    method, results = loss_alone(facts), []
    for index, epoch in enumerate(epochs):
        inputs, progress = inputs_of_call(tensors, index), Progress(epoch, 1, 10**6)
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        encoded = {
            "student": by_sample(student, method.views),
            "teacher": by_sample(teacher, method.params.global_views),
        }
        losses = method.losses(encoded, {}, progress)
        losses["loss"].backward()
        method.center.update()
        results.append(
            {
                "loss": losses["loss"].item(),
                "gradients": {"student_logits": student.grad},
                "center": method.center.value.clone(),
                **{name: temperature(method, name, progress) for name in TEMPERATURES},
            }
        )
    return results


REPLAYS = {"dino": replay}
