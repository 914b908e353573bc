"""Replay of BEiT's two mask generators: the rule bit for bit, the random choices by statistics."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steps.models.masks import Block, BlockGenerator
from tests.golden.case import Case

Values = npt.NDArray[np.float64]
SIGMAS = 5.5
"""Two samples may be so many standard errors apart: one in 26 million by chance."""


def replay(case: Case) -> None:
    """Masks from their recorded attempts, and statistics of as many free draws, twice."""
    settings = case.facts["options"]["configs"]
    statistics = {row["index"]: row for row in case.facts["expected"]["statistics"]}
    assert statistics.keys() == set(range(len(settings)))
    for index, setting in enumerate(settings):
        generator = BlockGenerator(
            height=setting["height"],
            width=setting["width"],
            patches=setting["num_masking_patches"],
            min_block=setting["min_num_patches"],
            max_block=setting["max_num_patches"],
            min_aspect=setting["min_aspect"],
            exact=setting["generator"] == "beit2",
        )
        _replay_rule(case, generator, f"{index:02d}")
        rng = random.Random(setting["seed"])
        recorded = statistics[index]
        draws = _Draws(generator, rng, 2 * recorded["draws"])
        _Comparison(case, f"configuration {index}", recorded, draws).run()
        frequency = case[f"step0/output/probability_{index:02d}"]
        _compare_map(case, draws, frequency, recorded["draws"], index)


def _replay_rule(case: Case, generator: BlockGenerator, room: str) -> None:
    masks = case[f"step0/output/mask_{room}"]
    attempts = case[f"step0/draw/attempts_{room}"]
    corrections = torch.empty(0, 3, dtype=torch.int64)
    if generator.exact:
        corrections = case[f"step0/draw/correction_{room}"]
    ours = []
    for number in range(len(masks)):
        rows = attempts[attempts[:, 0] == number].tolist()
        recorded = _Recorded(generator, rows)
        mask = generator.hide(recorded.propose)
        assert recorded.at == len(rows), f"{room}: attempts were recorded that ours does not make"
        for _, sign, place in corrections[corrections[:, 0] == number].tolist():
            bit = 1 << place
            assert bool(mask & bit) == (sign < 0), f"{room}: a correction without effect"
            mask ^= bit
        ours.append(mask)
        assert mask.bit_count() <= generator.patches
        assert not generator.exact or mask.bit_count() == generator.patches
    case.equal(generator.to_tensor(ours).view_as(masks), f"step0/output/mask_{room}")


class _Recorded:
    """Gives a mask's recorded attempts in order, and checks what became of each."""

    def __init__(self, generator: BlockGenerator, rows: list[list[float]]) -> None:
        self.generator, self.rows, self.mask, self.blocks = generator, rows, 0, 0
        self.at = 0

    def propose(self, limit: int) -> Block:
        _, block_index, area, log_aspect, top, left, newly = self.rows[self.at]
        self.at += 1
        block = Block(area, log_aspect, int(top), int(left))
        low, high = sorted((self.generator.min_block, limit))
        assert low <= area <= high, "an area that could not have been drawn"
        assert abs(log_aspect) <= -math.log(self.generator.min_aspect)
        height, width = block.size
        fits = height < self.generator.height and width < self.generator.width
        assert fits == (top >= 0 and left >= 0)
        bits = self.generator.bits(block)
        added = (bits & ~self.mask).bit_count()
        accepted = 0 < added <= limit
        assert newly == (added if accepted else 0)
        assert block_index == self.blocks
        if accepted:
            self.mask |= bits
            self.blocks += 1
        return block


class _Draws:
    """Free draws, and what they consist of, each with the mask that it belongs to."""

    def __init__(self, generator: BlockGenerator, rng: random.Random, count: int) -> None:
        self.generator = generator
        self.count = count
        before, masks = [], []
        attempts, blocks, first = [], [], []
        for number in range(count):
            tried: list[tuple[int, Block]] = []
            mask = generator.hide(lambda limit, tried=tried: _noted(generator, limit, rng, tried))
            before.append(mask.bit_count())
            masks.append(generator.complete(mask, rng) if generator.exact else mask)
            laid = 0
            for limit, block in tried:
                bits = generator.bits(block)
                added = (bits & ~laid).bit_count()
                attempts.append((number, float(bits == 0 and min(block.size) > 0)))
                if 0 < added <= limit:
                    if not laid:
                        first.append(bits.bit_count())
                    laid |= bits
                    height, width = block.size
                    blocks.append((number, math.log(height / width), height * width, added))
        self.masks = generator.to_tensor(masks)
        self.after = self.masks.sum(dim=1).double().numpy()
        self.before = np.array(before, dtype=np.float64)
        self.attempts = np.array(attempts)
        self.blocks = np.array(blocks)
        self.first = np.array(first, dtype=np.float64)

    def sums(self, rows: Values, values: Values) -> Values:
        """Sum of values over each mask, whose number stands first in ``rows``."""
        return np.bincount(rows[:, 0].astype(int), values, minlength=self.count)


def _noted(
    generator: BlockGenerator, limit: int, rng: random.Random, tried: list[tuple[int, Block]]
) -> Block:
    block = generator.propose(limit, rng)
    tried.append((limit, block))
    return block


class _Comparison:
    """Each recorded statistic against ours; masks are independent, blocks of a mask are not."""

    def __init__(self, case: Case, where: str, recorded: dict[str, Any], draws: _Draws) -> None:
        self.case, self.where, self.draws = case, where, draws
        self.recorded = dict(recorded)
        self.theirs = recorded["draws"]
        self.ones = np.ones(draws.count)

    def run(self) -> None:
        draws, take = self.draws, self.recorded.pop
        take("index"), take("draws")
        wanted = draws.generator.patches
        for key, counts in (("count", draws.after), ("count_before_correction", draws.before)):
            self.moments(take(f"{key}_mean"), take(f"{key}_std"), counts, self.ones, key)
        for value, count in take("count_histogram"):
            self.share((draws.after == value).astype(float), count / self.theirs, f"{value} hidden")
        self.extremes(take("count_min"), take("count_max"))
        self.share((draws.after == wanted).astype(float), take("fraction_exact"), "exact")
        share = take("fraction_exact_before_correction")
        self.share((draws.before == wanted).astype(float), share, "exact before correction")

        blocks, attempts = draws.blocks, draws.attempts
        per_mask = draws.sums(blocks, np.ones(len(blocks)))
        tries = draws.sums(attempts, np.ones(len(attempts)))
        for key, values in (("blocks", per_mask), ("attempts", tries)):
            key = f"{key}_per_mask"
            self.moments(take(f"{key}_mean"), take(f"{key}_std"), values, self.ones, key)
        large = draws.sums(attempts, attempts[:, 1])
        self.ratio(large, tries, take("fraction_of_attempts_too_large_for_grid"), "too large")
        for key, column in (("log_aspect", 1), ("area", 2)):
            key, values = f"accepted_block_{key}", blocks[:, column]
            self.block_moments(take(f"{key}_mean"), take(f"{key}_std"), values, per_mask, key)
            self.quantiles(take(f"{key}_quantiles"), values, per_mask, key)
        histogram = take("accepted_block_log_aspect_histogram")
        edges = pairwise(histogram["edges"])
        for (low, high), share in zip(edges, histogram["fraction"], strict=True):
            inside = (blocks[:, 1] >= low) & (blocks[:, 1] < high)
            self.ratio(draws.sums(blocks, inside), per_mask, share, f"log aspect in [{low}, {high}")
        self.ratio(
            draws.sums(blocks, blocks[:, 3]), per_mask, take("new_patches_per_block_mean"), "new"
        )
        first = take("first_block_area_mean")
        self.ratio(draws.first, np.ones(len(draws.first)), first, "first block's area")
        self.places(take)
        assert not self.recorded, f"recorded but not compared: {sorted(self.recorded)}"

    def places(self, take: Any) -> None:
        height, width = self.draws.generator.height, self.draws.generator.width
        hidden = self.draws.masks.view(-1, height, width).double()
        edge = torch.cat([hidden[:, :1], hidden[:, -1:]], dim=1)
        top, left = height // 2 - 1, width // 2 - 1
        centre = hidden[:, top : top + 2, left : left + 2]
        for key, part in (
            ("masked_fraction", hidden),
            ("masked_fraction_top_and_bottom_rows", edge),
            ("masked_fraction_centre_2x2", centre),
        ):
            self.ratio(part.mean(dim=(1, 2)).numpy(), self.ones, take(key), key)

    def moments(self, mean: float, std: float, values: Values, ones: Values, name: str) -> None:
        """A mean, and a deviation by way of the mean square."""
        self.ratio(values, ones, mean, f"mean {name}")
        centre = values.sum() / ones.sum()
        square = std**2 + (mean - centre) ** 2
        self.ratio((values - centre) ** 2, ones, square, f"spread of {name}")

    def block_moments(
        self, mean: float, std: float, values: Values, per_mask: Values, name: str
    ) -> None:
        draws = self.draws
        self.ratio(draws.sums(draws.blocks, values), per_mask, mean, f"mean {name}")
        centre = values.mean()
        squares = draws.sums(draws.blocks, (values - centre) ** 2)
        self.ratio(squares, per_mask, std**2 + (mean - centre) ** 2, f"spread of {name}")

    def quantiles(
        self, table: list[list[float]], values: Values, per_mask: Values, name: str
    ) -> None:
        """Ours have the quantile's share of values up to it; a tie may hold more than it."""
        for level, value in table:
            near = 1e-9 * max(abs(value), 1.0)
            for share, bound in ((values < value - near, 1), (values <= value + near, -1)):
                sums = self.draws.sums(self.draws.blocks, share)
                ours, error = self._estimate(sums, per_mask, level)
                self._assert(bound * (ours - level), error, f"{level} quantile of {name}")

    def extremes(self, low: float, high: float) -> None:
        """What lies beyond the recorded range is too rare to be in it but for bad luck."""
        beyond = np.mean((self.draws.after < low) | (self.draws.after > high))
        self.case.compared += 2
        assert beyond * self.theirs < SIGMAS**2, f"{self.where}: {beyond} beyond the range"

    def share(self, hits: Values, theirs: float, name: str) -> None:
        self.ratio(hits, self.ones, theirs, name)

    def ratio(self, parts: Values, wholes: Values, theirs: float, name: str) -> None:
        ours, error = self._estimate(parts, wholes, theirs)
        self._assert(abs(ours - theirs), error, f"{name} is {ours}, recorded {theirs}")

    def _estimate(self, parts: Values, wholes: Values, theirs: float) -> tuple[float, float]:
        """Sum over sum, and the standard error of its difference to that of their draws."""
        ours = float(parts.sum() / wholes.sum())
        both = 1 / len(wholes) + 1 / self.theirs
        size = wholes.mean()
        error = np.std(parts - ours * wholes) / size * math.sqrt(both)
        # A share that is rare in ours says little about its error: pool it with theirs.
        if 0 <= ours <= 1 and 0 <= theirs <= 1:
            pooled = (ours * len(wholes) + theirs * self.theirs) / (len(wholes) + self.theirs)
            error = max(error, math.sqrt(pooled * (1 - pooled) / size * both))
        return ours, float(error)

    def _assert(self, difference: float, error: float, message: str) -> None:
        self.case.compared += 1
        assert difference <= SIGMAS * error + 1e-9, f"{self.where}: {message} (error {error:.2e})"


def _compare_map(case: Case, draws: _Draws, theirs: Tensor, count: int, index: int) -> None:
    """How often each patch is hidden."""
    case.compared += 1
    ours = draws.masks.float().mean(dim=0).view_as(theirs)
    pooled = (ours * draws.count + theirs * count) / (draws.count + count)
    error = (pooled * (1 - pooled) * (1 / draws.count + 1 / count)).sqrt()
    worst = ((ours - theirs).abs() / error.clamp(min=1e-9)).max().item()
    assert worst <= SIGMAS, f"configuration {index}: a patch is {worst:.1f} errors apart"


REPLAYS = {"beit_masking": replay}
