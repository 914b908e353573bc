"""Collect an experiment's record files, decisions and backbone manifests into a report's source."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import polars as pl

from steps.artifacts import Manifest, Record, read_manifest, read_records
from steps.artifacts.manifest import MANIFEST, digest_file
from steps.artifacts.publish import decisions_beside
from steps.command import UserError
from steps.params.paths import Paths, data
from steps.params.paths import backbone as backbone_of
from steps.reporting.decided import Measured, decide
from steps.reporting.source import (
    CURVES_SCHEMA,
    OFFICIAL,
    Evaluation,
    Provenance,
    ReportSpec,
    Source,
    TracedRecord,
    make_source,
)

# --- Training curves: logged by a backbone artifact, thinned to the points of a figure


METRICS = "metrics.jsonl"
MOST_POINTS = 200


def read_curve(artifact: Path, manifest: Manifest) -> pl.DataFrame:
    """At most 200 points of the losses in an artifact's ``metrics.jsonl``, first and last kept.

    Lines with a k-NN accuracy are also kept; ``knn_top1`` is null in the others, ``loss`` in one
    before the first step.

    Returns:
        a frame with the columns of ``CURVES_SCHEMA``; without rows if nothing was trained here.

    Raises:
        UserError: the file is missing, differs from the published one, or holds no loss.
    """
    path = artifact / METRICS
    facts = manifest.facts
    untrained = facts["kind"] == "Random" or OFFICIAL in manifest.params
    if not path.is_file():
        if untrained:
            return CURVES_SCHEMA.to_frame()
        raise UserError(str(path), "missing", remedy="run python -m steps.pretrain again")
    if METRICS in manifest.files and digest_file(path) != manifest.files[METRICS]:
        raise UserError(
            str(path),
            "bytes differ from the manifest's checksum",
            remedy="run python -m steps.pretrain again",
        )
    points = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        try:
            entry = json.loads(line)
            knn = None if "knn_top1" not in entry else float(entry["knn_top1"])
            # Before the first step of continued pretraining there is a k-NN accuracy and no loss.
            start = entry["step"] == 0 and knn is not None
            loss = None if start else float(entry["loss"])
            point = (int(entry["step"]), float(entry["epoch"]), loss)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{path}: line {number}", "no step, epoch and loss", allowed="a JSON object"
            ) from error
        if not all(math.isfinite(value) for value in point if value is not None):
            raise UserError(f"{path}: line {number}", f"loss is {point[2]} at step {point[0]}")
        points.append((*point, knn))
    if not points and not untrained:
        raise UserError(str(path), "holds no loss", remedy="run python -m steps.pretrain again")
    row = (facts["recipe"], facts["backbone"], manifest.seed)
    kept = set(thinned(len(points)))
    return pl.DataFrame(
        [
            (*row, *point)
            for index, point in enumerate(points)
            if index in kept or point[-1] is not None
        ],
        schema=CURVES_SCHEMA,
        orient="row",
    )


def thinned(count: int, most: int = MOST_POINTS) -> list[int]:
    """Indices of at most ``most`` of ``count`` points, evenly spread, first and last among them."""
    if count <= most:
        return list(range(count))
    return [index * (count - 1) // (most - 1) for index in range(most)]


@dataclass(frozen=True)
class _Cell:
    """A method on a backbone with a seed."""

    backbone: str
    recipe: str
    seed: int

    def row(self, paths: Paths) -> str:
        return paths.row(self.backbone, self.recipe, self.seed)

    def evaluations(self, heading: ReportSpec) -> list[Evaluation]:
        """The evaluations that apply to the method."""
        return [
            evaluation
            for evaluation in heading.evaluations()
            if self.recipe in heading.methods_of(evaluation.task)
        ]


def collect(heading: ReportSpec, paths: Paths) -> Source:
    """Every record that the experiment needs, with its provenance.

    Args:
        heading: names of methods, backbones, seeds, tasks and protocols.
        paths: where its results lie.

    Raises:
        UserError: a file is missing, holds another experiment's records, or was measured on a
            backbone artifact other than the one that stands beside it; or decisions are not those
            behind their record, or over other images than those of other rows.
    """
    cells = [
        _Cell(*names)
        for names in product(heading.backbones, heading.methods, heading.seeds)
        if heading.has_row(names[1], names[0])
    ]
    _require_all(heading, paths, cells)
    traced: list[TracedRecord] = []
    curves: list[pl.DataFrame] = []
    decided: dict[str, Measured] = {}
    for cell in cells:
        artifact = Path(backbone_of(cell.row(paths)))
        backbone = read_manifest(artifact, "pretrain")
        if cell.recipe not in heading.kept:  # whose curve is the first part of another row's
            curves.append(read_curve(artifact, backbone))
        for evaluation in cell.evaluations(heading):
            file = Path(paths.record(cell.row(paths), *evaluation))
            records, manifest = read_records(file)
            if not records:
                raise UserError(
                    str(file),
                    "no records",
                    remedy=f"run python -m steps.{evaluation.task} again",
                )
            for record in records:
                _check_belongs(file, record, cell, evaluation)
                _check_measured(file, record, artifact, backbone)
            source = file.relative_to(paths.results).as_posix()
            if "decisions" in manifest.facts:
                decided[source] = Measured(
                    file=str(file),
                    records=tuple(records),
                    decisions=decisions_beside(file),
                    digest=manifest.facts["decisions"],
                    classes=tuple(manifest.facts.get("class_counts", ())),
                    data=Path(
                        data(
                            evaluation.dataset or paths.evaluated_on(evaluation.task),
                            paths.results,
                        )
                    ),
                    data_digest=manifest.inputs.get("data", ""),
                    evaluate_on=evaluation.dataset,
                )
            traced.append(
                TracedRecord(
                    source=source,
                    records=tuple(records),
                    measured=Provenance.of(manifest),
                    pretrained=Provenance.of(backbone),
                    collapsed=backbone.facts.get("collapsed", False),
                    behind=backbone.facts.get("behind", {}),
                    elsewhere=tuple(backbone.facts.get("elsewhere", ())),
                    code_changed=tuple(backbone.facts.get("code_changed", ())),
                )
            )
    made = make_source(heading, traced, pl.concat(curves))
    kept = decide([decided[item.source] for item in made.traced if item.source in decided])
    return replace(made, decisions=kept.decisions, images=kept.images)


def _require_all(heading: ReportSpec, paths: Paths, cells: list[_Cell]) -> None:
    expected = []
    for cell in cells:
        row = cell.row(paths)
        kinds = {**dict.fromkeys(heading.imported, "import"), **dict.fromkeys(heading.kept, "kept")}
        step = kinds.get(cell.recipe, "pretrain")
        expected.append((step, Path(backbone_of(row), MANIFEST)))
        expected += [
            (each.task, Path(paths.record(row, *each))) for each in cell.evaluations(heading)
        ]
    missing = [(step, path) for step, path in expected if not path.is_file()]
    if not missing:
        return
    step, path = missing[0]
    counts = Counter(step for step, _ in missing)
    raise UserError(
        str(path),
        f"missing, with {len(missing)} of the experiment's {len(expected)} files missing in all "
        f"({', '.join(f'{count} of {step}' for step, count in counts.items())})",
        remedy=f"run python -m steps.{step} for it, or the whole experiment {heading.experiment}",
    )


def _check_belongs(path: Path, record: Record, cell: _Cell, evaluation: Evaluation) -> None:
    expected = {
        "task": evaluation.task,
        "protocol": evaluation.protocol,
        "recipe": cell.recipe,
        "backbone": cell.backbone,
        "seed": cell.seed,
        **({"dataset": evaluation.dataset} if evaluation.dataset else {}),
    }
    for key, value in expected.items():
        found = getattr(record, key)
        if found != value:
            raise UserError(
                f"{path}: {key}",
                f"{found!r}",
                allowed=f"{value!r}, as the experiment's params say",
                remedy=f"run python -m steps.{evaluation.task} again",
            )


def _check_measured(path: Path, record: Record, artifact: Path, backbone: Manifest) -> None:
    if record.artifact != backbone.digest:
        raise UserError(
            str(path),
            f"measured on the backbone {record.artifact[:12]}, but {artifact} is now "
            f"{backbone.digest[:12]}",
            remedy=f"run python -m steps.{record.task} again",
        )
