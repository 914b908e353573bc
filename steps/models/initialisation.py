"""The initialisation that masked autoencoders share (MAE, arXiv:2111.06377, appendix A.1)."""

from __future__ import annotations

from collections.abc import Iterable

from timm.models.vision_transformer import VisionTransformer
from torch import nn


def initialise(module: nn.Module, vit: VisionTransformer, tokens: Iterable[nn.Parameter]) -> None:
    """Xavier uniform for every linear layer and the patch projection, normal for tokens.

    Args:
        module: whose linear layers are initialised; their biases become zero.
        vit: whose patch projection counts as a linear layer over the pixels of a patch, not as a
            convolution.
        tokens: learnt vectors, drawn with standard deviation 0.02.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for token in tokens:
        nn.init.normal_(token, std=0.02)
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.flatten(1))
