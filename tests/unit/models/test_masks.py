"""Masks of blocks: what a user's params can ask of them, beyond the replayed settings."""

from __future__ import annotations

import random

import pytest
import torch

from steps.models.masks import Block, BlockGenerator, sample_blocks


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
