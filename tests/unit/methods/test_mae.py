"""MAE: what its golden case does not vary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from timm.models.vision_transformer import VisionTransformer

from steps.command import UserError
from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext
from steps.methods.mae import MAE
from steps.params.methods.mae import MAEParams

DECODER = {"embed_dim": 16, "depth": 1, "num_heads": 2}
MakeViT = Callable[..., VisionTransformer]


def params(**changes: object) -> MAEParams:
    content = {"name": "mae", "mask_ratio": 0.75, "norm_pix_loss": True, "decoder": DECODER}
    return MAEParams.model_validate({**content, **changes})


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("side", "ratio", "visible"), [(32, 0.75, 4), (40, 0.6, 10), (40, 0.9, 2)])
def test_only_visible_patches_reach_the_encoder(
    vit: MakeViT, side: int, ratio: float, visible: int, depth: int
) -> None:
    method = MAE(
        params(mask_ratio=ratio, decoder={**DECODER, "depth": depth}), vit(side), MethodContext()
    )
    seen: list[torch.Size] = []
    method.backbone.blocks[0].register_forward_hook(lambda _, args, out: seen.append(out.shape))
    draws = method.sample(3, torch.Generator().manual_seed(0))
    loss = method(Batch([torch.randn(3, 3, side, side)], torch.zeros(3)), draws, Progress(0, 1, 1))
    assert seen == [(3, 1 + visible, 24)]
    assert torch.isfinite(loss["loss"])


def test_removed_pixels_do_not_change_the_encoding(vit: MakeViT) -> None:
    method = MAE(params(), vit(), MethodContext())
    images, noise = torch.randn(1, 3, 32, 32), torch.rand(1, 16)
    latent, masking = method.encode(images, noise)
    removed = masking.removed.view(1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed, _ = method.encode(torch.where(removed, torch.zeros(()), images), noise)
    assert torch.equal(latent, changed)


def test_the_loss_is_the_error_of_removed_patches_alone(vit: MakeViT) -> None:
    method = MAE(params(norm_pix_loss=False), vit(), MethodContext())
    torch.nn.init.zeros_(method.decoder.pred.weight)
    noise = torch.arange(16.0).view(1, 16)  # the first row of patches stays
    images = torch.full((1, 3, 32, 32), 9.0)
    images[:, :, 8:] = 2.0
    losses = method(Batch([images], torch.zeros(1)), {"noise": noise}, Progress(0, 1, 1))
    assert losses["loss"].item() == pytest.approx(4.0)  # (0 - 2)^2


def test_ratios_that_leave_nothing_to_do_are_refused(vit: MakeViT) -> None:
    with pytest.raises(ValidationError):
        params(mask_ratio=0.0)
    with pytest.raises(UserError, match="keeps 0 of 16 patches"):
        MAE(params(mask_ratio=0.95), vit(), MethodContext())
