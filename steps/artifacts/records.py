"""Metric records: one JSON object per number that a table may show."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from steps.artifacts.manifest import (
    Manifest,
    Required,
    code_version,
    device_name,
    digest_value,
    library_versions,
    peak_memory_mib,
    read_manifest,
)
from steps.artifacts.publish import check_decisions, check_record, decisions_beside, write_whole
from steps.command import UserError
from steps.command.machine import writing

if TYPE_CHECKING:
    from steps.artifacts.decisions import Decisions


class Record(BaseModel):
    """One measured number and its provenance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    """Node that measured it: knn, linear, finetune, geometry, detect, segment, layout, ..."""
    protocol: str
    metric: str
    """Name, such as top1, top5, box_AP, mask_AP50 or text_R@1."""
    value: float
    unit: str
    """"%" for shares given as 0 to 100; empty for pure numbers, of which more may be worse."""
    n: int
    """Number of validation samples that the value is a mean over."""
    seed: int
    method: str
    recipe: str
    kind: str
    """Family of the method as tables print it: Contrastive, Generative, ..."""
    backbone: str
    scale: str
    dataset: str
    """Dataset that the metric was measured on."""
    pretrain_dataset: str
    epochs: float
    """Epochs of pretraining. This field and the next three are of the measured backbone."""
    images_seen: int
    flops: float
    device_seconds: float
    artifact: str
    """Digest of the backbone artifact measured."""

    @classmethod
    def of_backbone(cls, backbone: Path, **measured: Any) -> Record:
        """Record about a backbone artifact, whose manifest describes the pretraining.

        ``measured`` gives task, protocol, metric, value, unit, n and dataset.
        """
        manifest = read_manifest(backbone, "pretrain")
        pretraining = {name: manifest.facts[name] for name in PRETRAINING_FACTS}
        return cls(artifact=manifest.digest, seed=manifest.seed, **pretraining, **measured)


PRETRAINING_FACTS = (
    "method",
    "recipe",
    "kind",
    "backbone",
    "scale",
    "pretrain_dataset",
    "epochs",
    "images_seen",
    "flops",
    "device_seconds",
)
"""Facts in the manifest of every backbone artifact."""


def write_records(
    out: Path,
    records: Sequence[Record],
    *,
    node: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path],
    started: float,
    sources: Mapping[str, Path] | None = None,
    seed: int | None = None,
    facts: Mapping[str, Any] | None = None,
    decisions: Decisions | None = None,
) -> None:
    """Write a record file atomically: headline ``metrics``, the ``records``, their ``manifest``.

    Decisions are written first, beside it; their digest is the fact ``decisions``.

    Args:
        out: the JSON file.
        records: at least one.
        node, params, inputs, sources, seed: as for :func:`steps.artifacts.publish`.
        started: ``time.monotonic()`` when the step began.
        facts: further facts, such as training loss or chosen lr.
        decisions: behind the records, per image.

    Raises:
        UserError: an input is not a whole artifact, ``out`` is not a record file (or the file
            beside it holds no decisions), or writing fails.
    """
    if not records:
        raise ValueError("a record file holds at least one record")
    content = [record.model_dump() for record in records]
    facts, decided = dict(facts or {}), b""
    if decisions is not None:
        decided = decisions.encoded()
        facts["decisions"] = hashlib.sha256(decided).hexdigest()
    manifest = Manifest(
        node=node,
        digest=digest_value(content),
        files={},
        params=dict(params),
        sources={role: str(path) for role, path in (sources or {}).items()},
        inputs={role: read_manifest(path).digest for role, path in inputs.items()},
        facts=facts,
        seed=seed,
        code=code_version(),
        libraries=library_versions(),
        device=device_name(),
        wall_seconds=round(time.monotonic() - started, 3),
        peak_memory_mib=peak_memory_mib(),
    )
    body = {
        "metrics": {record.metric: record.value for record in records},
        "records": content,
        "manifest": manifest.model_dump(mode="json"),
    }
    text = json.dumps(body, indent=2, allow_nan=False) + "\n"
    check_record(out, inputs.values())
    if decided:
        beside = decisions_beside(out)
        check_decisions(out, inputs.values())
        with writing(beside):
            write_whole(beside, decided)
    with writing(out):
        write_whole(out, text.encode())


def write_scores(
    out: Path,
    scores: Mapping[str, tuple[float, int]],
    *,
    task: str,
    protocol: Path,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path],
    dataset: str,
    started: float,
    unit: str = "%",
    units: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
    decisions: Decisions | None = None,
) -> None:
    """Write the scores of a task on a backbone.

    Args:
        out: the JSON file.
        scores: by metric, each with the number of samples that it is a mean over.
        task: the node that measured.
        protocol: its params file, which names the protocol in the records.
        params: the protocol's values.
        inputs: input artifacts by role, ``backbone`` among them.
        dataset: name of the dataset measured on.
        unit: of all scores.
        units: of some scores, by metric, in place of ``unit``.
        started, facts, decisions: as for :func:`write_records`.

    Raises:
        UserError: there are no scores.
    """
    if not scores:
        raise UserError(
            str(inputs["data"]) if "data" in inputs else str(out),
            f"{task} has no number to record: there was nothing to measure against",
            remedy="prepare a dataset whose val split has what the task measures",
        )
    records = [
        Record.of_backbone(
            inputs["backbone"],
            task=task,
            protocol=protocol.stem,
            metric=metric,
            value=value,
            unit=(units or {}).get(metric, unit),
            n=n,
            dataset=dataset,
        )
        for metric, (value, n) in scores.items()
    ]
    write_records(
        out,
        records,
        node=task,
        params=params,
        inputs=inputs,
        sources={"protocol": protocol},
        seed=records[0].seed,
        started=started,
        facts=facts,
        decisions=decisions,
    )


def read_records(path: Path) -> tuple[list[Record], Manifest]:
    """Read the records of a file and the manifest of the step that measured them.

    Raises:
        UserError: the file is absent, not a record file, or changed since it was written.
    """
    again = "remove it and run its step again"
    try:
        body = json.loads(path.read_bytes())
        records = [Record.model_validate(record) for record in body["records"]]
        manifest = Manifest.model_validate(body["manifest"])
        digest = digest_value(body["records"])
    except OSError as error:
        raise UserError(str(path), "no such record file", remedy="run its step first") from error
    except (ValidationError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(str(path), "not a record file", remedy=again) from error
    headline = {record.metric: record.value for record in records}
    if digest != manifest.digest or body.get("metrics") != headline:
        raise UserError(
            str(path),
            "its records are not those that the step wrote, by their digest",
            remedy=again,
        )
    manifest.facts = Required(manifest.facts, f"{path}: manifest.facts", again)
    return records, manifest
