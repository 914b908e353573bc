"""A small vision transformer whose every weight matters."""

from __future__ import annotations

import timm
import torch
from torch import nn


def noisy_vit(**changes: object) -> nn.Module:
    """Of width 32, three blocks, 16 patches; ``changes`` are timm's arguments."""
    torch.manual_seed(0)
    arguments: dict[str, object] = {"init_values": 0.5, "embed_dim": 32, "depth": 3} | changes
    vit: nn.Module = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=16, patch_size=4, num_heads=2, **arguments
    )
    # Biases and tables that start at zero would hide a wrong slice.
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return vit
