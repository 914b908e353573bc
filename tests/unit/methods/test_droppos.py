"""DropPos: what its golden cases do not vary."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext
from steps.methods.droppos import DropPos, smoothed_labels
from steps.params.methods.droppos import DropPosParams

MakeViT = Callable[..., VisionTransformer]


def make(vit: MakeViT, **changes: object) -> DropPos:
    content = {
        "name": "droppos",
        "mask_ratio": 0.5,
        "pos_mask_ratio": 0.75,
        "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
    }
    return DropPos(DropPosParams.model_validate({**content, **changes}), vit(), MethodContext())


def test_labels_are_divided_by_the_sum_of_their_column() -> None:
    labels = smoothed_labels(3, 1.0)
    near, far = math.exp(-1), math.exp(-2)
    corner = (1 + near + math.exp(-4)) ** 2  # the sum over rows times that over columns
    middle = (1 + 2 * near) ** 2
    assert labels[0, 0].item() == pytest.approx(1 / corner)
    assert labels[0, 4].item() == pytest.approx(far / middle)
    assert labels[4, 0].item() == pytest.approx(far / corner)
    torch.testing.assert_close(labels.sum(dim=0), torch.ones(9))
    assert not torch.allclose(labels.sum(dim=1), torch.ones(9))


def test_sigma_zero_is_one_hot() -> None:
    assert torch.equal(smoothed_labels(4, 0.0), torch.eye(16))


@pytest.mark.parametrize(("step", "sigma"), [(0, 1.0), (9, 1.0), (10, 0.75), (39, 0.25)])
def test_sigma_falls_by_whole_epochs(vit: MakeViT, step: int, sigma: float) -> None:
    assert make(vit).sigma(Progress(step, 10, 40)) == pytest.approx(sigma)
    constant = make(vit, sigma_decay=False)
    assert constant.sigma(Progress(step, 10, 40)) == 1.0


def test_a_dropped_position_does_not_reach_the_encoder(vit: MakeViT) -> None:
    method = make(vit, pos_mask_ratio=1.0)
    draws = method.sample(2, torch.Generator().manual_seed(0))
    images, masks = torch.randn(2, 3, 32, 32), method.maskings(draws)
    before = method.encode_visible(images, masks)
    torch.nn.init.normal_(method.backbone.pos_embed[:, 1:])
    assert torch.equal(method.encode_visible(images, masks), before)


def test_masked_patches_are_seen_by_attention_alone(vit: MakeViT) -> None:
    """With attention off every pass through the encoder has the visible tokens only."""
    for guided, passes in ((False, [9]), (True, [9, 17])):
        method, seen = make(vit, attn_guide=guided), []
        method.backbone.blocks[0].register_forward_hook(
            lambda _, args, out, seen=seen: seen.append(out.shape[1])
        )
        draws = method.sample(2, torch.Generator().manual_seed(0))
        batch = Batch([torch.randn(2, 3, 32, 32)], torch.zeros(2))
        method(batch, draws, Progress(0, 1, 1))
        assert seen == passes


def test_attention_takes_no_gradient(vit: MakeViT) -> None:
    method = make(vit)
    batch = Batch([torch.randn(2, 3, 32, 32)], torch.zeros(2))
    draws = method.sample(2, torch.Generator().manual_seed(0))
    encoded = method.encode(batch, draws, Progress(0, 1, 1))
    assert not encoded["attention"].requires_grad
    torch.testing.assert_close(encoded["attention"].sum(dim=1), torch.ones(2))


def test_patches_that_keep_their_position_do_not_count(vit: MakeViT) -> None:
    method = make(vit, attn_guide=False, label_smoothing_sigma=0.0)
    draws = method.sample(2, torch.Generator().manual_seed(0))
    masks = method.maskings(draws)
    logits = torch.full((2, 8, 16), 0.0)
    true = torch.nn.functional.one_hot(masks.patches.keep, 16) * 100.0
    # Sure and right where the position was dropped, sure and wrong where it was kept.
    dropped = masks.positions.removed.unsqueeze(2)
    logits = torch.where(dropped, true, -true)
    losses = method.losses({"logits": logits}, draws, Progress(0, 1, 1))
    assert losses["loss"].item() == pytest.approx(0.0, abs=1e-6)
    assert losses["position_accuracy"].item() == pytest.approx(1.0)


def test_confidence_may_leave_nothing_to_learn(vit: MakeViT) -> None:
    method = make(vit, conf_ignore=True)
    draws = method.sample(1, torch.Generator().manual_seed(0))
    true = method.maskings(draws).patches.keep
    logits = (torch.nn.functional.one_hot(true, 16) * 100.0).requires_grad_()
    encoded = {"logits": logits, "attention": torch.full((1, 16), 1 / 16)}
    loss = method.losses(encoded, draws, Progress(0, 1, 1))["loss"]
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_zeros_freeze_the_tokens_of_both_tasks(vit: MakeViT) -> None:
    method = make(vit, dropped_position="zeros", pixel_task={"pos_weight": 0.1})
    draws = method.sample(2, torch.Generator().manual_seed(0))
    batch = Batch([torch.randn(2, 3, 32, 32)], torch.zeros(2))
    losses = method(batch, draws, Progress(0, 1, 1))
    expected = 0.1 * losses["position_loss"] + losses["pixel_loss"]
    torch.testing.assert_close(losses["loss"].detach(), expected)
    losses["loss"].backward()
    missing = {name for name, p in method.named_parameters() if p.grad is None}
    assert missing == {
        *("position_token", "backbone.pos_embed"),
        *("pixel_decoder.pos_embed", "pixel_decoder.mask_token"),
    }


def test_pixels_need_removed_patches() -> None:
    with pytest.raises(ValueError, match="no pixels to predict"):
        DropPosParams.model_validate(
            {
                "name": "droppos",
                "mask_ratio": 0.0,
                "pos_mask_ratio": 0.75,
                "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
                "pixel_task": {"pos_weight": 0.1},
            }
        )
