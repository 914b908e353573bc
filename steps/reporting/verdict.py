"""The verdict: sentences at the top of a page, made from the numbers of its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import polars as pl

from steps.params.methods import FAMILIES
from steps.params.tasks import TASKS
from steps.reporting.confidence import Confidence, Confidences
from steps.reporting.source import Evaluation, Source, TracedRecord
from steps.reporting.summary import (
    UNTRAINED,
    Row,
    by_row,
    cells_of,
    model_name,
    ranked,
    ranked_by,
)
from steps.reporting.text import flops_unit, measured, plain, plural, significant

WITHOUT_LABELS = ("contrastive", "masked", "position", "hybrid")
"""Families of methods without labels or captions."""
LANGUAGE = "language"
"""The family of methods that read captions. Captions name the class, so these methods do not count
as methods without labels."""
EQUAL_COMPUTE = 1.05
"""Largest ratio of the trained rows' most to least compute that counts as equal."""
SATURATED = 95.0
"""Percentage reached by random weights from which a task counts as saturated."""
FEW_IMAGES = 30
"""Number of validation images below which a verdict warns."""
_LISTED = 6


def verdict(
    source: Source, summary: pl.DataFrame, sure: Confidences, section: dict[Evaluation, str]
) -> list[str]:
    """The verdict's paragraphs, and the evaluations to run again for lack of intervals.

    Args:
        source: of the report.
        summary: of its records.
        sure: confidence of its scores.
        section: each evaluation in words.
    """
    parts = []
    best = sure.known.get(ranked_by(source.heading))
    if best is not None and len(best.rows) > 1:
        words = _Words(source, summary)
        said = [*words.leader(best), *words.baselines(sure, best), *words.families(best)]
        weak = words.weaknesses(best, sure)
        if said:
            parts.append(f"**Verdict.** {' '.join(said)}\n")
        if weak:
            parts.append(f"**What weakens it.** {' '.join(weak)}\n")
    if sure.missing:
        parts.append(_again(sure, section))
    return parts


def _again(sure: Confidences, section: dict[Evaluation, str]) -> str:
    names = ", ".join(section[evaluation] for evaluation in sure.missing)
    steps = dict.fromkeys(f"`python -m steps.{each.task}`" for each in sure.missing)
    return (
        f"**No intervals** are known for {names}: the decisions behind their records were not "
        "kept, so any of their differences may be chance. Run these evaluations "
        f"({', '.join(steps)}) and the report again.\n"
    )


class _Words:
    """Sentences about one experiment."""

    def __init__(self, source: Source, summary: pl.DataFrame) -> None:
        self.heading = source.heading
        self.summary = summary
        self.family = _families(source)
        rows = by_row(ranked(summary, source.heading))
        self.rows = {row: cells for row, cells in rows.items() if row[0] not in source.heading.kept}
        """Rows that a verdict may name: none of weights kept along the way of another row."""

    @property
    def counted(self) -> str:
        """Noun for rows in counts: a method where each has one row."""
        heading = self.heading
        return "row" if len(heading.backbones) > 1 or heading.scaling else "method"

    def name(self, row: Row) -> str:
        return plain(model_name(*row, self.heading))

    def names(self, rows: Iterable[Row]) -> str:
        return _listed([self.name(row) for row in rows])

    def free(self, rows: Iterable[Row]) -> list[Row]:
        """Rows that were trained without labels or captions."""
        return [row for row in rows if row in self.rows and self.family[row] in WITHOUT_LABELS]

    def score(self, confidence: Confidence, row: Row) -> str:
        place = confidence.place[row]
        unit = confidence.unit
        return (
            f"{measured(float(confidence.table.score[place]), unit)}"
            f"{f' {unit}' if unit else ''} "
            f"{_interval(confidence.low[place], confidence.high[place], unit)}"
        )

    def leader(self, confidence: Confidence) -> list[str]:
        """Leader of the rows without labels, its lead, and the position of labels and captions."""
        by_score = sorted(
            confidence.rows, key=lambda row: -confidence.table.score[confidence.place[row]]
        )
        # No claim rests on rows whose seeds or embeddings went astray.
        free = self.free(by_score)
        sound = [row for row in free if self.is_sound(confidence, row)]
        if not sound:
            return []
        first, others = sound[0], sound[1:]
        aside = free[: free.index(first)]
        cells = cells_of(self.summary, confidence.evaluation, metric=confidence.metric)
        how = f"by {_task(confidence.evaluation)}"
        tied = [row for row in others if not confidence.pair(first, row)[3]]
        named = [first, *(tied or others[:1])]
        where = f"{self.at_compute(named)}on {plain(cells['dataset'][0])}"
        if aside:
            where += f", {self.names(aside)} left aside as unstable or collapsed"
        score = self.score(confidence, first)
        if not others:
            said = [f"{where[0].upper()}{where[1:]}, {self.name(first)} reaches {score} {how}."]
        elif tied:
            said = [
                f"{where[0].upper()}{where[1:]}, {self.name(first)} has the highest score without "
                f"labels {how}, {score}, but {self.names(tied)} cannot be told apart from it."
            ]
        else:
            gap = self.gap(confidence, first, others[0])
            said = [
                f"{where[0].upper()}{where[1:]}, {self.name(first)} leads the methods without "
                f"labels {how} with {score}, {gap} above {self.name(others[0])}."
            ]
        told = [
            self.beside(confidence, rivals[0], first, what)
            for family, what in (("supervised", "labels"), (LANGUAGE, "captions"))
            if (rivals := [row for row in by_score if self.is_rival(confidence, row, family)])
        ]
        return [*said, *([f"{'; '.join(told)}."] if told else [])]

    def is_rival(self, confidence: Confidence, row: Row, family: str) -> bool:
        """True of a row of a family whose score can be trusted."""
        return row in self.rows and self.family[row] == family and self.is_sound(confidence, row)

    def beside(self, confidence: Confidence, rival: Row, first: Row, what: str) -> str:
        """Position of a row trained with labels or captions relative to the leader."""
        difference, _, _, apart = confidence.pair(rival, first)
        text = f"{self.name(rival)}, which uses {what},"
        if not apart:
            return f"{text} cannot be told apart from {self.name(first)}"
        one, other, way = (rival, first, "above") if difference > 0 else (first, rival, "below")
        return f"{text} is {self.gap(confidence, one, other)} {way} {self.name(first)}"

    def gap(self, confidence: Confidence, one: Row, other: Row) -> str:
        """Lead of a row over another, with its interval."""
        difference, low, high, _ = confidence.pair(one, other)
        noun = " points" if confidence.unit == "%" else ""
        text = measured(difference, confidence.unit)
        return f"{text}{noun} {_interval(low, high, confidence.unit)}"

    def baselines(self, sure: Confidences, best: Confidence) -> list[str]:
        """Methods that beat random weights, and evaluations in which none does."""
        found = best.beats_baseline
        free = [row for row in self.free(found) if self.is_sound(best, row)]
        better = [row for row in free if found[row] > 0]
        rest = [row for row in free if found[row] <= 0]
        said = []
        what = self.counted
        if better:
            text = f"{len(better)} of {plural(len(free), what)} without labels "
            text += "beats" if len(better) == 1 else "beat"
            said.append(f"{text} random weights")
            if len({int(other) for other in best.against.pairs[:, 1]}) > 1:
                said[0] += f" of {'its' if len(better) == 1 else 'their'} own backbone"
            if rest:
                said.append(f"{self.names(rest)} {'does' if len(rest) == 1 else 'do'} not")
        nobody = dict.fromkeys(
            _task(each.evaluation) + _on(each.evaluation)
            for each in sure.known.values()
            # A bias says which cue is followed, and a higher one is not a better one.
            if each.evaluation.task != "bias"
            and (
                rows := [row for row in self.free(each.beats_baseline) if self.is_sound(each, row)]
            )
            and not any(each.beats_baseline[row] > 0 for row in rows)
        )
        if nobody:
            none = "none does" if said else f"no {what} without labels beats random weights"
            said.append(f"{none} by {_listed(list(nobody), 'or')}")
        text = "; ".join(said)
        return [f"{text[0].upper()}{text[1:]}."] if text else []

    def families(self, confidence: Confidence) -> list[str]:
        """Medians of families, if there are several and one has two methods or more."""
        scores: dict[str, list[float]] = {}
        for row in self.free(confidence.rows):
            if self.is_sound(confidence, row):
                score = float(confidence.table.score[confidence.place[row]])
                scores.setdefault(self.family[row], []).append(score)
        if len(scores) < 2 or max(map(len, scores.values())) < 2:
            return []
        order = sorted(scores, key=lambda family: -median(scores[family]))
        told = [
            f"{family} {measured(median(scores[family]), confidence.unit)} ({len(scores[family])})"
            for family in order
        ]
        return [f"Median score of each family (number of {self.counted}s): {', '.join(told)}."]

    def weaknesses(self, confidence: Confidence, sure: Confidences) -> list[str]:
        """Caveats to the verdict."""
        said = []
        if confidence.seeds == 1:
            said.append("One seed: intervals cover only the choice of images.")
        collapsed = [row for row, cells in self.rows.items() if cells["collapsed"]]
        if collapsed:
            said.append(f"The embeddings of {self.names(collapsed)} collapsed: those runs failed.")
        for rows, evaluations in sure.unstable.items():
            if unstable := [row for row in rows if row in self.rows]:
                tasks = dict.fromkeys(_task(each) + _on(each) for each in evaluations)
                said.append(
                    f"By {_listed(list(tasks))}, the seeds of {self.names(unstable)} spread more "
                    "than those of other rows (unstable), so no such claim rests on them."
                )
        least, most = self.compute()
        if most > EQUAL_COMPUTE * least:
            divisor, unit = flops_unit(most)
            ends = (significant(each / divisor) for each in (least, most))
            said.append(f"Compute is unequal: {' to '.join(ends)} {unit}.")
        if imported := [row for row, cells in self.rows.items() if cells["imported"]]:
            said.append(f"The compute behind {self.names(imported)} is not known.")
        if confidence.table.images.n < FEW_IMAGES:
            said.append(
                f"{plural(confidence.table.images.n, 'validation image')}: fewer than "
                f"{FEW_IMAGES} are hardly a sample."
            )
        starts = {int(other) for other in confidence.against.pairs[:, 1]}
        floor = max((float(confidence.table.score[each]) for each in starts), default=0.0)
        if confidence.unit == "%" and floor >= SATURATED:
            said.append(
                f"Random weights reach {measured(floor, '%')} %: the task is saturated and "
                "separates little."
            )
        return said

    def is_sound(self, confidence: Confidence, row: Row) -> bool:
        """True of a row that is stable and did not collapse."""
        unstable = confidence.table.unstable[confidence.place[row]]
        return not unstable and not self.rows[row]["collapsed"]

    def compute(self) -> tuple[float, float]:
        """Least and most FLOPs of rows that were trained here."""
        flops = [
            float(cells["flops"])
            for cells in self.rows.values()
            if cells["kind"] != UNTRAINED and not cells["imported"]
        ]
        return min(flops, default=0.0), max(flops, default=0.0)

    def at_compute(self, named: Iterable[Row]) -> str:
        """``at 36.0 TFLOPs `` where all trained rows had as much, and none of those named has
        weights from elsewhere; else nothing."""
        least, most = self.compute()
        if any(self.rows[row]["imported"] for row in named):
            return ""
        if not least or most > EQUAL_COMPUTE * least:
            return ""
        divisor, unit = flops_unit(most)
        return f"at {significant(most / divisor)} {unit} "


def _task(evaluation: Evaluation) -> str:
    """A task as part of a sentence."""
    title = TASKS[evaluation.task].title
    return title[0].lower() + title[1:]


def _on(evaluation: Evaluation) -> str:
    """The set, where there are several."""
    return f" on {plain(evaluation.dataset)}" if evaluation.dataset else ""


def _families(source: Source) -> dict[Row, str]:
    return {
        (item.records[0].recipe, item.records[0].backbone): _family(item) for item in source.traced
    }


def _family(item: TracedRecord) -> str:
    record = item.records[0]
    recipe: Any = item.pretrained.params.get("recipe")
    method = recipe.get("method") if isinstance(recipe, dict) else None
    if record.method in ("clip", "siglip") or (
        isinstance(method, dict) and method.get("text_tower")
    ):
        return LANGUAGE
    return FAMILIES.get(record.method, record.kind.lower())


def _interval(low: float, high: float, unit: str) -> str:
    return f"\\[{measured(float(low), unit)}, {measured(float(high), unit)}\\]"


def _listed(names: Sequence[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and 7 more``."""
    shown = list(names)
    if len(shown) > _LISTED + 1:
        shown = [*shown[:_LISTED], f"{len(shown) - _LISTED} more"]
    return f" {last} ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
