"""The DINOv2 model that a case describes."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer

from steps.methods import MethodContext
from steps.methods.dinov2 import DINOv2
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.methods.dinov2 import DINOv2Params, Masks, Positions
from steps.params.methods.method import PrototypeHead
from tests.golden.case import Case


def backbone_of(model: dict[str, Any]) -> VisionTransformer:
    """The backbone of ``case.json``'s ``model``, in timm's layout."""
    registers, gated = model["num_register_tokens"], model["ffn"] != "mlp"
    # A gated MLP's first layer is twice as wide; half a unit keeps the product from rounding down.
    hidden = model["ffn_hidden"] * (2 if gated else 1)
    biases = {model["qkv_bias"], model.get("proj_bias", True), model.get("ffn_bias", True)}
    arguments: dict[str, Any] = {
        "embed_dim": model["embed_dim"],
        "depth": model["depth"],
        "num_heads": model["num_heads"],
        "mlp_ratio": (hidden + 0.5) / model["embed_dim"],
        "qkv_bias": model["qkv_bias"],
        "init_values": model["layer_scale_init"] or 0.0,
    }
    if False in biases:
        assert model.get("proj_bias", True) == model.get("ffn_bias", True)
        arguments["proj_bias"] = model.get("proj_bias", True)
    if registers:
        arguments |= {"reg_tokens": registers, "no_embed_class": True}
    return create_backbone(
        Backbone(
            scale="golden",
            architecture="vit_giant_patch14_dinov2" if gated else "vit_small_patch14_dinov2",
            image_size=model["img_size"],
            patch_size=model["patch_size"],
            model_args=arguments,
        )
    )


def method_of(case: Case, table: str = "schedule") -> DINOv2:
    """The method, with the lengths of one of the case's schedules."""
    facts, options = case.facts, case.facts["options"]
    model, arguments = facts["model"], facts[table]["args"]

    def head(sizes: dict[str, int]) -> PrototypeHead:
        return PrototypeHead(
            layers=sizes["nlayers"],
            hidden_dim=sizes["hidden_dim"],
            bottleneck_dim=sizes["bottleneck_dim"],
            out_dim=sizes["out_dim"],
            norm_last_layer=False,
        )

    low, high = options["mask_ratio_min_max"]
    params = DINOv2Params(
        name="dinov2",
        head=head(model["dino_head"]),
        patch_head=head(model["ibot_head"]) if options["ibot_separate_head"] else None,
        masks=Masks(probability=options["mask_sample_probability"], ratios=[low, high]),
        dino_weight=options["dino_loss_weight"],
        ibot_weight=options["ibot_loss_weight"],
        koleo_weight=options["koleo_loss_weight"],
        centering=options["centering"],
        sinkhorn_iterations=options["sinkhorn_iterations"],
        center_momentum=options["center_momentum"],
        student_temp=options["student_temp"],
        teacher_temp=arguments["teacher_temp"],
        warmup_teacher_temp=arguments["warmup_teacher_temp"],
        warmup_teacher_temp_epochs=float(arguments["warmup_teacher_temp_epochs"]),
        momentum=arguments["momentum_teacher"],
        momentum_end=float(arguments.get("momentum_end", 1.0)),
        freeze_last_layer_epochs=options["freeze_last_layer_epochs"],
        drop_path=model["drop_path"],
        drop_path_uniform=model.get("drop_path_uniform", True),
        positions=Positions(
            offset=model["interpolate_offset"], antialias=model["interpolate_antialias"]
        ),
    )
    sides = [model["img_size"]] * options["global_crops"]
    sides += [model["local_size"]] * options["local_crops"]
    return DINOv2(params, backbone_of(model), MethodContext(sides=tuple(sides)))
