"""Maps of visual tokens: the targets of BEiT and BEiT v2, and their predictions."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

import torch
from torch import Tensor

from steps.diagnosis.sheet import Batches, Denormaliser, Drawing, png, sheet
from steps.evaluation.layout import to_pixels
from steps.methods.beit import BEiT
from steps.methods.beit2 import BEiT2
from steps.models.masked_autoencoder import images_of, patch_pixels

SHOWN = 8
"""Images on the sheet."""
_HIDDEN = 0.5
"""Grey in place of a hidden patch."""
_UNASKED = 0.15
"""Brightness of a patch whose token is not predicted."""
_GOLDEN = 0.618034


@torch.inference_mode()
def draw(
    method: BEiT | BEiT2, batches: Batches, token_images: Iterable[Tensor], look: Denormaliser
) -> Drawing:
    """One row per image: image, what the encoder saw, tokens, and tokens told of hidden patches.

    A token has a colour, the same wherever it stands; which one is arbitrary.

    Args:
        method: in eval mode.
        batches: images with the method's draws.
        token_images: the same images at the tokenizer's size, in the same batches.
        look: how the images were normalised.
    """
    rows: list[tuple[Tensor, ...]] = []
    told, asked = [], []
    palette = colours(method.tokenizer.vocab_size)
    for (images, draws), seconds in zip(batches, token_images, strict=True):
        mask = draws["mask"]
        tokens = method.tokenizer.tokens(seconds)
        guess = predict(method, images, mask)
        told.append(guess[mask])
        asked.append(tokens[mask])
        side = images.shape[-1]
        pixels = look.shown(look.pixels(images), look.pixels(images))
        size = side // round(mask.shape[1] ** 0.5)
        seen = patch_pixels(pixels, size).masked_fill(mask.unsqueeze(2), _HIDDEN)
        answers = torch.where(mask.unsqueeze(2), palette[guess], palette[tokens] * _UNASKED)
        maps = (to_pixels(m.transpose(1, 2), side) for m in (palette[tokens], answers))
        columns = (pixels, images_of(seen, size), *maps)
        rows += list(zip(*columns, strict=True))[: SHOWN - len(rows)]
    right, wanted = torch.cat(told), torch.cat(asked)
    return Drawing(
        {"tokens.png": png(sheet(rows))},
        {
            "token_accuracy": (right == wanted).float().mean().item(),
            "share_of_commonest_token": wanted.bincount().max().item() / len(wanted),
            **look.facts,
        },
    )


def predict(method: BEiT | BEiT2, images: Tensor, mask_BN: Tensor) -> Tensor:
    """The likeliest token of each patch (B, N), hidden or not, by the last block's states."""
    states = method.features(images, mask_BN)
    last = states if isinstance(states, Tensor) else states[0]
    guess: Tensor = method.lm_head(last[:, 1:]).argmax(dim=2)
    return guess


def colours(count: int) -> Tensor:
    """(count, 3) in 0 to 1: hues a golden ratio apart, in turn pale, full and dark."""
    tones = ((0.45, 1.0), (0.95, 0.95), (0.9, 0.55))
    return torch.tensor(
        [colorsys.hsv_to_rgb(k * _GOLDEN % 1.0, *tones[k % len(tones)]) for k in range(count)]
    )
