"""Read the record files, decisions and backbone manifests of an experiment into the source of its
report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import polars as pl

from steps.artifacts import Manifest, Record, read_manifest, read_records
from steps.artifacts.manifest import MANIFEST
from steps.artifacts.places import decisions_beside
from steps.command import UserError
from steps.params.paths import Paths, data
from steps.params.paths import backbone as backbone_of
from steps.reporting.curves import read_curve
from steps.reporting.decided import Measured, decide
from steps.reporting.source import Evaluation, Heading, Provenance, Source, Traced, make_source


@dataclass(frozen=True)
class _Cell:
    """A method on a backbone with a seed."""

    backbone: str
    recipe: str
    seed: int

    def row(self, paths: Paths) -> str:
        return paths.row(self.backbone, self.recipe, self.seed)

    def evaluations(self, heading: Heading) -> list[Evaluation]:
        """The evaluations that apply to the method."""
        return [
            evaluation
            for evaluation in heading.evaluations()
            if self.recipe in heading.methods_of(evaluation.task)
        ]


def collect(heading: Heading, paths: Paths) -> Source:
    """Every record that the experiment calls for, with what made it.

    Args:
        heading: what the experiment names: methods, backbones, seeds, tasks, protocols.
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
    traced: list[Traced] = []
    curves: list[pl.DataFrame] = []
    decided: dict[str, Measured] = {}
    for cell in cells:
        artifact = Path(backbone_of(cell.row(paths)))
        backbone = read_manifest(artifact, "pretrain")
        curves.append(read_curve(artifact, backbone))
        for evaluation in cell.evaluations(heading):
            file = Path(paths.record(cell.row(paths), evaluation.task, evaluation.protocol))
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
                    data=Path(data(paths.evaluated_on(evaluation.task), paths.results)),
                    data_digest=manifest.inputs.get("data", ""),
                )
            traced.append(
                Traced(
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


def _require_all(heading: Heading, paths: Paths, cells: list[_Cell]) -> None:
    expected = []
    for cell in cells:
        row = cell.row(paths)
        step = "import" if cell.recipe in heading.imported else "pretrain"
        expected.append((step, Path(backbone_of(row), MANIFEST)))
        expected += [
            (each.task, Path(paths.record(row, each.task, each.protocol)))
            for each in cell.evaluations(heading)
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
