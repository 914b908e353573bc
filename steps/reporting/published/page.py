"""The page of published figures beside measured ones, from the data and the reports beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from steps.artifacts.publish import write_whole
from steps.command import UserError
from steps.reporting.check import first_difference
from steps.reporting.published.carries import carries_section
from steps.reporting.published.data import (
    DOUBTFUL,
    Published,
    beside_coco,
    beside_ranking,
    measurements,
    read_published,
    reports_beside,
)
from steps.reporting.render import PAGE
from steps.reporting.summary import COLLAPSED, IMPORTED
from steps.reporting.tables import ABSENT, Table, score
from steps.reporting.text import Markup, code, plain, plural, target, word

GIVEN, PRINTED, MEASURED, OFFICIAL = "□", "○", "●", IMPORTED
"""The marks of a number: as given in the ranking, published, measured here, measured here on the
authors' weights."""
_MARKS = f"""\
| Mark | The number is |
| ---- | ------------- |
| {GIVEN}    | as the ranking's owner gave it; not checked |
| {PRINTED}    | published by others, in the source that its note names |
| {MEASURED}    | measured by this project: pretrained and evaluated here, from a record |
| {OFFICIAL}    | measured by this project on the authors' weights: evaluated here, from a record |
| {ABSENT}    | missing: not published, or not measured yet |
"""


def write_published(folder: Path) -> str:
    """Make the page of a folder of published figures; say so in one line."""
    write_whole(folder / PAGE, render_published(folder))
    return f"{folder}: wrote {PAGE}"


def check_published(folder: Path) -> str:
    """Compare the page with what the figures, and the reports beside it, give now.

    Raises:
        UserError: it differs.
    """
    path = folder / PAGE
    content = render_published(folder)
    remedy = f"run python -m steps.report --published {folder}"
    if not path.is_file():
        raise UserError(str(path), "missing", remedy=remedy)
    if path.read_bytes() != content:
        raise UserError(
            str(path),
            "differs from the published figures and the reports beside it, first in "
            f"{first_difference(path, content)}",
            remedy=remedy,
        )
    count = read_published(folder).figures.height
    return f"{folder}: README.md follows from {count:,} published figures and the reports beside it"


def render_published(folder: Path) -> bytes:
    """README.md: a pure function of the folder's files and of the reports beside it."""
    published = read_published(folder)
    reports = reports_beside(folder)
    records = measurements(reports)
    parts = [
        "<!-- Made by python -m steps.report --published. Do not edit. -->\n",
        "# Published and measured results\n",
        "Results that others published for these methods, beside those that this project measured. "
        "The two are never mixed: each column holds one kind of number, and each number has its "
        "mark.\n",
        _MARKS,
        "A measured number stands here only if it has the same method, scale, task and data as the "
        f"row: pretrained on {code(published.matching.pretrain_dataset)}, by a protocol that "
        "[matching.yaml](matching.yaml) lists. The small experiments of the other reports "
        "(`shapes`, CIFAR-10) do not qualify; the last table compares their orders of "
        "methods with the published ones.\n",
        "## ImageNet-1K\n",
        "Top-1 accuracy after fine-tuning, in percent. Model to Epoch: the ranking as its owner "
        "gave it. Audited: the published figure for the same model and epochs, or the closest one; "
        "= where it is the one given.\n",
        _ranking(published, beside_ranking(published, records)).markdown(),
        "Notes on the rows:\n",
        "\n".join(map(_ranking_note, published.ranking.iter_rows(named=True))) + "\n",
        "## COCO Detection\n",
        "Average precision of boxes and masks on COCO 2017 (val), in percent, best box AP first. "
        f"Epoch: passes over the pretraining data, {ABSENT} where the source does not say. Rows "
        "with different detectors are not comparable, nor are different schedules of one.\n",
        _coco(published, beside_coco(published, records)).markdown(),
        *_left_out(published),
        "Notes on the rows:\n",
        "\n".join(map(_coco_note, published.coco.iter_rows(named=True))) + "\n",
        *carries_section(published, reports.values()),
        _tracing(folder),
    ]
    return "\n".join(parts).encode()


def _ranking(published: Published, scores: pl.DataFrame) -> Table:
    columns = ["#", "Model", "Type", "Scale", f"Score {GIVEN}", "Epoch", f"Audited {PRINTED}"]
    columns += ["Source", "Verdict", f"Measured {MEASURED}"]
    rows = [
        [
            str(row["row"]),
            row["model"],
            row["type"],
            row["scale"],
            _marked(row["score"], GIVEN),
            row["epoch"],
            "=" if row["agrees"] else _marked(row["source_value"], PRINTED),
            "" if row["agrees"] else _first_source(published, row),
            row["verdict"],
            _measured(scores.filter(row=row["row"]), row["epoch"]),
        ]
        for row in published.ranking.iter_rows(named=True)
    ]
    return Table(columns, [True, False, False, False, True, True, True, False, False, True], rows)


def _coco(published: Published, scores: pl.DataFrame) -> Table:
    columns = ["#", "Model", "Type", "Scale", "Detector", f"Box AP {PRINTED}", f"Mask AP {PRINTED}"]
    columns += ["Epoch", f"Box AP {MEASURED}", f"Mask AP {MEASURED}"]
    rule = published.matching.coco
    rows = [
        [
            str(row["row"]),
            row["method"],
            row["family"].capitalize(),
            row["scale"],
            row["detector"],
            *(_marked(row[ap], PRINTED) if row[ap] else ABSENT for ap in ("box", "mask")),
            row["pretrain_epochs"] or ABSENT,
            *(
                _measured(scores.filter(row=row["row"], metric=metric), row["pretrain_epochs"])
                for metric in (rule.box, rule.mask)
            ),
        ]
        for row in published.coco.iter_rows(named=True)
    ]
    return Table(columns, [True, False, False, False, False, True, True, True, True, True], rows)


def _marked(value: object, mark: str) -> str:
    """A number with its mark, which a narrow column does not part from it."""
    return f"{value}\N{NO-BREAK SPACE}{mark}"


def _measured(scores: pl.DataFrame, epochs: str) -> str:
    """Every score that matches a row, with its epochs where they are not the row's."""
    said = []
    for each in scores.iter_rows(named=True):
        text = _marked(score(each), OFFICIAL if each["official"] else MEASURED)
        text = _marked(text, COLLAPSED) if each["collapsed"] else text
        unknown = each["official"] and each["epochs"] == 0
        if not unknown and each["epochs"] != (float(epochs) if epochs else None):
            text += f" ({each['epochs']:g} epochs)"
        said.append(text)
    return "; ".join(said) or ABSENT


def _ranking_note(row: dict[str, Any]) -> str:
    text = f"{row['model']}, {row['scale']}, {row['epoch']} epochs: {row['reason']}"
    return f"{row['row']}. {plain(text)}. {sources(row['source_ref'])}."


def _coco_note(row: dict[str, Any]) -> str:
    said = [f"{row['method']}, {row['backbone']}: {row['protocol']}"]
    said += [f"{row['resolution']} px"] * bool(row["resolution"])
    said += [f"pretraining: {row['pretrain_data']}", *filter(None, row["notes"])]
    return f"{row['row']}. {plain('; '.join(said))}. {sources(row['source_ref'])}."


def _left_out(published: Published) -> list[str]:
    methods = published.doubtful["method"].to_list()
    if not methods:
        return []
    names = plain(", ".join(dict.fromkeys(methods)))
    return [
        f"Left out: {plural(len(methods), 'figure')} of {names}, "
        f'marked "{DOUBTFUL}" in results.csv.\n'
    ]


def sources(ref: str) -> str:
    """A ``source_ref`` with its papers and files as links."""
    return "; ".join(map(_link, ref.split("; ")))


def _first_source(published: Published, row: dict[str, Any]) -> Markup:
    """The source of the audited figure, short: a paper, or else a file."""
    refs = published.audited(row["row"])["source_ref"].to_list()
    refs = refs or row["source_ref"].split("; ")
    chosen = next((each for each in refs if each.startswith("arXiv:")), refs[0])
    return _link(chosen, short=True)


def _link(ref: str, *, short: bool = False) -> Markup:
    """A paper or a file as a link, a file by its repository's and its own name where ``short``."""
    if paper := re.match(r"arXiv:(\d{4}\.\d{4,5})(.*)$", ref):
        return Markup(f"[arXiv:{paper[1]}](https://arxiv.org/abs/{paper[1]}){plain(paper[2])}")
    if file := re.match(r"([\w.-]+/[\w.-]+):([^@]+)@([0-9a-f]+)$", ref):
        address = f"https://github.com/{file[1]}/blob/{file[3]}/{target(file[2])}"
        names = [name.rpartition("/")[2] if short else name for name in (file[1], file[2])]
        return Markup(f"[{plain(': '.join(names))}]({address})")
    return plain(ref)


def _tracing(folder: Path) -> str:
    report = word(f"reports/{folder.name}")
    return f"""\
## Trace a cell, rebuild the page

Print the origin of a row or of one of its cells: the rows of results.csv with their source and
note, or the record and everything that produced it.

```sh
python -m steps.report --explain {report}/imagenet/1
python -m steps.report --explain {report}/imagenet/1/audited  # or score, measured
python -m steps.report --explain {report}/coco/1/box          # or mask, measured
```

```sh
python -m steps.report --published {report}
python -m steps.report --check {report}
```

Beside this page: [results.csv](results.csv) holds all published figures, also for k-NN, linear
probes and ADE20K, [recipes.csv](recipes.csv) their cost, [owner_ranking.csv](owner_ranking.csv) the
ranking with its audit; [SOURCES.md](SOURCES.md) says how they were read, what is missing and where
sources disagree.
"""
