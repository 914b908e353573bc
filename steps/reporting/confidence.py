"""Uncertainty of an evaluation's headline scores, from its decisions: intervals and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from steps.command import UserError
from steps.params.tasks import TASKS
from steps.reporting.decided import DECISIONS, TABLE
from steps.reporting.source import Evaluation, Source, TracedRecord
from steps.reporting.statistics.differences import (
    Family,
    Indices,
    all_pairs,
    better,
    differences,
    levels,
    ranks,
)
from steps.reporting.statistics.scores import Scores, of_decisions, of_draws, scores
from steps.reporting.statistics.spread import Bools, Floats
from steps.reporting.summary import BALANCED, UNTRAINED, Row, cells_of, headline

TOLERANCE = 0.01
"""Points by which a record may differ from its decisions, which are summed in float32."""


@dataclass(frozen=True)
class Confidence:
    """Uncertainty of an evaluation's headline scores. Rows are in the experiment's order."""

    evaluation: Evaluation
    metric: str
    unit: str
    rows: tuple[Row, ...]
    table: Scores
    low: Floats
    high: Floats
    """Ends of the rows' intervals."""
    family: Family
    """All pairs of rows, by index."""
    against: Family
    """Pairs of a row and the untrained row that it starts from, by index."""
    seeds: int
    digests: dict[tuple[Row, int], str]
    """Digest of the decisions of each row and seed."""

    @cached_property
    def above(self) -> Bools:
        """True at [i, j] where row i is resolved as better than row j."""
        return better(self.family, len(self.rows))

    @cached_property
    def ranks(self) -> tuple[Indices, Indices]:
        """First and last possible rank of each row."""
        return ranks(self.above)

    @cached_property
    def levels(self) -> list[int]:
        """The longest chain of rows each resolved above the next, best first."""
        return levels(self.above, self.table.score)

    @cached_property
    def place(self) -> dict[Row, int]:
        """Index of each row."""
        return {row: index for index, row in enumerate(self.rows)}

    def pair(self, one: Row, other: Row) -> tuple[float, float, float, bool]:
        """Difference of two rows' scores, its simultaneous interval, and if that excludes 0."""
        first, second = self.place[one], self.place[other]
        sign = 1 if first < second else -1
        small, large = sorted((first, second))
        # Pairs are in the order of an upper triangle.
        rows = len(self.rows)
        at = small * rows - small * (small + 1) // 2 + large - small - 1
        family = self.family
        ends = sorted((sign * float(family.low[at]), sign * float(family.high[at])))
        return sign * float(family.difference[at]), ends[0], ends[1], bool(family.apart[at])

    @cached_property
    def beats_baseline(self) -> dict[Row, int]:
        """1, 0 or -1 for each row that has an untrained one: better, not apart, worse."""
        found = np.sign(self.against.difference) * self.against.apart
        pairs = zip(self.against.pairs[:, 0].tolist(), found.tolist(), strict=True)
        return {self.rows[index]: int(sign) for index, sign in pairs}

    @property
    def tells(self) -> bool:
        """True if any row differs from its untrained one, or no row has one."""
        return not len(self.against.pairs) or bool(self.against.apart.any())

    @property
    def unstable(self) -> list[Row]:
        """Rows whose seeds spread more than those of the others."""
        return [self.rows[index] for index in np.flatnonzero(self.table.unstable).tolist()]


@dataclass(frozen=True)
class Confidences:
    """Confidence of an experiment's evaluations."""

    known: dict[Evaluation, Confidence]
    missing: dict[Evaluation, list[Row]]
    """Rows whose decisions were not kept, of evaluations that therefore have no intervals."""

    @property
    def unstable(self) -> dict[tuple[Row, ...], list[Evaluation]]:
        """Rows whose seeds spread more than those of the others, and the evaluations by which they
        do."""
        found: dict[tuple[Row, ...], list[Evaluation]] = {}
        for evaluation, confidence in self.known.items():
            if rows := confidence.unstable:
                found.setdefault(tuple(rows), []).append(evaluation)
        return found


def confidences(source: Source, summary: pl.DataFrame) -> Confidences:
    """Confidence of the headline scores of each evaluation.

    An evaluation has no intervals if any row or seed lacks decisions: no other row could be
    compared with that one.

    Args:
        source: of the report.
        summary: of its records, as ``summarize`` returns it.

    Raises:
        UserError: decisions do not give the score that stands in their record.
    """
    by_table = {
        Evaluation(*map(str, table)): rows
        for table, rows in source.decisions.partition_by(
            *TABLE, as_dict=True, maintain_order=True
        ).items()
    }
    labels = dict(source.images.select("images", "labels").iter_rows())
    starts = _starts(source)
    known: dict[Evaluation, Confidence] = {}
    missing: dict[Evaluation, list[Row]] = {}
    for evaluation in source.heading.evaluations():
        if not TASKS[evaluation.task].decides:
            continue
        metric = headline(summary, evaluation)
        cells = cells_of(summary, evaluation, metric=metric)
        kept = by_table.get(evaluation, source.decisions.clear())
        kept = kept.filter(metric="top1" if metric == BALANCED else metric)
        rows = [(str(recipe), str(backbone)) for recipe, backbone in cells[_ROW].iter_rows()]
        counts = dict(zip(rows, cells["seeds"].to_list(), strict=True))
        found = {(recipe, backbone): n for recipe, backbone, n in kept.group_by(_ROW).len().rows()}
        lacking = [row for row in rows if found.get(row, 0) != counts[row]]
        if lacking:
            missing[evaluation] = lacking
            continue
        balanced = labels[kept["images"][0]] if metric == BALANCED else None
        known[evaluation] = _confidence(source, evaluation, cells, kept, balanced, starts)
    return Confidences(known, missing)


_ROW = ["recipe", "backbone"]


def _confidence(
    source: Source,
    evaluation: Evaluation,
    cells: pl.DataFrame,
    kept: pl.DataFrame,
    balanced: Sequence[int] | None,
    starts: dict[Row, Row],
) -> Confidence:
    metric, unit, seeds = cells["metric"][0], cells["unit"][0], cells["seeds"][0]
    rows = tuple((str(recipe), str(backbone)) for recipe, backbone in cells[_ROW].iter_rows())
    place = {row: index for index, row in enumerate(rows)}
    order = kept.with_columns(
        pl.Series("place", [place[row] for row in kept[_ROW].rows()], dtype=pl.Int64)
    ).sort("place", "seed")
    values = _values(source, evaluation, metric, place, seeds)
    n = int(order["n"][0])
    if order["correct"].null_count() == 0:
        packed = np.frombuffer(b"".join(order["correct"].to_list()), np.uint8)
        bits = np.unpackbits(packed.reshape(len(rows) * seeds, -1), axis=1, count=n).astype(bool)
        labels = None if balanced is None else np.asarray(balanced, np.int32)
        images = of_decisions(bits.reshape(len(rows), seeds, n), labels)
        _check_scores(evaluation, metric, rows, images.score, values.mean(1))
    else:
        draws = np.asarray(order["draws"].to_list(), np.float64)
        images = of_draws(draws.reshape(len(rows), seeds, -1), values.mean(1), n)
    kinds = cells["kind"].to_list()
    trained = np.array(
        [
            kind != UNTRAINED and not imported
            for kind, imported in zip(kinds, cells["imported"].to_list(), strict=True)
        ]
    )
    table = scores(images, values, trained)
    low, high = table.intervals()
    if unit == "%":
        low, high = np.clip(low, 0, 100), np.clip(high, 0, 100)
    elif metric == "R2":
        high = np.minimum(high, 1)
    pairs = [
        (index, place[starts[row]])
        for row, index in place.items()
        if row in starts and starts[row] in place
    ]
    digests = {
        ((recipe, backbone), seed): digest
        for recipe, backbone, seed, digest in order.select(*_ROW, "seed", "digest").rows()
    }
    family = differences(table, all_pairs(len(rows)))
    against = differences(table, np.array(pairs, np.intp).reshape(-1, 2))
    if unit == "%":
        family, against = _within_100(family), _within_100(against)
    return Confidence(
        evaluation, metric, unit, rows, table, low, high, family, against, seeds, digests
    )


def _within_100(family: Family) -> Family:
    """The family with intervals cut where no two percentages are further apart."""
    return replace(family, low=family.low.clip(-100, 100), high=family.high.clip(-100, 100))


def _values(
    source: Source, evaluation: Evaluation, metric: str, place: dict[Row, int], seeds: int
) -> Floats:
    """Score of each row and seed ``(R, S)``, seeds in ascending order."""
    found: list[dict[int, float]] = [{} for _ in place]
    for item in source.traced:
        if source.heading.evaluation_of(item.records[0]) == evaluation:
            for record in item.records:
                if record.metric == metric:
                    found[place[record.recipe, record.backbone]][record.seed] = record.value
    return np.array([[row[seed] for seed in sorted(row)] for row in found]).reshape(-1, seeds)


def _check_scores(
    evaluation: Evaluation, metric: str, rows: Sequence[Row], found: Floats, recorded: Floats
) -> None:
    for row, mine, theirs in zip(rows, found, recorded, strict=True):
        if abs(mine - theirs) > TOLERANCE:
            raise UserError(
                DECISIONS,
                f"gives {'/'.join(row)} {mine:.2f} in {evaluation}/{metric}, its records "
                f"{theirs:.2f}",
                remedy=f"run python -m steps.{evaluation.task} and the report again",
            )


def _starts(source: Source) -> dict[Row, Row]:
    """The untrained row that each trained row starts from.

    It has the same backbone and, if possible, the same kind of position embeddings: BEiT's differ.
    """
    shapes: dict[Row, tuple[bool, str]] = {}
    for item in source.traced:
        record = item.records[0]
        shapes[record.recipe, record.backbone] = (record.kind == UNTRAINED, _positions(item))
    untrained = [(row, positions) for row, (random, positions) in shapes.items() if random]
    starts: dict[Row, Row] = {}
    for row, (random, positions) in shapes.items():
        same = [(each, other) for each, other in untrained if each[1] == row[1]]
        like = [each for each, other in same if other == positions] or [each for each, _ in same]
        if not random and like:
            starts[row] = like[0]
    return starts


def _positions(item: TracedRecord) -> str:
    recipe: Any = item.pretrained.params.get("recipe")
    method = recipe.get("method") if isinstance(recipe, dict) else None
    backbone = method.get("backbone") if isinstance(method, dict) else None
    return str(backbone.get("relative_positions", "")) if isinstance(backbone, dict) else ""
