"""Metric records: one JSON object for each number that a table may show."""

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
    """One measured number and all that is needed to believe it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    """The node that measured it: knn, linear, finetune, geometry, detect, segment, layout, ..."""
    protocol: str
    metric: str
    """top1, top5, box_AP, mask_AP50, text_R@1, ..."""
    value: float
    unit: str
    """"%" for shares given as 0 to 100; empty for pure numbers, of which more may be worse."""
    n: int
    """How many validation samples the value is a mean over."""
    seed: int
    method: str
    recipe: str
    kind: str
    """The method's family as the tables print it: Contrastive, Generative, ..."""
    backbone: str
    scale: str
    dataset: str
    """Where the metric was measured."""
    pretrain_dataset: str
    epochs: float
    """Epochs of pretraining behind the measured backbone; likewise the next three."""
    images_seen: int
    flops: float
    device_seconds: float
    artifact: str
    """Digest of the backbone artifact measured."""

    @classmethod
    def of_backbone(cls, backbone: Path, **measured: Any) -> Record:
        """A record about a backbone artifact, with its pretraining read from the manifest.

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
"""The facts that every backbone artifact's manifest holds."""


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

    Decisions are written beside it before; their digest is the fact ``decisions``.

    Args:
        out: the JSON file.
        records: at least one.
        node, params, inputs, sources, seed: as for :func:`steps.artifacts.publish`.
        started: ``time.monotonic()`` when the step began.
        facts: anything else worth keeping (training loss, chosen lr).
        decisions: behind the records, for each image.

    Raises:
        UserError: an input is not a whole artifact, something other than a record file stands at
            ``out`` (or something other than decisions beside it), or the disk does not take it.
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
    facts: Mapping[str, Any] | None = None,
    decisions: Decisions | None = None,
) -> None:
    """Write what a task measured of a backbone.

    Args:
        out: the JSON file.
        scores: by metric, in ``unit``, with the number of samples that each is a mean over.
        task: the node that measured.
        protocol: its params file, whose name the records have.
        params: the protocol's values.
        inputs: artifacts that were read by role, ``backbone`` among them.
        dataset: where it was measured.
        unit: of all scores.
        started, facts, decisions: as for :func:`write_records`.

    Raises:
        UserError: nothing could be measured.
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
            unit=unit,
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
    """The records of one file and the manifest of the step that measured them.

    Raises:
        UserError: the file is absent, not a record file, or not as it was written.
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
