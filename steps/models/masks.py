"""Masks that hide patches block by block (BEiT, arXiv:2106.08254, algorithm 1).

A mask is a Python integer, one bit per patch in raster order: a global batch of thousands of masks
is drawn before each step, and a block is laid over a mask in one operation.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steps.command import UserError
from steps.params.masks import BlockMasks, RatioMasks

# --- Random masking by sorting noise (MAE, arXiv:2111.06377, section 3)


@dataclass(frozen=True)
class Masking:
    """Which of the N patches of each of B samples stay visible."""

    keep: Tensor
    """(B, K) int64: indices of the visible patches, by rising noise."""
    restore: Tensor
    """(B, N) int64: rank of each patch's noise; ranks below K stay visible."""

    @property
    def removed(self) -> Tensor:
        """(B, N) bool, True for hidden patches, in raster order."""
        return self.restore >= self.keep.shape[1]


def num_visible(patches: int, ratio: float, *, least: int = 0) -> int:
    """Number of patches that stay visible.

    The integer part of the floating-point product, as in MAE's reference: 100 patches at ratio
    0.9 keep 9.

    Raises:
        UserError: fewer than ``least``.
    """
    count = int(patches * (1 - ratio))
    if count < least:
        raise UserError(
            "method.mask_ratio",
            f"{ratio} keeps {count} of {patches} patches",
            allowed=f"ratios that keep {least} or more",
        )
    return count


def random_masking(noise_BN: Tensor, ratio: float) -> Masking:
    """Keep the patches with the smallest noise.

    Args:
        noise_BN: one uniform number per patch.
        ratio: share of the patches to hide.
    """
    order = noise_BN.argsort(dim=1)
    # The argsort of a permutation is its inverse.
    return Masking(order[:, : num_visible(noise_BN.shape[1], ratio)], order.argsort(dim=1))


def gather_tokens(tokens_BND: Tensor, indices_BK: Tensor) -> Tensor:
    """Tokens at each sample's indices: (B, K, D)."""
    samples, tokens, width = tokens_BND.shape
    first = torch.arange(0, samples * tokens, tokens, device=indices_BK.device)
    # Whole rows: a GPU's deterministic gradient of ``gather`` sorts every number by itself.
    rows = (indices_BK + first.unsqueeze(1)).flatten()
    return tokens_BND.flatten(0, 1).index_select(0, rows).view(samples, -1, width)


TRIES = 10
"""At a block, before the mask is left as it is."""


class Block(NamedTuple):
    """A proposed block: the area that it aims at, in patches, its shape, and its corner."""

    area: float
    log_aspect: float
    """Natural logarithm of height over width."""
    top: int
    left: int
    """Undefined if the block does not fit into the grid."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in patches, halves rounded to even."""
        aspect = math.exp(self.log_aspect)
        return round(math.sqrt(self.area * aspect)), round(math.sqrt(self.area / aspect))


@dataclass(frozen=True)
class BlockGenerator:
    """Adds blocks until ``patches`` are hidden, or ten proposals in a row were of no use.

    A block is used if it is smaller than the grid in both directions, hides a patch that was seen
    and no more such patches than the limit: what is left to hide, or ``max_block``. So a mask
    never hides more than ``patches``, and often one or two less. With ``exact`` single patches make
    up for those (BEiT v2, arXiv:2208.06366, reference code).
    """

    height: int
    width: int
    patches: float
    """Largest number to hide; whole with ``exact``."""
    min_block: int
    max_block: float | None = None
    min_aspect: float = 0.3
    exact: bool = False

    @functools.cached_property
    def _columns(self) -> list[int]:
        """Masks of the first column, by height: a row of bits times one of them is a block."""
        starts = [1 << self.width * row for row in range(self.height)]
        return [sum(starts[:height]) for height in range(self.height + 1)]

    def draw(self, rng: random.Random) -> int:
        """One mask."""
        mask = self.hide(lambda limit: self.propose(limit, rng))
        return self.complete(mask, rng) if self.exact else mask

    def hide(self, propose: Callable[[float], Block]) -> int:
        """Lay blocks over a mask: the rule, without its random choices.

        Args:
            propose: the next block, given the limit of newly hidden patches.
        """
        mask = 0
        while (left := self.patches - mask.bit_count()) > 0:
            limit = min(left, self.max_block or left)
            for _ in range(TRIES):
                block = self.bits(propose(limit))
                if 0 < (block & ~mask).bit_count() <= limit:
                    mask |= block
                    break
            # The references give up at the first block without a place, though patches are left.
            else:
                break
        return mask

    def propose(self, limit: float, rng: random.Random) -> Block:
        """Area uniform between the least and the limit, whichever is larger; aspect log-uniform."""
        bound = math.log(self.min_aspect)
        sketch = Block(rng.uniform(self.min_block, limit), rng.uniform(bound, -bound), 0, 0)
        height, width = sketch.size
        # The reference draws no corner for a block that does not fit, so nothing is drawn here.
        if height >= self.height or width >= self.width:
            return sketch
        top, left = rng.randint(0, self.height - height), rng.randint(0, self.width - width)
        return Block(sketch.area, sketch.log_aspect, top, left)

    def complete(self, mask: int, rng: random.Random) -> int:
        """Hide single patches more, until there are as many as wanted."""
        seen = [index for index in range(self.height * self.width) if not mask >> index & 1]
        chosen = rng.sample(seen, int(self.patches) - mask.bit_count())
        return mask | sum(1 << index for index in chosen)

    def bits(self, block: Block) -> int:
        """The block's patches; none where it does not fit."""
        height, width = block.size
        if height >= self.height or width >= self.width:
            return 0
        row = (1 << width) - 1
        return row * self._columns[height] << self.width * block.top + block.left

    def to_tensor(self, masks: Sequence[int]) -> Tensor:
        """(B, N) bool, true where a patch is hidden; raster order."""
        patches = self.height * self.width
        # One unpacking for the whole batch instead of a loop over bits.
        data = b"".join(mask.to_bytes((patches + 7) // 8, "little") for mask in masks)
        rows = np.frombuffer(data, np.uint8).reshape(len(masks), -1)
        hidden = np.unpackbits(rows, axis=1, count=patches, bitorder="little")
        return torch.from_numpy(hidden.astype(bool))


def block_generator(
    params: BlockMasks, grid: tuple[int, int], *, exact: bool = False
) -> BlockGenerator:
    """The generator of masks for a grid of patches."""
    return BlockGenerator(
        *grid,
        # Cut down, as the references do: 196 patches at 0.4 are 78.
        patches=int(params.ratio * grid[0] * grid[1]),
        min_block=params.min_block,
        max_block=params.max_block,
        min_aspect=params.min_aspect,
        exact=exact,
    )


def sample_blocks(blocks: BlockGenerator, batch: int, generator: torch.Generator) -> Tensor:
    """Masks of a batch, (B, N) bool; all from one number that torch's generator gives."""
    # Python's generator: thousands of scalar draws are slow in torch.
    rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
    return blocks.to_tensor([blocks.draw(rng) for _ in range(batch)])


def mean_hidden(mask_BN: Tensor) -> Tensor:
    """Mean number of hidden patches per sample, repeated for each sample: (B,) float32."""
    return mask_BN.sum(dim=1).float().mean().repeat(len(mask_BN))


def sample_ratio_masks(crops: int, side: int, params: RatioMasks, seeds: torch.Generator) -> Tensor:
    """Masks as iBOT draws them, each crop's by a share of its own: (crops, side * side) bool.

    A share is drawn within each ratio's variance, and one of the shares is taken. Blocks are laid
    as in BEiT, the least of a third of the side squared; a random mask hides int(share * patches)
    (iBOT, arXiv:2111.07832, section 3.1 and reference code).

    Args:
        crops: over all processes.
        side: of the patch grid.
        params: the recipe's.
        seeds: gives one number, from which all follows.
    """
    rng = random.Random(int(torch.randint(2**62, (), generator=seeds)))
    count = side * side
    ranges = list(zip(params.ratios, params.variances, strict=True))
    masks = []
    for _ in range(crops):
        shares = [rng.uniform(ratio - variance, ratio + variance) for ratio, variance in ranges]
        # Every share is drawn, though one is taken: so the reference uses its generator.
        patches = rng.choice(shares) * count
        if params.shape == "random":
            hidden = rng.sample(range(count), int(patches))
            masks.append(sum(1 << index for index in hidden))
        else:
            blocks = BlockGenerator(
                *(side, side, patches), min_block=(side // 3) ** 2, min_aspect=params.min_aspect
            )
            masks.append(blocks.draw(rng))
    return BlockGenerator(side, side, 0, min_block=0).to_tensor(masks)


def sample_spread_blocks(
    crops: int, side: int, probability: float, ratios: tuple[float, float], seeds: torch.Generator
) -> Tensor:
    """Masks of all global crops of a batch as DINOv2 draws them: (crops, side * side) bool.

    int(crops * probability) crops are masked, the others not at all. The i-th of them has a ratio
    uniform between the i-th and the next of equally spaced points from ``ratios[0]`` to
    ``ratios[1]``, so that every batch has all ratios; then the masks are shuffled. A block hides
    half of the grid at most (DINOv2, arXiv:2304.07193, reference code).

    Args:
        crops: over all processes.
        side: of the patch grid.
        probability: share of the crops that are masked.
        ratios: least and greatest share of a masked crop's patches.
        seeds: gives one number, from which all follows.
    """
    rng = random.Random(int(torch.randint(2**62, (), generator=seeds)))
    masked = int(crops * probability)
    points = [ratios[0] + (ratios[1] - ratios[0]) * i / max(masked, 1) for i in range(masked + 1)]
    masks = [0] * crops
    for index in range(masked):
        patches = int(side * side * rng.uniform(points[index], points[index + 1]))
        generator = BlockGenerator(side, side, patches, min_block=4, max_block=side // 2 * side)
        masks[index] = generator.draw(rng)
    # Otherwise the hidden share would rise along the batch.
    rng.shuffle(masks)
    return BlockGenerator(side, side, 0, min_block=4).to_tensor(masks)
