"""The origin of one cell of a report, as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from steps.artifacts import Record
from steps.command import UserError
from steps.core.durations import duration
from steps.params.load import closest, shortened
from steps.reporting.confidence import Confidences, confidences
from steps.reporting.source import (
    HEADING,
    Provenance,
    ReportSpec,
    Source,
    TracedRecord,
    read_source,
)
from steps.reporting.summary import model_name, summarize
from steps.reporting.text import flops_unit, measured, plural, significant, visible

_FORM = "<report folder>/<method>/<backbone>/<task>[/<protocol>][/<set>][/<metric>][/seed<k>]"


def explain(cell: Path) -> str:
    """The records behind a cell such as ``reports/quickstart/mae/vit_pico/linear/top1/seed0``.

    ``linear/linear_mae`` narrows a task that has several protocols down to one, and
    ``linear/cifar10`` one that is measured on several sets.

    Raises:
        UserError: no report stands there, or it has no such cell.
    """
    folder = next((path for path in (cell, *cell.parents) if (path / HEADING).is_file()), None)
    if folder is None:
        raise UserError(str(cell), f"no report's {HEADING} on this path", allowed=_FORM)
    source = read_source(folder)
    parts = cell.relative_to(folder).parts
    chosen = [
        (item, records)
        for item in source.traced
        if (records := [each for each in item.records if _matches(each, parts, source.heading)])
    ]
    if len(parts) < 3 or not chosen:
        raise _unknown(folder, parts, source)
    summary = summarize(source.records())
    sure = confidences(source, summary)
    return "\n".join(
        file_text(
            source.heading.results,
            item,
            records,
            _certainty(sure, item, records, source.heading),
        )
        for item, records in chosen
    )


def _certainty(
    sure: Confidences, item: TracedRecord, records: list[Record], heading: ReportSpec
) -> list[str]:
    """Interval, rank, rivals and decisions of a headline score, or why there are none."""
    record = records[0]
    row = (record.recipe, record.backbone)
    evaluation = heading.evaluation_of(record)
    if evaluation in sure.missing:
        lines = ["interval         none: the decisions of this evaluation were not kept"]
        return [*lines, f"                 run python -m steps.{record.task} and the report again"]
    confidence = sure.known.get(evaluation)
    if confidence is None or confidence.metric not in [each.metric for each in records]:
        return []
    place = confidence.place[row]
    unit = confidence.unit
    ends = [measured(float(each[place]), unit) for each in (confidence.low, confidence.high)]
    chance = "images" if confidence.seeds == 1 else f"images and {confidence.seeds} seeds"
    mean = measured(float(confidence.table.score[place]), unit)
    first, last = (int(each[place]) for each in confidence.ranks)
    above, below = confidence.above[:, place], confidence.above[place]
    groups = {
        "better": above,
        "worse": below,
        "not apart": ~(above | below) & (np.arange(len(confidence.rows)) != place),
    }
    names = {
        title: shortened(
            ", ".join(
                model_name(*confidence.rows[index], heading) for index in np.flatnonzero(chosen)
            ),
            400,
        )
        or "no row"
        for title, chosen in groups.items()
    }
    rank = f"{first} to {last} of {len(confidence.rows)}"
    unstable = ""
    if confidence.table.unstable[place]:
        unstable, rank = " (unstable: no claim rests on it)", "none: unstable"
    return [
        f"interval         {confidence.metric} {mean} [{', '.join(ends)}], 95 %, over {chance}"
        f"{unstable}",
        f"rank             {rank}",
        *(f"{title:<16} {names[title]}" for title in groups),
        f"decisions        sha256 {confidence.digests[row, record.seed]}",
    ]


def _cell(record: Record, heading: ReportSpec) -> str:
    """The cell by the name of its row in tables, which leaves out a budget that all rows share."""
    return f"{heading.shown(record.recipe)}/{record.backbone}/{record.task}"


def _ends(record: Record) -> tuple[str, ...]:
    """Path parts after the task that narrow a cell down."""
    return record.protocol, record.dataset, record.metric, f"seed{record.seed}"


def _matches(record: Record, parts: tuple[str, ...], heading: ReportSpec) -> bool:
    whole = f"{record.recipe}/{record.backbone}/{record.task}"
    named = "/".join(parts[:3]) in (whole, _cell(record, heading))
    return named and all(part in _ends(record) for part in parts[3:])


def _unknown(folder: Path, parts: tuple[str, ...], source: Source) -> UserError:
    """Error that lists the known cells, or the parts that narrow a known cell down."""
    records = [record for item in source.traced for record in item.records]
    key = "/".join(parts[:3])
    ends = dict.fromkeys(
        f"{key}/{end}"
        for record in records
        if _matches(record, parts[:3], source.heading)
        for end in _ends(record)
    )
    allowed = list(ends or dict.fromkeys(_cell(record, source.heading) for record in records))
    close = closest("/".join(parts), allowed)
    return UserError(
        str(folder / "/".join(parts)),
        "no such cell in the report",
        allowed=shortened(", ".join(allowed), 2000),
        remedy=f"did you mean {folder / close}?" if close else f"name one as {_FORM}",
    )


def file_text(
    results: str, item: TracedRecord, records: list[Record], certainty: Sequence[str] = ()
) -> str:
    """The chosen records of one record file.

    Args:
        results: the folder of all results.
        item: the file.
        records: of it.
        certainty: lines on how sure they are.
    """
    record = records[0]
    width = max(len(each.metric) for each in records)
    values = [
        f"  {each.metric.ljust(width)}  {measured(each.value, each.unit):>6} {each.unit}"
        f"   (exactly {each.value!r})"
        for each in records
    ]
    divisor, unit = flops_unit(record.flops)
    compute = (
        plural(record.images_seen, "image"),
        f"{significant(record.flops / divisor)} {unit}",
        duration(record.device_seconds),
    )
    epochs = "unknown" if item.imported and not record.epochs else f"{record.epochs:g}"
    lines = [
        f"{record.recipe} / {record.backbone} / {record.task} / seed {record.seed}",
        *values,
        "",
        *(f"  {line}" for line in certainty),
        f"  measured on      {record.dataset}, {plural(record.n, 'validation sample')}",
        f"  protocol         {record.protocol}",
        f"  record file      {results}/{item.source}",
        f"  method           {record.method} ({record.kind})",
        f"  backbone         {record.backbone} ({record.scale})",
        f"  pretraining      {epochs} epochs of {record.pretrain_dataset}",
        *([] if item.imported else [f"  compute          {', '.join(compute)}"]),
        *_behind(item),
        *(
            ["  collapsed        the embeddings, at the end of pretraining"]
            if item.collapsed
            else []
        ),
        *(
            f"  code changed     at step {change['step']}: {', '.join(change['changed'])}"
            for change in item.code_changed
        ),
        f"  artifact         sha256 {record.artifact}",
        "",
        *_provenance(f"measured by python -m steps.{item.measured.node}", item.measured),
        "",
        *_provenance(
            "imported by python -m steps.import from an official file"
            if item.imported
            else f"pretrained by python -m steps.{item.pretrained.node}",
            item.pretrained,
        ),
    ]
    return "".join(f"{visible(line)}\n" for line in lines)


def _behind(item: TracedRecord) -> list[str]:
    """Cost of teacher and tokenizer within a budget."""
    if not item.behind.get("flops"):
        return []
    divisor, unit = flops_unit(item.behind["flops"])
    flops = significant(item.behind["flops"] / divisor)
    taken = duration(item.behind["device_seconds"])
    return [f"  behind it        {flops} {unit}, {taken} (teacher and tokenizer)"]


def _provenance(title: str, made: Provenance) -> list[str]:
    modified = " and uncommitted changes" if made.code.dirty else ""
    libraries = ", ".join(f"{name} {version}" for name, version in made.libraries.items())
    memory = f"{made.peak_memory_mib:,.0f} MiB at most"
    params = yaml.safe_dump(made.params, sort_keys=False, width=90, allow_unicode=True)
    return [
        f"  {title}",
        f"    commit         {made.code.commit}{modified}",
        f"    code           sha256 {made.code.digest} (of steps/)",
        f"    output         sha256 {made.digest}",
        *(f"    input          sha256 {digest} ({role})" for role, digest in made.inputs.items()),
        f"    device         {made.device}, {duration(made.wall_seconds)}, {memory}",
        f"    libraries      {libraries}",
        "    params",
        *(f"      {line}" for line in params.splitlines()),
    ]
