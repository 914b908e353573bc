"""MP3: what its golden case does not vary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext
from steps.methods.mp3 import MP3, encode_in_context
from steps.models.masked_autoencoder import images_of, patch_pixels
from steps.models.tokens import embed, encode
from steps.params.methods.mp3 import MP3Params

MakeViT = Callable[..., VisionTransformer]


def make(vit: MakeViT, ratio: float = 0.75, **arguments: object) -> MP3:
    method = MP3(MP3Params(name="mp3", mask_ratio=ratio), vit(**arguments), MethodContext())
    torch.nn.init.normal_(method.position_head.weight)
    return method.eval()


def test_shuffled_patches_give_shuffled_logits(vit: MakeViT) -> None:
    method = make(vit)
    images, order = torch.randn(2, 3, 32, 32), torch.randperm(16)
    shuffled = images_of(patch_pixels(images, 8)[:, order], 8)
    context = method.sample(2, torch.Generator().manual_seed(0))["context"]
    moved = order.argsort()[context]
    logits = method.logits(method.features(images, context))
    torch.testing.assert_close(
        method.logits(method.features(shuffled, moved)), logits[:, order], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("arguments", [{}, {"qk_norm": True}, {"init_values": 0.5}])
def test_a_context_of_all_tokens_is_plain_attention(
    vit: MakeViT, arguments: dict[str, object]
) -> None:
    backbone = vit(**arguments).eval()
    tokens = embed(backbone, torch.randn(2, 3, 32, 32))
    everywhere = torch.arange(17).expand(2, -1)
    torch.testing.assert_close(
        encode_in_context(backbone, tokens, everywhere), encode(backbone, tokens)
    )


def test_a_patch_outside_the_context_is_seen_by_itself_alone(vit: MakeViT) -> None:
    method = make(vit)
    images, context = torch.randn(1, 3, 32, 32), torch.tensor([[0, 1, 2, 3]])
    changed = images.clone()
    changed[:, :, 24:, 24:] += 1.0  # the last patch
    difference = (method.features(changed, context) - method.features(images, context)).abs()
    assert difference[0, -1].max() > 1e-3
    assert difference[0, :-1].max() == 0


def test_the_context_is_drawn_without_repetition(vit: MakeViT) -> None:
    context = make(vit, 0.6).sample(5, torch.Generator().manual_seed(0))["context"]
    assert context.shape == (5, 16 - 9)
    assert all(len(set(row)) == 7 for row in context.tolist())


def test_the_exported_backbone_is_the_pretrained_network(vit: MakeViT) -> None:
    """With its table of zeros it computes what MP3 does when every patch is context."""
    method = make(vit)
    images = torch.randn(2, 3, 32, 32)
    everywhere = torch.arange(16).expand(2, -1)
    export_backbone = method.export_backbone()
    torch.testing.assert_close(
        export_backbone.forward_features(images)[:, 1:], method.features(images, everywhere)
    )
    assert (export_backbone.pos_embed == 0).all()


def test_positions_stay_zero_and_all_else_learns(vit: MakeViT) -> None:
    method = make(vit)
    batch = Batch([torch.randn(2, 3, 32, 32)], torch.zeros(2))
    losses = method(batch, method.sample(2, torch.Generator().manual_seed(0)), Progress(0, 1, 1))
    losses["loss"].backward()
    missing = {name for name, p in method.named_parameters() if p.grad is None}
    assert missing == {"backbone.pos_embed"}
    weighted = (4 * losses["context_loss"] + 12 * losses["other_loss"]) / 16
    torch.testing.assert_close(losses["loss"].detach(), weighted)


def test_no_mask_leaves_no_other_tokens(vit: MakeViT) -> None:
    method = make(vit, 0.0)
    batch = Batch([torch.randn(2, 3, 32, 32)], torch.zeros(2))
    losses = method(batch, method.sample(2, torch.Generator().manual_seed(0)), Progress(0, 1, 1))
    assert "other_loss" not in losses
    torch.testing.assert_close(losses["loss"].detach(), losses["context_loss"])
