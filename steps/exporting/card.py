"""The model card of an export: method, data, recipe, scores, licence, and the self-check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from steps.artifacts import Manifest, Record, read_records
from steps.command import UserError

LICENCE = "unknown - set by you"
SHARES = ("top1", "top5")
"""Metrics that are a share of n images, whose interval follows from the two."""


@dataclass(frozen=True)
class Check:
    """Outputs of the export held to those of the backbone."""

    images: str
    """Which images, in words."""
    sizes: Sequence[tuple[int, int]]
    """Height and width of the images fed."""
    difference: float
    """Largest absolute difference of an output."""
    bound: float


def read_scores(paths: Sequence[Path], digest: str, backbone: Path) -> list[Record]:
    """Records of some files.

    Raises:
        UserError: a file holds none, or those of another backbone.
    """
    found = []
    for path in paths:
        records, _ = read_records(path)
        for record in records:
            if record.artifact != digest:
                raise UserError(
                    str(path),
                    f"a score of another backbone, of the digest {record.artifact[:12]}",
                    allowed=f"{digest[:12]}, that of {backbone}",
                    remedy="leave the file out of --records",
                )
        found += records
    return found


def card(
    *,
    manifest: Manifest,
    form: str,
    usage: str,
    inputs: str,
    records: Sequence[Record],
    check: Check,
) -> str:
    """The text of ``README.md``.

    Args:
        manifest: of the backbone.
        form: what was exported to.
        usage: lines of Python that load it.
        inputs: how images are to be given, in words.
        records: scores of the backbone.
        check: the self-check that passed.
    """
    facts = manifest.facts
    name = f"{facts['recipe']}, {facts['scale']}"
    head = ["---", "license: unknown", "tags:", "- image-feature-extraction", "---"]
    sizes = ", ".join(f"{height} x {width}" for height, width in check.sizes)
    pretraining = {
        "Method": f"{facts['method']} ({facts['kind']})",
        "Recipe": facts["recipe"],
        "Backbone": f"{facts['backbone']} ({facts['scale']})",
        "Pretrained on": facts["pretrain_dataset"],
        "Epochs": f"{facts['epochs']:g}",
        "Images seen": f"{facts['images_seen']:,}",
        "Seed": manifest.seed,
        "Commit": manifest.code.commit,
        "Digest of the backbone": f"`{manifest.digest}`",
        "Licence": LICENCE,
    }
    parts = [
        "\n".join(head),
        f"# {_plain(name)}",
        f"A frozen image backbone, exported as {form}. It has no classification head.",
        _table(("Fact", "Value"), [(key, str(value)) for key, value in pretraining.items()]),
        "## Input",
        inputs,
        "## Use",
        f"```python\n{usage}\n```",
        "## Scores",
        _scores(records),
        "## Self-check",
        f"Class and mean tokens of {check.images}, fed at {sizes} px, were compared with those of "
        f"the backbone: the largest difference is {check.difference:.2g}, the bound "
        f"{check.bound:.2g}.",
    ]
    return "\n\n".join(parts) + "\n"


def interval(record: Record) -> str:
    """Wilson's 95 % interval of a share of n images; nothing for any other metric."""
    if record.unit != "%" or record.metric.split("_")[0] not in SHARES or not record.n:
        return ""
    z, n, share = 1.96, record.n, record.value / 100
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return f"{100 * (centre - half):.1f} to {100 * (centre + half):.1f}"


def _scores(records: Sequence[Record]) -> str:
    if not records:
        return "None were given (`--records`)."
    head = ("Task", "Protocol", "Data", "Metric", "Value", "95 % interval", "Images")
    rows = [
        (
            record.task,
            record.protocol,
            record.dataset,
            record.metric,
            f"{record.value:.4g}{' %' if record.unit == '%' else ''}",
            interval(record),
            str(record.n),
        )
        for record in records
    ]
    note = (
        "Intervals are over the images measured on (Wilson); they leave out the seed of training."
    )
    return f"{_table(head, rows)}\n\n{note}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that neither ends a cell nor starts markup."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
