"""Masks of blocks: what a user's params can ask of them, beyond the replayed settings."""

from __future__ import annotations

import random

import pytest
import torch

from steps.models.masks import (
    Block,
    BlockGenerator,
    sample_blocks,
    sample_ratio_masks,
    sample_spread_blocks,
)
from steps.params.masks import RatioMasks


def test_a_mask_comes_from_the_generator_alone() -> None:
    blocks = BlockGenerator(8, 8, 25, 4)
    masks = [sample_blocks(blocks, 5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert masks[0].shape == (5, 64)
    assert len({tuple(row) for row in masks[0].tolist()}) == 5, "samples share no mask"


def test_bits_are_in_raster_order() -> None:
    blocks = BlockGenerator(4, 5, 6, 1)
    assert Block(6.0, 0.4, 1, 2).size == (3, 2)
    mask = blocks.to_tensor([blocks.bits(Block(6.0, 0.4, 1, 2))]).view(4, 5)
    assert mask.nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3], [3, 2], [3, 3]]


def test_a_block_is_smaller_than_the_grid() -> None:
    blocks = BlockGenerator(4, 4, 12, 1)
    assert blocks.bits(Block(8.0, 0.7, 0, 0)) == 0  # as high as the grid
    assert blocks.bits(Block(9.0, 0.0, 0, 0)).bit_count() == 9


@pytest.mark.parametrize("patches", [1, 10, 15])
def test_exact_masks_hide_as_many_on_any_grid(patches: int) -> None:
    # The smallest block is larger than the grid: single patches have to make up for all.
    blocks = BlockGenerator(4, 4, patches, 40, exact=True)
    masks = sample_blocks(blocks, 20, torch.Generator().manual_seed(0))
    assert (masks.sum(dim=1) == patches).all()


def test_a_largest_block_bounds_what_is_newly_hidden() -> None:
    blocks = BlockGenerator(14, 14, 60, 4, max_block=6)
    limits: list[int] = []

    def propose(limit: int) -> Block:
        limits.append(limit)
        return blocks.propose(limit, rng)

    rng = random.Random(0)
    blocks.hide(propose)
    assert set(limits) <= set(range(1, 7))
    assert 6 in limits


def _shares(count: int = 2000, **params: object) -> torch.Tensor:
    """The share of masked patches of each of so many crops, of 14 patches a side."""
    masks = RatioMasks.model_validate({"shape": "random", **params})
    return sample_ratio_masks(count, 14, masks, torch.Generator().manual_seed(0)).float().mean(1)


def test_a_share_is_one_of_the_ratios_within_its_variance() -> None:
    shares = _shares(ratios=[0.0, 0.3], variances=[0.0, 0.2])
    assert (shares == 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    some = shares[shares > 0]
    assert some.min().item() >= 0.1 - 1 / 196
    assert some.max().item() <= 0.5
    # Uniform over 0.4: a standard deviation of 0.4 / sqrt(12).
    assert some.mean().item() == pytest.approx(0.3, abs=0.015)
    assert some.std().item() == pytest.approx(0.4 / 12**0.5, abs=0.01)


def test_random_masks_have_the_share_rounded_down_and_no_favourite_patch() -> None:
    params = RatioMasks(shape="random", ratios=[0.7], variances=[0.0])
    masks = sample_ratio_masks(3000, 5, params, torch.Generator().manual_seed(0))
    assert (masks.sum(dim=1) == int(0.7 * 25)).all()
    assert masks.float().mean(dim=0).std() < 0.03


def test_block_masks_have_the_share_or_a_little_less_in_blocks() -> None:
    params = RatioMasks(shape="block", ratios=[0.3], variances=[0.0])
    masks = sample_ratio_masks(500, 14, params, torch.Generator().manual_seed(0))
    counts = masks.sum(dim=1)
    assert counts.max() <= 0.3 * 196
    assert counts.float().mean() > 0.25 * 196
    grids = masks.view(-1, 14, 14)
    beside = (grids[:, :, 1:] & grids[:, :, :-1]).float().mean()
    assert beside > 0.3 * 0.6, "by chance it would be 0.3 squared"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ratios": [0.1], "variances": [0.2]}, r"is outside \[0, 1\]"),
        ({"ratios": [0.1, 0.2], "variances": [0.1]}, "1 variances for 2 ratios"),
    ],
)
def test_ratios_that_cannot_be_drawn_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RatioMasks.model_validate({"shape": "block", **params})


def test_ratios_are_spread_over_the_batch() -> None:
    masks = sample_spread_blocks(32, 14, 0.5, (0.1, 0.5), torch.Generator().manual_seed(1))
    assert masks.shape == (32, 196)
    shares = masks.float().mean(dim=1).sort().values
    assert (shares == 0).sum().item() == 16
    bounds = torch.linspace(0.1, 0.5, 17)
    # A mask may fall a few patches short, but none is above its bound.
    assert bool((shares[16:] <= bounds[1:] + 1e-6).all())
    assert bool((shares[16:] >= bounds[:-1] - 0.03).all())


def test_masked_crops_are_anywhere_in_the_batch() -> None:
    seeds = [torch.Generator().manual_seed(seed) for seed in range(100)]
    masked = [sample_spread_blocks(8, 6, 0.5, (0.2, 0.4), seed).any(dim=1) for seed in seeds]
    share = torch.stack(masked).float().mean(dim=0)
    assert share.tolist() == pytest.approx([0.5] * 8, abs=0.2)


def test_an_odd_share_of_crops_is_rounded_down() -> None:
    masks = sample_spread_blocks(3, 6, 0.5, (0.2, 0.4), torch.Generator().manual_seed(0))
    assert masks.any(dim=1).sum().item() == 1
    assert not sample_spread_blocks(1, 6, 0.5, (0.2, 0.4), torch.Generator()).any()
