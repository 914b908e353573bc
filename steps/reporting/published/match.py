"""Which measured records stand beside a published row: the rule of ``matching.yaml``, applied.

A number that is not comparable must not enter: a record counts only with the method, the scale,
both data sets, task, metric and protocol that the rule names. Nothing is guessed from names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev

from steps.artifacts import Record
from steps.reporting.published.data import MatchedMethod, Matching, Pair, Place
from steps.reporting.quantities import measured
from steps.reporting.source import HEADING, Traced, read_source


@dataclass(frozen=True)
class Measurement:
    """A record with the report that it stands in and the record file that it is of."""

    report: Path
    results: str
    traced: Traced
    record: Record

    @property
    def official(self) -> bool:
        """Whether the authors' weights were measured, and not a pretraining of ours."""
        return self.traced.imported


@dataclass(frozen=True)
class Score:
    """What the seeds of one recipe under one protocol gave. At least one measurement."""

    measurements: tuple[Measurement, ...]

    @property
    def first(self) -> Measurement:
        """For what all have in common."""
        return self.measurements[0]

    @property
    def collapsed(self) -> bool:
        """Whether the embeddings of a seed were collapsed."""
        return any(each.traced.collapsed for each in self.measurements)

    def text(self) -> str:
        """Mean, and ± the sample deviation where there are several seeds."""
        values = [each.record.value for each in self.measurements]
        unit = self.first.record.unit
        said = measured(mean(values), unit)
        return said if len(values) == 1 else f"{said} ± {measured(stdev(values), unit)}"


def measurements_beside(folder: Path) -> list[Measurement]:
    """Every record of the reports that stand beside a folder, in the order of their names."""
    found = []
    for report in sorted(path.parent for path in folder.parent.glob(f"*/{HEADING}")):
        source = read_source(report)
        found += [
            Measurement(report, source.heading.results, traced, record)
            for traced in source.traced
            for record in traced.records
        ]
    return found


def beside_place(
    place: Place, matching: Matching, measurements: Iterable[Measurement]
) -> list[Score]:
    """What was measured of the method and scale of a place in the ranking."""
    rule = matching.imagenet
    methods = [each for each in matching.methods if each.ranking == place.model]
    return _scores(
        _of(methods, place.scale, matching, measurements),
        dataset=rule.dataset,
        task=rule.task,
        metric=rule.metric,
        protocols=rule.protocols,
    )


def beside_pair(
    pair: Pair, metric: str, matching: Matching, measurements: Iterable[Measurement]
) -> list[Score]:
    """What was measured of a COCO row's method and scale in the same detector.

    Args:
        pair: the row.
        metric: of the record, ``matching.coco.box`` or ``.mask``.
        matching: the rule.
        measurements: to choose from.
    """
    figure, rule = pair.first, matching.coco
    detector = matching.detector(figure.protocol)
    methods = [
        each
        for each in matching.methods
        if each.results == figure.method and figure.pretrain_data in each.data
    ]
    return _scores(
        _of(methods, figure.scale, matching, measurements),
        dataset=rule.dataset,
        task=rule.task,
        metric=metric,
        protocols=[] if detector is None else detector.protocols,
    )


def _of(
    methods: Sequence[MatchedMethod],
    scale: str,
    matching: Matching,
    measurements: Iterable[Measurement],
) -> list[Measurement]:
    names = [each.method for each in methods]
    return [
        each
        for each in measurements
        if each.record.method in names
        and each.record.scale == scale
        and each.record.pretrain_dataset == matching.pretrain_dataset
    ]


def _scores(
    measurements: Iterable[Measurement],
    *,
    dataset: str,
    task: str,
    metric: str,
    protocols: Sequence[str],
) -> list[Score]:
    chosen = [
        each
        for each in measurements
        if (each.record.dataset, each.record.task, each.record.metric) == (dataset, task, metric)
        and each.record.protocol in protocols
    ]
    groups = groupby(sorted(chosen, key=_order), key=lambda each: _order(each)[:-1])
    return [Score(tuple(group)) for _, group in groups]


def _order(each: Measurement) -> tuple[str, str, str, str, float, int]:
    record = each.record
    return (
        each.report.name,
        record.recipe,
        record.backbone,
        record.protocol,
        record.epochs,
        record.seed,
    )
