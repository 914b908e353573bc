"""The page: ranking, one table per protocol, figures, and how to read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import polars as pl

from steps.params.budget import BEHIND, Budget
from steps.params.tasks import TASKS
from steps.reporting.average import average_ranks
from steps.reporting.confidence import Confidence, Confidences, confidences
from steps.reporting.cues import BIAS_CAPTION, bias_table, cues_section
from steps.reporting.figures import COMPUTE_FILE
from steps.reporting.figures import FILE as APART_FIGURE
from steps.reporting.pictures import Picture, gallery
from steps.reporting.scaling.section import scaling_section
from steps.reporting.source import (
    CURVES,
    HEADING,
    RECORDS,
    Evaluation,
    Provenance,
    ReportSpec,
    Source,
)
from steps.reporting.summary import (
    BALANCED,
    COLLAPSED,
    IMPORTED,
    UNSTABLE,
    cells_of,
    direction,
    figure_methods,
    figure_rows,
    headline,
    model_name,
    ranked,
    ranked_by,
    shown_metrics,
)
from steps.reporting.tables import ABSENT, Table, evaluation_table, ranking_table
from steps.reporting.text import code, paragraphs, plain, plural, target, word
from steps.reporting.verdict import verdict

# --- The note on the budget of a page: the limit of each row, and the use


def budget_note(source: Source, summary: pl.DataFrame) -> list[str]:
    """The paragraph under the ranking; none without a budget, or weights from elsewhere."""
    budget = source.heading.budget
    said = []
    if budget is not None:
        said = [_about(budget)] if not source.heading.scaling else []
        if used := _used(source, summary, budget):
            said.append(used)
        said.append("Device time is not part of the budget and differs between rows.")
    others = dict.fromkeys(
        (source.heading.shown(item.records[0].recipe), name)
        for item in source.traced
        for name in item.elsewhere
    )
    if others:
        named = ", ".join(f"{name} behind {row}" for row, name in others)
        said.append(f"The training of weights from elsewhere is not counted: {plain(named)}.")
    return [" ".join(said) + "\n"] if said else []


def _about(budget: Budget) -> str:
    share = "a third" if budget.behind == BEHIND else f"{100 * budget.behind:g} %"
    what = "compute" if budget.images is None else "images"
    return (
        f"**Equal {what}: {budget} per row.** Its number of epochs follows from the budget, and "
        f"its schedules are scaled to them. Teacher and tokenizer together get {share} of the "
        "budget: they count toward the row's FLOPs, images and device time, not toward its epochs. "
        "Untrained and imported rows use none."
    )


def _used(source: Source, summary: pl.DataFrame, budget: Budget) -> str:
    """Largest distance of a row from the budget, if all share one."""
    rows = ranked(summary, source.heading).filter(
        ~pl.col("imported"),
        ~pl.col("recipe").is_in(list(source.heading.kept)),
        pl.col("flops") > 0,
    )
    if source.heading.scaling or rows.is_empty():
        return ""
    flops, images = rows["flops"] / 1e12, rows["images_seen"] + rows["images_behind"]
    off = ((flops if budget.images is None else images) / budget.amount - 1).abs().max()
    # Rounded up, since "within 0.0 %" would say that it is met exactly.
    tenths = max(math.ceil(1000 * float(off) - 1e-6), 1)  # type: ignore[arg-type]
    return f"Every row is within {tenths / 10:.1f} % of it."


MOST_CLASSES = 12
"""Most classes whose images are listed one by one."""


_ABOUT_CURVES = (
    "Training loss, one line per seed: pale as logged, strong as a running mean. Each method "
    "minimises its own loss, so the heights of two panels cannot be compared."
)
_ABOUT_COMPUTE = (
    "k-NN accuracy of the class token during pretraining over the FLOPs spent so far, on a part of "
    "the {images} (`training.knn` in the recipes), so it differs from the k-NN table. Where two "
    "lines cross, the better method depends on the budget.\n"
)
_ABOUT_APART = (
    "Who beats whom: blue where the row's score is resolved above the column's, orange where it is "
    "resolved below, pale where the difference may be chance.\n"
)
_ABOUT_TRIALS = " Trials are the settings of a recipe that were tried, on images other than these."
_ABOUT_TIME = (
    "Device time covers only pretraining, by the runs behind the records on the devices below; it "
    "varies from run to run.\n"
)


def page(
    source: Source,
    summary: pl.DataFrame,
    pictures: Sequence[Picture] = (),
    sure: Confidences | None = None,
    *,
    with_curves: bool,
) -> str:
    """The whole README.md of a report."""
    heading = source.heading
    sure = confidences(source, summary) if sure is None else sure
    best = sure.known.get(ranked_by(heading))
    sections = {each: _section(heading, each) for each in heading.evaluations()}
    parts = [
        "<!-- Made by python -m steps.report from the records beside it. Do not edit. -->\n",
        f"# {plain(heading.title.strip())}\n",
        f"{paragraphs(heading.question)}\n",
        *verdict(source, summary, sure, sections),
        *scaling_section(summary, heading),
        *(["## All rows\n"] if heading.scaling else []),
        ranking_table(summary, heading, best).markdown(),
        _under_ranking(source, summary, best),
        *budget_note(source, summary),
        *_kept_note(heading),
        *_imported_note(summary, heading),
        *_collapsed_note(summary, heading),
        *_unstable_notes(sure, sections, heading),
        *average_ranks(summary, heading),
    ]
    counts = source.class_counts()
    for evaluation, title in sections.items():
        confidence = sure.known.get(evaluation)
        parts.append(f"## {title}\n")
        parts.append(_caption(source, summary, evaluation, confidence))
        parts += _class_note(counts.get(evaluation, {}), confidence)
        if evaluation.task == "bias":
            parts += [f"{BIAS_CAPTION}\n", bias_table(summary, heading, evaluation).markdown()]
        else:
            parts += _tables(summary, heading, evaluation, confidence)
    parts += cues_section(summary, heading)
    labels = plain(", ".join(map(heading.label, heading.evaluations())))
    parts += [
        "## Figures\n",
        _about_ranking(summary, heading, sure),
        f"![Headline metric of each task: {labels}](ranking.png)\n",
    ]
    if any(len(each.rows) > 1 for each in sure.known.values()):
        parts += [_ABOUT_APART, f"![Rows compared in pairs]({APART_FIGURE})\n"]
    if with_curves:
        about = _about_curves(source, summary)
        parts += [f"{about}\n", "![Training loss of each method over its epochs](curves.png)\n"]
        parts += _over_compute(source, summary)
    parts += gallery(pictures, source.heading.shown)
    parts += ["## How to read this\n", *_how_to_read(source, summary)]
    return "\n".join(parts)


def _tables(
    summary: pl.DataFrame,
    heading: ReportSpec,
    evaluation: Evaluation,
    confidence: Confidence | None,
) -> list[str]:
    """The table of an evaluation's headline metrics, and the one of the others, folded."""
    shown, folded = shown_metrics(summary, evaluation)
    tables = [evaluation_table(summary, heading, evaluation, shown, confidence).markdown()]
    if folded:
        further = evaluation_table(summary, heading, evaluation, folded).markdown()
        count = plural(len(folded), "further metric")
        tables.append(f"<details>\n<summary>{count}</summary>\n\n{further}\n</details>\n")
    return tables


def _class_note(counts: Mapping[str, int], confidence: Confidence | None) -> list[str]:
    """Class sizes, and a note on balanced accuracy if they differ much."""
    if not counts:
        return []
    some = [count for count in counts.values() if count]
    most, least, empty = max(some), min(some), len(counts) - len(some)
    if most == least:
        said = f"{plural(len(some), 'class').replace('classs', 'classes')}, {most:,} images each."
    elif len(counts) <= MOST_CLASSES:
        told = ", ".join(f"{plain(name)} {count:,}" for name, count in counts.items())
        said = f"Images per class: {told}."
    else:
        said = f"{len(counts):,} classes of {least:,} to {most:,} images."
    if confidence is not None and confidence.metric == BALANCED:
        said += (
            f" The largest class has {most / least:.0f} times the images of the smallest, so rows "
            "are compared by balanced accuracy, the mean of the classes' recalls."
        )
    if empty:
        said += f" {plural(empty, 'class').replace('classs', 'classes')} without an image here."
    return [f"{said}\n"]


def _about_ranking(summary: pl.DataFrame, heading: ReportSpec, sure: Confidences) -> str:
    """Caption of the ranking figure."""
    several = any(len(protocols) > 1 for protocols in heading.tasks.values())
    what = "protocol" if several else "task"
    if len(heading.evaluate_on) > 1:
        what += " on each set"
    spread = "; dark lines are ± one standard deviation over seeds"
    if sure.known:
        spread = "; dark lines are 95 % intervals"
        if len(sure.known) < len(heading.evaluations()) and len(heading.seeds) > 1:
            spread += ", or ± one standard deviation over seeds where none is known"
        if any(not each.tells for each in sure.known.values()):
            spread += ". In a grey panel, no row can be told apart from random weights"
        return f"Headline metric of each {what}{spread}.{_best_rows(summary, heading)}\n"
    spread = spread if len(heading.seeds) > 1 else ""
    return f"Headline metric of each {what}{spread}.{_best_rows(summary, heading)}\n"


def _best_rows(summary: pl.DataFrame, heading: ReportSpec) -> str:
    """Number of rows in a figure that does not show all."""
    every, shown = ranked(summary, heading).height, figure_rows(summary, heading).height
    return f" Only the best {shown} of {every:,} rows are shown." if shown < every else ""


def _about_curves(source: Source, summary: pl.DataFrame) -> str:
    """Caption of the figure of training curves."""
    trained = source.trained
    shown = figure_methods(trained, summary, source.heading)
    about = _ABOUT_CURVES
    if len(shown) < len(trained):
        about += f" Only the best {len(shown)} of {len(trained):,} methods are shown."
    return about


def _over_compute(source: Source, summary: pl.DataFrame) -> list[str]:
    """Figure of score against compute, with its caption, if a recipe measures k-NN on the way."""
    shown = figure_methods(source.trained, summary, source.heading)
    if source.curves.filter(pl.col("recipe").is_in(shown))["knn_top1"].is_null().all():
        return []
    sets = source.heading.evaluate_on
    elsewhere = sets and any("knn" in item.pretrained.inputs for item in source.traced)
    images = f"images of {plain(sets[0])}" if elsewhere else "images"
    about = _ABOUT_COMPUTE.format(images=images)
    return [about, f"![k-NN accuracy of each row over its compute]({COMPUTE_FILE})\n"]


def _under_ranking(source: Source, summary: pl.DataFrame, confidence: Confidence | None) -> str:
    heading = source.heading
    best = ranked_by(heading)
    datasets = plain(", ".join(summary["pretrain_dataset"].unique(maintain_order=True).to_list()))
    seeds = len(heading.seeds)
    spread = (
        f"mean ± sample standard deviation over {seeds} seeds"
        if seeds > 1
        else f"one seed ({heading.seeds[0]}), so the spread is unknown and small gaps may be chance"
    )
    if confidence is not None:
        spread = _about_intervals(confidence, seeds)
    first = ", the first set of `evaluate_on`" if best.dataset else ""
    return (
        f"Sorted by {plain(headline(summary, best))} of {_section(heading, best)}{first}; "
        f"{spread}. Epochs, images, FLOPs and device time refer to pretraining on {datasets}."
        f"{_ABOUT_TRIALS if heading.trials else ''}\n"
    )


def _about_intervals(confidence: Confidence, seeds: int) -> str:
    """Note on scores and ranks with intervals."""
    chance = f"images and {plural(seeds, 'seed')}" if seeds > 1 else "images, with one seed,"
    resolved = plural(len(confidence.levels), "level")
    return (
        f"brackets hold the 95 % interval of the score over {chance} for this training set. A rank "
        "runs from 1 + the number of rows resolved as better to the number of rows not resolved as "
        "worse, by simultaneous 95 % intervals of paired differences. The table has "
        f"{resolved}: the length of its longest chain of rows each resolved above the next"
    )


def _unstable_notes(
    sure: Confidences, sections: Mapping[Evaluation, str], heading: ReportSpec
) -> list[str]:
    """Footnotes to the scores marked as unstable; nothing if there are none."""
    notes = []
    for rows, evaluations in sure.unstable.items():
        where = "; ".join(sections[evaluation] for evaluation in evaluations)
        names = plain(", ".join(model_name(*row, heading) for row in rows))
        notes.append(
            f"{UNSTABLE} Unstable ({where}): the seeds of {names} spread more than those of the "
            "other rows (F test, Holm's correction over rows, 5 %). The interval comes from the "
            "row's own few seeds; the row has no rank, and no difference from it is resolved.\n"
        )
    return notes


def _kept_note(heading: ReportSpec) -> list[str]:
    """A paragraph on rows of weights that a pretraining kept along its way; none without them."""
    if not heading.kept:
        return []
    named = ", ".join(
        f"{heading.shown(name)} of {heading.shown(row)}" for name, row in heading.kept.items()
    )
    return [
        f"Weights kept along the way of a pretraining (`training.keep_epochs`): {plain(named)}. "
        "Their epochs, images, FLOPs and time are those up to there, under the schedules of the "
        "whole run. The verdict leaves them out.\n"
    ]


def _imported_note(summary: pl.DataFrame, heading: ReportSpec) -> list[str]:
    """Footnote to official checkpoints; nothing if there is none."""
    rows = ranked(summary, heading).filter("imported").iter_rows(named=True)
    names = [model_name(row["recipe"], row["backbone"], heading) for row in rows]
    if not names:
        return []
    return [
        f"{IMPORTED} Imported: {plain(', '.join(names))}. These weights come from elsewhere; "
        f"only the evaluation was run here. {ABSENT} stands where their files do not say how they "
        "were trained.\n"
    ]


def _collapsed_note(summary: pl.DataFrame, heading: ReportSpec) -> list[str]:
    """Footnote to the rows marked as collapsed; nothing if there is none."""
    names = [
        model_name(row["recipe"], row["backbone"], heading)
        + (f" ({_seeds(row['collapsed'])})" if len(heading.seeds) > 1 else "")
        for row in ranked(summary, heading).iter_rows(named=True)
        if row["collapsed"]
    ]
    if not names:
        return []
    return [
        f"{COLLAPSED} Collapsed: at the end of pretraining, the embeddings of "
        f"{plain(', '.join(names))} "
        "hardly differed from image to image (see `embedding_std`, `effective_rank` and `kl` in "
        "metrics.jsonl). Such a row shows a failed run and says nothing about its method.\n"
    ]


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _caption(
    source: Source,
    summary: pl.DataFrame,
    evaluation: Evaluation,
    confidence: Confidence | None,
) -> str:
    cells = cells_of(summary, evaluation)
    first, heading = cells.row(0, named=True), source.heading
    mine = heading.methods_of(evaluation.task)
    each = " for each cue" if evaluation.task == "bias" else ""
    lacking = " Only for rows with a text tower." if {*heading.methods} - {*mine} else ""
    known = [direction(*each) for each in cells.select("metric", "unit").iter_rows()]
    bold = evaluation.task != "bias" and any(known)
    best = " Bold: the best of each column." if bold else ""
    # The table of bias has no bold, and its metrics are each of a part of the images.
    if confidence is not None and evaluation.task != "bias":
        best = " Bold: no row is resolved as better."
        if not confidence.tells:
            best = (
                " **No row can be told apart from random weights**, so scores are in small type "
                "and none is bold."
            )
    return (
        f"Protocol {code(evaluation.protocol)} on {plain(first['dataset'])}, "
        f"{plural(first['n'], 'validation image')}{each}.{best}{lacking}"
        f"{_ON_TARGETS.get(headline(summary, evaluation), '')}\n"
    )


_ON_TARGETS = {
    "mAP": " Images have several labels: mAP (average precision), AUROC and F1 are means over the "
    "labels that an image of the validation set has.",
    "R2": " Images have a number: R2 is the share of its variance that is predicted, 0 for its "
    "mean; MAE and RMSE are errors in its own unit, of which less is better.",
}
"""Meaning of the headline metrics of sets without one class per image."""


def _how_to_read(source: Source, summary: pl.DataFrame) -> list[str]:
    return [
        "\n".join(_task_line(source, summary, task) for task in source.heading.tasks) + "\n",
        _ABOUT_TIME,
        "### Where the records come from\n",
        _origin_note(source),
        _origins(source).markdown(),
        *_params_notes(source),
        "### Trace a cell, rebuild the page\n",
        _tracing(source.heading, summary),
    ]


def _tracing(heading: ReportSpec, summary: pl.DataFrame) -> str:
    top = ranked(summary, heading).row(0, named=True)
    best = ranked_by(heading)
    cell = f"{top['recipe']}/{top['backbone']}/{best.task}"
    if len(heading.tasks[best.task]) > 1:
        cell += f"/{best.protocol}"
    if best.dataset:
        cell += f"/{best.dataset}"
    params = target(_relative(heading.experiment, heading.out))
    return f"""\
Print the origin of a number: the record, its file, and the commit, params and artifact digests
that produced it. Append `/<metric>` or `/seed<k>` to narrow it down.

```sh
python -m steps.report --explain {word(f"{heading.out}/{cell}")}
```

Make the page from the results, and check that it follows from the records beside it:

```sh
python -m steps.report --experiment {word(heading.experiment)} \\
    --results {word(heading.results)} --out {word(heading.out)}
python -m steps.report --check {word(heading.out)}
```

Beside this page: [{RECORDS}]({RECORDS}) holds every record with its provenance,
[results.csv](results.csv) all means, [{CURVES}]({CURVES}) the losses, [{HEADING}]({HEADING}) the
names and their order. The experiment's params: [{plain(heading.experiment)}]({params}).
"""


def _task_line(source: Source, summary: pl.DataFrame, task: str) -> str:
    cells = summary.filter(task=task)
    entry = TASKS.get(task)
    title, meaning = (entry.title, entry.meaning) if entry else (task, "see its step")
    protocols = source.heading.tasks[task]
    names = f"protocol{'s' if len(protocols) > 1 else ''} "
    names += ", ".join(map(code, protocols))
    first = cells.unique(["protocol", "evaluate_on"], keep="first", maintain_order=True)
    counts = " or ".join(f"{n:,}" for n in first["n"].unique(maintain_order=True))
    sets = cells["dataset"].unique(maintain_order=True).to_list()
    known = f"{code(task)}, {names}, {plain(', '.join(sets))}, n = {counts}"
    return f"- **{plain(title)}** ({known}): {meaning}."


def _origin_note(source: Source) -> str:
    provenances = _provenances(source)
    codes = {each.code for each in provenances}
    devices = {each.device for each in provenances}
    said = []
    if len(codes) > 1:
        said.append(f"**Note: the records come from {len(codes)} versions of the code.**")
    if any(code.dirty for code in codes):
        said.append("**Note: some code had uncommitted changes; its digest identifies it.**")
    if len(devices) > 1:
        said.append(
            f"**Note: the records come from {len(devices)} devices, so device times cannot be "
            "compared across all rows.**"
        )
    return (" ".join(said) or "All records come from one code version and one device.") + "\n"


def _provenances(source: Source) -> list[Provenance]:
    return [each for item in source.traced for each in (item.pretrained, item.measured)]


def _origins(source: Source) -> Table:
    """One row per code version and device: its steps, and the number of their records."""
    origins: dict[tuple[str, str, str], tuple[dict[str, None], dict[str, int]]] = {}
    for item in source.traced:
        for each in (item.pretrained, item.measured):
            key = (code_name(each), each.code.digest[:12], each.device)
            steps, records = origins.setdefault(key, ({}, {}))
            steps[each.node] = None
            records[item.source] = len(item.records)
    return Table(
        ["Commit", "Digest of steps/", "Device", "Steps", "Records"],
        [False, False, False, False, True],
        [
            [*key, ", ".join(steps), f"{sum(records.values()):,}"]
            for key, (steps, records) in origins.items()
        ],
    )


def code_name(provenance: Provenance) -> str:
    """The commit, cut to 12 digits, and whether the code differed from it."""
    code = provenance.code
    return code.commit[:12] + (" (modified)" if code.dirty else "")


def _params_notes(source: Source) -> list[str]:
    """Notes on tables whose rows were measured under different params."""
    notes = []
    for evaluation in source.heading.evaluations():
        params = [
            item.measured.params
            for item in source.traced
            if source.heading.evaluation_of(item.records[0]) == evaluation
        ]
        keys = dict.fromkeys(key for each in params for key in each)
        differing = [
            key for key in keys if any(each.get(key) != params[0].get(key) for each in params)
        ]
        if differing:
            names = ", ".join(map(code, differing))
            notes.append(
                f"**Note: the {plain(source.heading.label(evaluation))} records were measured "
                f"under params that differ in {names}.**\n"
            )
    return notes


def _section(heading: ReportSpec, evaluation: Evaluation) -> str:
    """The task in words, with its protocol if it has several."""
    task = TASKS.get(evaluation.task)
    title = plain(task.title if task else evaluation.task)
    on = f" on {plain(evaluation.dataset)}" if evaluation.dataset else ""
    alone = len(heading.tasks[evaluation.task]) == 1
    return f"{title}{on}" if alone else f"{title}{on}, protocol {code(evaluation.protocol)}"


def _relative(path: str, folder: str) -> str:
    """``path`` as a link from a page in ``folder``, both relative to the repository."""
    if PurePosixPath(path).is_absolute() or PurePosixPath(folder).is_absolute():
        return path
    return "../" * len(PurePosixPath(folder).parts) + path
