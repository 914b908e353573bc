"""The source of a report: spec, traced record files, curves, decisions. Rendering reads nothing
else."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import polars as pl
from annotated_types import Len
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from steps.artifacts import Manifest, Record
from steps.artifacts.manifest import CodeVersion, digest_value
from steps.command import UserError
from steps.params.budget import Budget
from steps.params.experiment import Experiment
from steps.params.load import shortened
from steps.params.tasks import TASKS
from steps.reporting.decided import (
    DECISIONS_SCHEMA,
    IMAGES_SCHEMA,
    TABLE,
    Decided,
    decided_files,
    read_decided,
)

HEADING, RECORDS, CURVES = "report.json", "records.jsonl", "curves.csv"
OFFICIAL = "official"
"""The key in a backbone's params that names the file which ``steps.import`` read."""
UNEQUAL = 3
"""Factor between the largest and the smallest class from which class sizes count as unequal."""
CURVES_SCHEMA = pl.Schema(
    {
        "recipe": pl.String,
        "backbone": pl.String,
        "seed": pl.Int64,
        "step": pl.Int64,
        "epoch": pl.Float64,
        "loss": pl.Float64,
        "knn_top1": pl.Float64,
    }
)


class Evaluation(NamedTuple):
    """A task by a protocol, on one of several sets; it has its own table."""

    task: str
    protocol: str
    dataset: str = ""
    """One of ``evaluate_on``; empty where the experiment names one set for the task."""

    def __str__(self) -> str:
        return "/".join(filter(None, self))


class ScaledRow(BaseModel):
    """A row of a study of scale: a method at a length, on a share of the images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    length: float
    """Factor on the recipe's epochs, or on the budget."""
    data_share: float


class ReportSpec(BaseModel):
    """``report.json``: the part of an experiment that its page shows, and the paths it prints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    question: str
    methods: tuple[str, ...]
    backbones: tuple[str, ...]
    seeds: tuple[int, ...]
    tasks: dict[str, tuple[str, ...]]
    """Each task's protocols, in the order of the tables."""
    evaluate_on: tuple[str, ...] = ()
    """Sets of the tasks that read no set of their own, if there may be several."""
    only: dict[str, tuple[str, ...]] = {}
    """Tasks that apply only to some methods, with those methods."""
    imported: dict[str, str] = {}
    """Official checkpoints among the methods, with the backbone of each."""
    kept: dict[str, str] = {}
    """Rows of weights that a pretraining kept along its way, with the row of that pretraining."""
    trials: dict[str, int] = {}
    """Number of settings of a row's recipe that were tried, where its file says it."""
    scaling: dict[str, ScaledRow] = {}
    """Rows of a study of scale by name."""
    budget: Budget | None = None
    """Budget of each row trained here; in a study of scale, of length 1."""
    experiment: str
    """The params file. This path and the next two are as commands print them."""
    results: str
    out: str

    @classmethod
    def of(
        cls, experiment: Experiment, text_methods: Sequence[str] = (), /, **paths: str
    ) -> ReportSpec:
        """The spec of an experiment's report.

        Args:
            experiment: its params.
            text_methods: its rows with a text tower, the only ones in the tables of text tasks.
            paths: ``experiment``, ``results`` and ``out``.
        """
        same = {"title", "question", "backbones", "seeds", "tasks", "budget"}
        return cls(
            **experiment.model_dump(include=same),
            methods=tuple(experiment.names),
            evaluate_on=tuple(experiment.evaluate_on or ()),
            only={
                task: tuple(text_methods)
                for task in experiment.tasks
                if "text" in TASKS[task].needs
            },
            imported={name: each.backbone for name, each in experiment.imported.items()},
            trials=experiment.trials,
            kept={name: each.recipe for name, each in experiment.kept.items()},
            scaling=_scaled_rows(experiment),
            **paths,
        )

    def evaluations(self) -> list[Evaluation]:
        """Every task by each of its protocols on each of its sets, in the order of the tables."""
        return [
            Evaluation(task, protocol, dataset)
            for task, protocols in self.tasks.items()
            for protocol in protocols
            for dataset in self.sets_of(task)
        ]

    def sets_of(self, task: str) -> tuple[str, ...]:
        """The sets that tell evaluations of a task apart; an empty name where there is one set."""
        several = task in TASKS and TASKS[task].reads == "dataset"
        return (several and self.evaluate_on) or ("",)

    def first(self, task: str) -> Evaluation:
        """The evaluation that represents a task: by its first protocol, on its first set."""
        return Evaluation(task, self.tasks[task][0], self.sets_of(task)[0])

    def evaluation_of(self, record: Record) -> Evaluation:
        """The evaluation that a record belongs to."""
        dataset = record.dataset if any(self.sets_of(record.task)) else ""
        return Evaluation(record.task, record.protocol, dataset)

    def shown(self, method: str) -> str:
        """A method's name in tables and figures: without the budget if all rows share one."""
        if self.budget is None or self.scaling:
            return method
        row = self.kept.get(method, method)
        return row.removesuffix(f"-{self.budget.name}") + method.removeprefix(row)

    def label(self, evaluation: Evaluation, on: str = " on ") -> str:
        """A short name: the task, or the protocol if the task has several; then ``on`` and the set,
        if there are several."""
        alone = len(self.tasks[evaluation.task]) == 1
        name = evaluation.task if alone else evaluation.protocol
        return f"{name}{on}{evaluation.dataset}" if evaluation.dataset else name

    def has_row(self, method: str, backbone: str) -> bool:
        """True if a method has a row on a backbone: an official checkpoint has only its own."""
        return self.imported.get(method, backbone) == backbone

    def methods_of(self, task: str) -> tuple[str, ...]:
        """The methods that have a row in a task's table."""
        return self.only.get(task, self.methods)


def _scaled_rows(experiment: Experiment) -> dict[str, ScaledRow]:
    """The rows of a study of scale by name; within a budget, lengths are factors on it."""
    if experiment.scaling is None:
        return {}
    rows = {}
    for name, each in experiment.scaled.items():
        length = each.length
        if each.budget is not None and experiment.budget is not None:
            length = float(f"{each.budget.amount / experiment.budget.amount:g}")
        if each.recipe in experiment.scaling.methods:
            rows[name] = ScaledRow(recipe=each.recipe, length=length, data_share=each.data_share)
    return rows


class Provenance(BaseModel):
    """A step's manifest without its files: params, inputs, code, libraries, device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: str
    digest: str
    params: dict[str, Any]
    inputs: dict[str, str]
    seed: int | None
    code: CodeVersion
    libraries: dict[str, str]
    device: str
    wall_seconds: float
    peak_memory_mib: float

    @classmethod
    def of(cls, manifest: Manifest) -> Provenance:
        """The provenance that a manifest holds."""
        return cls(**{name: getattr(manifest, name) for name in cls.model_fields})


class TracedRecord(BaseModel):
    """One record file, its path below the results, and the provenance of its records."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    records: Annotated[tuple[Record, ...], Len(1)]
    measured: Provenance
    pretrained: Provenance
    collapsed: bool = False
    """True if pretraining ended with collapsed embeddings (``steps.engine.watch``)."""
    behind: dict[str, FiniteFloat] = {}
    """Cost of teachers and tokenizers within a budget: FLOPs, images seen, device seconds."""
    elsewhere: tuple[str, ...] = ()
    """Teachers and tokenizers with external weights, whose training is not counted."""
    code_changed: tuple[dict[str, Any], ...] = ()
    """Steps at which pretraining resumed a checkpoint of other code, with the changes."""

    @property
    def imported(self) -> bool:
        """True if weights from elsewhere were measured instead of a pretraining run here."""
        return OFFICIAL in self.pretrained.params


@dataclass(frozen=True)
class Source:
    """Everything that a page is rendered from. ``curves`` has the columns of ``CURVES_SCHEMA``."""

    heading: ReportSpec
    traced: tuple[TracedRecord, ...]
    curves: pl.DataFrame
    decisions: pl.DataFrame = field(default_factory=DECISIONS_SCHEMA.to_frame)
    """Columns of ``DECISIONS_SCHEMA``; older evaluations have no rows."""
    images: pl.DataFrame = field(default_factory=IMAGES_SCHEMA.to_frame)
    """Columns of ``IMAGES_SCHEMA``: labels of the decided images."""

    @property
    def trained(self) -> list[str]:
        """The methods that have curves, in the experiment's order."""
        known = set(self.curves["recipe"])
        return [recipe for recipe in self.heading.methods if recipe in known]

    def class_counts(self) -> dict[Evaluation, dict[str, int]]:
        """Images per class, largest class first, of evaluations whose labels are known."""
        labels = {
            images: dict(zip(classes, np.bincount(found, minlength=len(classes)), strict=True))
            for images, found, classes in self.images.select("images", "labels", "classes").rows()
            if classes
        }
        tables = self.decisions.select(*TABLE, "images").unique(maintain_order=True)
        return {
            Evaluation(*table): {
                name: int(count)
                for name, count in sorted(labels[images].items(), key=lambda item: -item[1])
            }
            for *table, images in tables.rows()
            if images in labels
        }

    def records(self) -> pl.DataFrame:
        """One row per record, in order: its fields, ``collapsed``, ``imported``, ``unequal`` (class
        sizes), ``images_behind``, seen by teacher and tokenizer within a budget, and
        ``evaluate_on``, the set if the evaluation is on one of several. FLOPs and device seconds
        include those of teacher and tokenizer."""
        unequal = {
            evaluation
            for evaluation, counts in self.class_counts().items()
            if (some := [count for count in counts.values() if count])
            and max(some) >= UNEQUAL * min(some)
        }
        rows = [
            {
                **record.model_dump(),
                "flops": record.flops + item.behind.get("flops", 0),
                "device_seconds": record.device_seconds + item.behind.get("device_seconds", 0),
                "images_behind": int(item.behind.get("images_seen", 0)),
                "collapsed": item.collapsed,
                "imported": item.imported,
                "unequal": self.heading.evaluation_of(record) in unequal,
                "evaluate_on": self.heading.evaluation_of(record).dataset,
            }
            for item in self.traced
            for record in item.records
        ]
        return pl.DataFrame(rows, infer_schema_length=None)


def make_source(
    heading: ReportSpec, traced: Sequence[TracedRecord], curves: pl.DataFrame
) -> Source:
    """A source in the experiment's order: task, protocol, set, method, backbone, seed.

    Raises:
        UserError: a record appears twice, is missing or does not belong to the experiment, its
            numbers are not those that its step wrote, or rows of one table were measured on
            different versions of a set.
    """
    seen: dict[str, str] = {}
    orders = _orders(heading)
    placed: list[tuple[list[int], TracedRecord]] = []
    for item in traced:
        for record in item.records:
            place = _place(orders, item.source, record)
            cell = f"{record.recipe}/{record.backbone}/{heading.evaluation_of(record)}"
            cell += f"/{record.metric}/seed{record.seed}"
            if cell in seen:
                raise UserError(
                    item.source,
                    f"the record {cell} stands twice (first in {seen[cell]})",
                    remedy=f"run python -m steps.{record.task} for it again",
                )
            seen[cell] = item.source
        _check_digest(item)
        placed.append((place, item))
    _check_whole(heading, traced)
    _check_one_set(heading, traced)
    placed.sort(key=lambda pair: pair[0])
    return Source(heading, tuple(item for _, item in placed), curves)


def _check_whole(heading: ReportSpec, traced: Sequence[TracedRecord]) -> None:
    """Require each evaluation's record of each row and seed: a page without one would hide it."""
    there = {
        (heading.evaluation_of(record), record.recipe, record.backbone, record.seed)
        for item in traced
        for record in item.records
    }
    cells = product(heading.evaluations(), heading.methods, heading.backbones, heading.seeds)
    for evaluation, method, backbone, seed in cells:
        measured = method in heading.methods_of(evaluation.task)
        if not measured or not heading.has_row(method, backbone):
            continue
        if (evaluation, method, backbone, seed) not in there:
            raise UserError(
                HEADING,
                f"names {evaluation} of {method}/{backbone}/seed{seed}, which has no record",
                remedy="make the report again with the commands at the end of its page",
            )


def _check_one_set(heading: ReportSpec, traced: Sequence[TracedRecord]) -> None:
    """Require one version of the set behind the rows of a table, where records name it."""
    first: dict[Evaluation, TracedRecord] = {}
    for item in traced:
        evaluation = heading.evaluation_of(item.records[0])
        data = item.measured.inputs.get("data")
        if data is None:
            continue
        known = first.setdefault(evaluation, item)
        if data != (other := known.measured.inputs["data"]):
            raise UserError(
                f"{item.source}: data",
                f"measured on a version {data[:12]} of {item.records[0].dataset}, "
                f"{known.source} on {other[:12]}",
                allowed="one version, or the rows cannot be compared",
                remedy=f"run python -m steps.{item.measured.node} for the older of both again",
            )


Orders = dict[str, dict[str | int, int]]
"""Rank in the experiment of each value of a record's keys; of protocols and sets by ``task/``."""


def _orders(heading: ReportSpec) -> Orders:
    names: dict[str, Sequence[str | int]] = {
        "task": tuple(heading.tasks),
        **{f"{task}/protocol": protocols for task, protocols in heading.tasks.items()},
        **{f"{task}/dataset": heading.sets_of(task) for task in heading.tasks},
        "recipe": heading.methods,
        "backbone": heading.backbones,
        "seed": heading.seeds,
    }
    return {key: {name: index for index, name in enumerate(each)} for key, each in names.items()}


def _place(orders: Orders, source: str, record: Record) -> list[int]:
    """Rank of a record in the experiment's order, key by key."""
    place = []
    for key in ("task", "protocol", "dataset", "recipe", "backbone", "seed"):
        known = orders[f"{record.task}/{key}" if key in ("protocol", "dataset") else key]
        if "" in known:  # the task has one set, whatever its name
            continue
        found = getattr(record, key)
        if found not in known:
            raise UserError(
                f"{source}: {key}",
                f"{found!r} is not part of the experiment",
                allowed=shortened(", ".join(map(str, known)), 1000),
            )
        place.append(known[found])
    return place


def _check_digest(item: TracedRecord) -> None:
    """Compare the records with the digest in their manifest, so that an edited number shows."""
    for record in item.records:
        for name in ("value", "epochs", "flops", "device_seconds"):
            if not math.isfinite(found := getattr(record, name)):
                raise UserError(
                    item.source,
                    f"{record.metric if name == 'value' else name} is {found}",
                    allowed="a finite number",
                    remedy=f"run python -m steps.{record.task} again",
                )
    digest = digest_value([record.model_dump() for record in item.records])
    if digest != item.measured.digest:
        raise UserError(
            item.source,
            f"the records have the digest {digest[:12]}, their manifest says "
            f"{item.measured.digest[:12]}: they are not those that the step wrote",
            remedy=f"run python -m steps.{item.measured.node} and the report again",
        )


def source_files(source: Source) -> dict[str, bytes]:
    """The files that hold a source, by name; :func:`read_source` reads them back."""
    # Experiments without these have the file that they had before there were any.
    unsaid = {key for key in ("evaluate_on", "kept", "trials") if not getattr(source.heading, key)}
    spec = source.heading.model_dump(mode="json", exclude=unsaid)
    heading = json.dumps(spec, indent=2, ensure_ascii=False)
    lines = [
        json.dumps(item.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
        for item in source.traced
    ]
    curves = io.BytesIO()
    source.curves.write_csv(curves)
    return {
        HEADING: (heading + "\n").encode(),
        RECORDS: ("\n".join(lines) + "\n").encode(),
        CURVES: curves.getvalue(),
        **decided_files(Decided(source.decisions, source.images)),
    }


def read_source(folder: Path) -> Source:
    """Read the source in a report's folder.

    Raises:
        UserError: a file is missing or not as the report wrote it.
    """
    for name in (HEADING, RECORDS, CURVES):
        if not (folder / name).is_file():
            raise UserError(
                str(folder / name),
                "missing, so this is not a report's folder",
                remedy="make the report with python -m steps.report --experiment … --out …",
            )
    where = str(folder / HEADING)
    try:
        heading = ReportSpec.model_validate_json((folder / HEADING).read_bytes())
        traced = []
        for number, line in enumerate((folder / RECORDS).read_bytes().splitlines(), 1):
            where = f"{folder / RECORDS}: line {number}"
            traced.append(TracedRecord.model_validate_json(line))
        where = str(folder / CURVES)
        curves = pl.read_csv(folder / CURVES, schema=CURVES_SCHEMA)
    except (ValidationError, pl.exceptions.PolarsError) as error:
        problem = str(error).splitlines()[0]
        raise UserError(where, f"not what a report holds ({problem})") from error
    if not traced:
        raise UserError(str(folder / RECORDS), "holds no record")
    decisions, images = read_decided(folder)
    return replace(make_source(heading, traced, curves), decisions=decisions, images=images)
