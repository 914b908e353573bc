"""The networks that cases record, as our backbones."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer

from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone


def vision_transformer(model: dict[str, Any], **arguments: Any) -> VisionTransformer:
    """The vision transformer of a case's ``model``.

    Args:
        model: sizes under the names that most cases use.
        arguments: further ones of the timm model.
    """
    sizes = {key: model[key] for key in ("embed_dim", "depth", "num_heads")}
    return create_backbone(
        Backbone(
            scale="golden",
            architecture="vit_tiny_patch16_224",
            image_size=model["img_size"],
            patch_size=model["patch_size"],
            model_args={
                **sizes,
                "mlp_ratio": float(model["mlp_ratio"]),
                "qkv_bias": model.get("qkv_bias", True),
                **arguments,
            },
        )
    )
