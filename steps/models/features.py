"""From images to one vector per image, for heads and evaluations of any backbone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from timm.models.resnet import ResNet
from torch import Tensor

from steps.models.backbones import BackboneModel, Transformer, has_class_token, is_resnet
from steps.models.drop_path import dropping
from steps.models.last_block import encode_read
from steps.models.tokens import embed, encode

# --- What the class token looks at


@torch.no_grad()
def class_attention(vit: Transformer, images: Tensor) -> Tensor:
    """The attention of the class token to the patches, in the last block.

    Args:
        vit: in evaluation mode, with a class token.
        images: (B, 3, H, W), normalised.

    Returns:
        (B, heads, N): after the softmax, so that a head's values and those of the class token and
        registers, which are left out, sum to 1.
    """
    attention = vit.blocks[-1].attn
    seen: list[Tensor] = []

    def remember(module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    # A fused kernel never has the map. The plain path hands it to the dropout, in timm's
    # transformers and BEiTs alike, relative positions and all.
    fused, attention.fused_attn = attention.fused_attn, False
    handle = attention.attn_drop.register_forward_pre_hook(remember)
    try:
        encode(vit, embed(vit, images))
    finally:
        handle.remove()
        attention.fused_attn = fused
    (map_BHTT,) = seen
    return map_BHTT[:, :, 0, vit.num_prefix_tokens :]


def global_feature(backbone: BackboneModel, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) to (B, D): the class token after the final norm; a ResNet's global average.

    Of a transformer without a class token, what ``image_feature`` gives.

    Args:
        backbone: any.
        images: (B, 3, H, W).
        keep: drop-path draws (see ``drop_path.sample``), or None to keep every branch.
    """
    if is_resnet(backbone):
        return _global_average(backbone, images, keep)
    if not has_class_token(backbone):
        tokens_BND = encode(backbone, embed(backbone, images), keep)
        return image_feature(backbone, backbone.norm(tokens_BND))
    classes_BD = encode_read(backbone, embed(backbone, images), keep=keep)
    return cast(Tensor, backbone.norm(classes_BD))


def mean_feature(backbone: BackboneModel, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """(B, 3, H, W) to (B, D): the mean patch token before the final norm, for heads with a norm of
    their own; a ResNet's global average. Arguments as in ``global_feature``.
    """
    if is_resnet(backbone):
        return _global_average(backbone, images, keep)
    tokens_BND = encode(backbone, embed(backbone, images), keep)
    return tokens_BND[:, backbone.num_prefix_tokens :].mean(dim=1)


def frozen_features(
    backbone: BackboneModel, images: Tensor, poolings: Iterable[str]
) -> dict[str, Tensor]:
    """Features that evaluations of a frozen backbone read, (B, D) by pooling, from one pass.

    Args:
        backbone: in evaluation mode.
        images: (B, 3, H, W).
        poolings: "cls", the class token (``image_feature``), and "mean", the mean patch token,
            both after the final norm; of a ResNet both are the global average.
    """
    if is_resnet(backbone):
        average = _global_average(backbone, images)
        return dict.fromkeys(poolings, average)
    poolings = tuple(poolings)
    # Only the class token is read, so the last block need not compute patches.
    if all(pooling == "cls" for pooling in poolings):
        return dict.fromkeys(poolings, global_feature(backbone, images))
    tokens_BND = backbone.norm(encode(backbone, embed(backbone, images)))
    return {pooling: _pool(backbone, tokens_BND, pooling) for pooling in poolings}


def last_blocks(vit: Transformer, images: Tensor, n: int) -> list[Tensor]:
    """Tokens of the last n blocks, each (B, P + N, D) and through the final norm, earlier first.

    Args:
        vit: with P prefix tokens (the class token, registers).
        images: (B, 3, H, W).
        n: blocks.

    Raises:
        ValueError: the network has fewer blocks.
    """
    first = len(vit.blocks) - n
    if n < 1 or first < 0:
        raise ValueError(f"{n} of {len(vit.blocks)} blocks")
    tokens_BND = encode(vit, embed(vit, images), stop=first + 1)
    found = [vit.norm(tokens_BND)]
    for block in range(first + 1, len(vit.blocks)):
        tokens_BND = encode(vit, tokens_BND, start=block, stop=block + 1)
        found.append(vit.norm(tokens_BND))
    return found


def image_feature(vit: Transformer, tokens_BND: Tensor) -> Tensor:
    """The feature that stands for the image among its tokens after the final norm: (B, D).

    The class token. A transformer without one gives what its pooling head gives (SigLIP's
    attention pooling), else the mean patch token.
    """
    if vit.cls_token is not None:
        return tokens_BND[:, 0]
    if (pool := getattr(vit, "attn_pool", None)) is not None:
        return cast(Tensor, vit.fc_norm(pool(tokens_BND)))
    return _pool(vit, tokens_BND, "mean")


def _pool(vit: Transformer, tokens_BND: Tensor, pooling: str) -> Tensor:
    if pooling == "cls":
        return image_feature(vit, tokens_BND)
    # A norm that fine-tuning gave to the mean replaces the norm of the tokens.
    return cast(Tensor, vit.fc_norm(tokens_BND[:, vit.num_prefix_tokens :].mean(dim=1)))


def _global_average(resnet: ResNet, images: Tensor, keep: Tensor | None = None) -> Tensor:
    with dropping(resnet, keep):
        return cast(Tensor, resnet.forward_features(images)).mean(dim=(2, 3))
