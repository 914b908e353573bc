"""The published figures as data: ``results.csv``, ``owner_ranking.csv``, ``matching.yaml``."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, TypeVar

from annotated_types import Len
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from steps.artifacts import Record
from steps.command import UserError
from steps.params.base import Params
from steps.params.load import load
from steps.reporting.source import HEADING, TracedRecord, read_source
from steps.reporting.text import measured

RESULTS, RANKING, MATCHING = "results.csv", "owner_ranking.csv", "matching.yaml"
DOUBTFUL = "low confidence"
"""How the note of a figure begins that no table may show."""
COCO_TASKS = ("coco_box_ap", "coco_mask_ap")

T = TypeVar("T", bound=BaseModel)


def _number(text: str) -> str:
    if not math.isfinite(float(text)):
        raise ValueError("a finite number")
    return text


Number = Annotated[str, AfterValidator(_number)]
"""A number with the digits that its source prints."""


class Figure(BaseModel):
    """A row of ``results.csv``; an empty cell is what the source does not say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    line: int
    """Of the file, its head being line 1."""
    method: str
    family: str
    backbone: str
    params_m: str
    pretrain_data: str
    pretrain_epochs: str
    resolution: str
    task: str
    protocol: str
    value: Number
    unit: str
    source_title: str
    source_ref: str
    note: str

    @property
    def scale(self) -> str:
        """The backbone without its patch size."""
        return self.backbone.split("/")[0]


class Place(BaseModel):
    """A row of ``owner_ranking.csv``: five columns as given, then what an audit of it found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    line: int
    model: str
    type: str
    scale: str
    score: Number
    epoch: Number
    verdict: str
    source_value: Number
    source_ref: str
    reason: str

    @property
    def agrees(self) -> bool:
        """Whether the figure that the audit found is the one given."""
        return float(self.score) == float(self.source_value)


class MatchedMethod(Params):
    """One of our methods under the names that published tables give it."""

    method: str
    ranking: str | None
    results: str
    data: Annotated[list[str], Len(1)]


class Classification(Params):
    """Records beside the ranking."""

    dataset: str
    task: str
    metric: str
    protocols: list[str]


class Detector(Params):
    """A detector: published protocols by their first words, ours by name."""

    name: str
    published: Annotated[list[str], Len(1)]
    protocols: list[str]


class DetectionTable(Params):
    """Records beside the COCO table."""

    dataset: str
    task: str
    box: str
    mask: str
    detectors: list[Detector]


class Carried(Params):
    """Published figures that the order of a small experiment is held against."""

    task: str
    """Of ours; by its first protocol and headline metric."""
    published: str
    """The task in ``results.csv``."""
    backbone: str
    """In ``results.csv``, of the family that ours are of."""


class Matching(Params):
    """``matching.yaml``."""

    pretrain_dataset: str
    methods: list[MatchedMethod]
    imagenet: Classification
    coco: DetectionTable
    carries: list[Carried] = Field(default_factory=list)

    def detector(self, protocol: str) -> Detector | None:
        """The detector of a published protocol."""
        return next(
            (
                each
                for each in self.coco.detectors
                if any(protocol.startswith(prefix) for prefix in each.published)
            ),
            None,
        )


@dataclass(frozen=True)
class Pair:
    """Box and mask AP of one detector as one source prints them. One of them may be missing."""

    box: Figure | None
    mask: Figure | None

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Those that are there."""
        return tuple(figure for figure in (self.box, self.mask) if figure is not None)

    @property
    def first(self) -> Figure:
        """For what both have in common."""
        return self.figures[0]


@dataclass(frozen=True)
class Published:
    """The folder's content."""

    folder: Path
    figures: tuple[Figure, ...]
    ranking: tuple[Place, ...]
    matching: Matching

    def behind(self, place: Place) -> list[Figure]:
        """The fine-tuning figures that carry the audited value of a place of the ranking.

        Those of its epochs, if there are any.
        """
        names = [each.results for each in self.matching.methods if each.ranking == place.model]
        found = [
            figure
            for figure in self.figures
            if figure.task == "imagenet_finetune"
            and figure.method in names
            and figure.scale == place.scale
            and float(figure.value) == float(place.source_value)
        ]
        return [each for each in found if each.pretrain_epochs == place.epoch] or found

    def detection(self) -> list[Pair]:
        """The COCO figures, best box AP first; equals in the order of the file."""
        pairs: dict[tuple[str, ...], dict[str, Figure]] = {}
        for figure in self.figures:
            if figure.task in COCO_TASKS and not figure.note.startswith(DOUBTFUL):
                key = (
                    figure.method,
                    figure.backbone,
                    figure.pretrain_data,
                    figure.pretrain_epochs,
                    figure.resolution,
                    figure.protocol,
                    figure.source_ref,
                )
                pairs.setdefault(key, {})[figure.task] = figure
        found = [Pair(*(pair.get(task) for task in COCO_TASKS)) for pair in pairs.values()]
        return sorted(found, key=lambda pair: -float(pair.first.value))

    def doubtful(self) -> list[Figure]:
        """COCO figures that the table leaves out."""
        return [
            figure
            for figure in self.figures
            if figure.task in COCO_TASKS and figure.note.startswith(DOUBTFUL)
        ]


def is_published(folder: Path) -> bool:
    """Whether a folder holds published figures rather than an experiment's report."""
    return (folder / RANKING).is_file()


def read_published(folder: Path) -> Published:
    """Read and check the folder.

    Raises:
        UserError: a file is missing or has a row that cannot be read, or a COCO protocol is of no
            detector that ``matching.yaml`` names.
    """
    figures = tuple(_rows(folder / RESULTS, Figure))
    matching = load(folder / MATCHING, Matching)
    for figure in figures:
        if (
            figure.task in COCO_TASKS
            and not figure.note.startswith(DOUBTFUL)
            and matching.detector(figure.protocol) is None
        ):
            raise UserError(
                f"{folder / RESULTS}: line {figure.line}",
                f"the protocol {figure.protocol!r} begins like no detector's",
                allowed=", ".join(each for d in matching.coco.detectors for each in d.published),
                remedy=f"name it in {folder / MATCHING}",
            )
    return Published(folder, figures, tuple(_rows(folder / RANKING, Place)), matching)


def _rows(path: Path, model: type[T]) -> Iterator[T]:
    if not path.is_file():
        raise UserError(str(path), "missing")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        for row in reader:
            try:
                yield model.model_validate({**row, "line": reader.line_num})
            except ValidationError as error:
                first = error.errors()[0]
                raise UserError(
                    f"{path}: line {reader.line_num}",
                    f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
                    allowed="the columns " + ", ".join(model.model_fields),
                ) from error


# --- Which measured records stand beside a published row: the rule of ``matching.yaml``, applied
# A number that is not comparable must not enter: a record counts only with the method, the scale,
# both data sets, task, metric and protocol that the rule names. Nothing is guessed from names.


@dataclass(frozen=True)
class Measurement:
    """A record with the report that it stands in and the record file that it is of."""

    report: Path
    results: str
    traced: TracedRecord
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
