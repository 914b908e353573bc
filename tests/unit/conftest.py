"""What unit tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone


@pytest.fixture
def vit() -> Callable[..., VisionTransformer]:
    """A function that makes a small vision transformer; keywords are arguments of timm's."""

    def make(image_size: int = 32, patch_size: int = 8, **arguments: object) -> VisionTransformer:
        torch.manual_seed(0)
        return create_backbone(
            Backbone(
                scale="ViT-Test",
                architecture="vit_tiny_patch16_224",
                image_size=image_size,
                patch_size=patch_size,
                model_args={"embed_dim": 24, "depth": 2, "num_heads": 2, **arguments},
            )
        )

    return make
