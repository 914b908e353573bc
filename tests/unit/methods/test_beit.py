"""BEiT and BEiT v2: what their forward pass may depend on, and their masks and heads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steps.command import UserError
from steps.core.schedules import Progress
from steps.methods import Batch, Draws, MethodContext
from steps.methods.beit import BEiT
from steps.methods.beit2 import BEiT2
from steps.models.backbones import create_backbone
from steps.models.beit import as_beit
from steps.models.drop_path import DropPath
from steps.params.backbone import Backbone
from steps.params.masks import BlockMasks
from steps.params.methods.beit import BEiTParams
from steps.params.methods.beit2 import BEiT2Params, PatchAggregation
from tests.scenery import BACKBONE

PROGRESS = Progress(0, 10, 100)
MASKS = BlockMasks(ratio=0.4, min_block=2)
VOCABULARY = 11


class Colours(nn.Module):
    """A tokenizer: a patch's token is its mean colour, cut into steps."""

    vocab_size = VOCABULARY

    def tokens(self, images: Tensor) -> Tensor:
        means = nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 8).flatten(1)
        return (means * 100).long().abs() % VOCABULARY


def backbone(params: BEiTParams | BEiT2Params, depth: int = 4) -> Any:
    plain = {**BACKBONE, "model_args": {**BACKBONE["model_args"], "depth": depth}}
    return create_backbone(as_beit(Backbone.model_validate(plain), params.backbone))


def beit(**changes: Any) -> BEiT:
    params = BEiTParams(**{"name": "beit", "masks": MASKS, **changes})
    return BEiT(params, backbone(params), MethodContext(tokenizer=Colours()))


def beit2(depth: int = 4, **changes: Any) -> BEiT2:
    aggregation = PatchAggregation(**{"early_layers": 2, "layers": 1, **changes.pop("head", {})})
    params = BEiT2Params(**{"name": "beit2", "masks": MASKS, "aggregation": aggregation, **changes})
    return BEiT2(params, backbone(params, depth), MethodContext(tokenizer=Colours()))


def batch(size: int = 4) -> Batch:
    images = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return Batch([images, images.clone()], torch.full((size,), -1))


def sample(method: BEiT | BEiT2, size: int = 4) -> Draws:
    return method.sample(size, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("make", [beit, beit2])
def test_hidden_pixels_do_not_matter(make: Any) -> None:
    method = make()
    seen, draws = batch(), sample(method)
    hidden = draws["mask"].view(4, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changed = Batch([torch.where(hidden, 9.0, seen.views[0]), seen.views[1]], seen.labels)
    loss = method(seen, draws, PROGRESS)["loss"]
    assert torch.equal(method(changed, draws, PROGRESS)["loss"], loss)
    changed = Batch([torch.where(hidden, seen.views[0], 9.0), seen.views[1]], seen.labels)
    assert not torch.equal(method(changed, draws, PROGRESS)["loss"], loss)


@pytest.mark.parametrize("make", [beit, beit2])
def test_every_hidden_patch_weighs_the_same_however_the_batch_is_cut(make: Any) -> None:
    method = make(drop_path=0.3)
    mask = torch.zeros(4, 16, dtype=torch.bool)
    for row, count in enumerate((1, 7, 2, 4)):
        mask[row, :count] = True
    draws = {**sample(method), "mask": mask, "hidden": torch.full((4,), 14 / 4)}
    whole, losses = batch(), []
    for rows in (slice(0, 2), slice(2, 4)):
        part = Batch([view[rows] for view in whole.views], whole.labels[rows])
        losses.append(
            method(part, {name: draw[rows] for name, draw in draws.items()}, PROGRESS)["loss"]
        )
    loss = method(whole, draws, PROGRESS)["loss"]
    torch.testing.assert_close(torch.stack(losses).mean(), loss)


def test_masks_of_the_first_version_fall_short_and_those_of_the_second_do_not() -> None:
    masks = BlockMasks(ratio=0.5, min_block=8)
    draws = sample(beit(masks=masks), 64)
    counts = draws["mask"].sum(dim=1)
    assert counts.max() == 8
    assert counts.min() < 8
    assert draws["hidden"].tolist() == [pytest.approx(counts.double().mean().item())] * 64
    assert (sample(beit2(masks=masks), 64)["mask"].sum(dim=1) == 8).all()


def test_patches_of_the_head_are_early_ones() -> None:
    """What the last blocks make of a patch reaches the second loss through the class token."""
    method = beit2()
    draws = sample(method)
    with torch.no_grad():
        for block in method.aggregation.blocks:  # the head lets its input pass
            block.gamma_1.zero_(), block.gamma_2.zero_()
        before = method.features(batch().views[0], draws["mask"])
        for block in method.backbone.blocks[2:]:
            block.gamma_1.zero_(), block.gamma_2.zero_()
        after = method.features(batch().views[0], draws["mask"])
    assert not torch.allclose(before[0], after[0])
    assert torch.equal(before[1][:, 1:], after[1][:, 1:])
    assert not torch.allclose(before[1][:, 0], after[1][:, 0])
    assert torch.equal(before[1][:, 0], before[0][:, 0])


@pytest.mark.parametrize("shared", [True, False])
def test_output_layer_of_the_head(shared: bool) -> None:
    method = beit2(head={"shared_output": shared})
    names = {name for name, _ in method.named_parameters() if "lm_head" in name}
    own = {"aggregation.lm_head.weight", "aggregation.lm_head.bias"}
    assert names == {"lm_head.weight", "lm_head.bias"} | (set() if shared else own)
    method(batch(), sample(method), PROGRESS)["loss"].backward()
    unused = [name for name, parameter in method.named_parameters() if parameter.grad is None]
    assert not unused, "several processes wait for every gradient"


def test_drop_path_of_the_head_goes_on_where_the_early_layers_end() -> None:
    def rates(blocks: nn.ModuleList) -> list[float]:
        return [path.rate for path in blocks.modules() if isinstance(path, DropPath)][::2]

    method = beit2(depth=4, drop_path=0.4, head={"early_layers": 3, "layers": 3})
    ramp = [0.4 * point / 5 for point in range(6)]
    assert rates(method.backbone.blocks) == pytest.approx(ramp[:4])
    assert rates(method.aggregation.blocks) == pytest.approx(ramp[3:])
    draws = sample(method)
    assert draws["keep"].shape == (4, 8)
    assert draws["keep_head"].shape == (4, 6)


def test_initialisation_of_the_head() -> None:
    """Its blocks keep the framework's, but for what ends a branch (the reference's surprise)."""
    torch.manual_seed(0)
    method = beit2(head={"early_layers": 2, "layers": 2, "shared_output": False})
    bound = 24**-0.5
    for index, block in enumerate(method.aggregation.blocks):
        assert 0.02 < block.mlp.fc1.weight.abs().max() <= bound
        assert block.mlp.fc1.bias.abs().max() > 0
        limit = bound / (2 * (3 + index)) ** 0.5
        assert 0.9 * limit < block.attn.proj.weight.abs().max() <= limit
    assert method.aggregation.lm_head is not None
    assert method.aggregation.lm_head.weight.abs().max() <= 0.02
    assert method.mask_token.abs().max() <= 0.02


def test_a_backbone_that_is_too_shallow_for_the_head() -> None:
    with pytest.raises(UserError, match=r"early_layers: 2, and the backbone has 2 blocks"):
        beit2(depth=2)


def test_a_ratio_that_hides_nothing() -> None:
    with pytest.raises(UserError, match=r"masks.ratio"):
        beit(masks=BlockMasks(ratio=0.05))


def test_a_batch_that_hides_no_patch_has_no_loss() -> None:
    method = beit()
    draws = {"mask": torch.zeros(4, 16, dtype=torch.bool), "hidden": torch.zeros(4)}
    losses = method(batch(), draws, PROGRESS)
    losses["loss"].backward()
    assert losses["loss"].item() == losses["token_accuracy"].item() == 0
    assert not method.lm_head.weight.grad.any()
