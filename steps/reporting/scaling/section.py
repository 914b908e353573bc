"""The section of a page on scale: figure, fits, gain of each axis, best at equal compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import polars as pl

from steps.reporting.scaling import study
from steps.reporting.scaling.figure import FILE
from steps.reporting.scaling.study import Law
from steps.reporting.source import Evaluation, ReportSpec
from steps.reporting.summary import headline
from steps.reporting.tables import ABSENT, Table
from steps.reporting.text import Markup, flops_unit, measured, plain, plural, significant

Runs = dict[str, pl.DataFrame]
"""The runs of each method."""
_AXES = ("size", "images", "epochs")
_BRACKETS = "Brackets hold the 95 % interval of an exponent, by the scatter of runs about the law."
_NO_ERROR = (
    "No task measures every row with a score in %, so there is no error whose fall with compute "
    "could be fitted. The tables below have the rows of each size and length.\n"
)


def scaling_section(summary: pl.DataFrame, heading: ReportSpec) -> list[str]:
    """The section's paragraphs; none where the experiment is no study of scale."""
    if not heading.scaling:
        return []
    chosen = study.evaluations(summary, heading)
    if not chosen:
        return ["## Scale\n", _NO_ERROR]
    by_task = {each: _runs(summary, heading, each) for each in chosen}
    labels = {each: plain(f"{heading.label(each)} {headline(summary, each)}") for each in chosen}
    every = [own for runs in by_task.values() for own in runs.values()]
    fitted = any(_law(own) is not None for own in every)
    return [
        "## Scale\n",
        _about(heading, labels),
        f"![Error against compute of pretraining]({FILE})\n",
        _caption(summary, heading, chosen, fitted),
        *(_fits(by_task, labels) if fitted else ()),
        *(_axes(by_task, labels) if any(_by_axis(own) is not None for own in every) else ()),
        "### At equal compute\n",
        "The best measured score of each method within a budget, and the backbone that reached it. "
        "Bold: the best of each row.\n",
        _budgets(by_task, heading, labels).markdown(),
        "### Scale or method\n",
        *(_verdict(labels[each], runs, heading) for each, runs in by_task.items()),
        "### What this does not show\n",
        _caveats(heading, by_task, fitted),
    ]


def _runs(summary: pl.DataFrame, heading: ReportSpec, evaluation: Evaluation) -> Runs:
    every = study.runs(summary, heading, evaluation)
    return {method: every.filter(method=method) for method in study.methods(heading)}


def _caption(
    summary: pl.DataFrame, heading: ReportSpec, chosen: list[Evaluation], fitted: bool
) -> str:
    """The text below the figure."""
    shares = any(row.data_share < 1 for row in heading.scaling.values())
    larger = ": larger for a larger backbone" if len(heading.backbones) > 1 else ""
    hollow = f"{',' if larger else ':'} hollow on a share of the images" if shares else ""
    lines = [f"One point per run{larger}{hollow}."]
    lines.append(
        "Lines are power laws through the runs that no cheaper run of the method beats (the "
        "frontier)."
        if fitted
        else f"No method has {study.LEAST_RUNS} runs that no cheaper one beats, so no curve is "
        "fitted."
    )
    if any(study.floor(summary, heading, each) is not None for each in chosen):
        lines.append("Dotted: the best backbone without pretraining.")
    return f"{' '.join(lines)}\n"


def _about(heading: ReportSpec, labels: Mapping[Evaluation, str]) -> str:
    points = list(heading.scaling.values())
    lengths = sorted({point.length for point in points})
    shares = sorted({point.data_share for point in points})
    of = "the epochs of their recipes" if heading.budget is None else str(heading.budget)
    return (
        f"{plural(len(study.methods(heading)), 'method')} on "
        f"{plural(len(heading.backbones), 'backbone')}, at "
        f"{_listed(lengths)} times {of}, on "
        f"{_listed([100 * share for share in shares])} % of the images: "
        f"{plural(len(points) * len(heading.backbones), 'run')}, each with schedules of its own "
        f"length. Error is 100 % minus {' or '.join(labels.values())}; compute is that of "
        "pretraining.\n"
    )


def _listed(values: list[float]) -> str:
    *most, last = (f"{value:g}" for value in values)
    return f"{', '.join(most)} and {last}" if most else last


def _fits(by_task: Mapping[Evaluation, Runs], labels: Mapping[Evaluation, str]) -> list[str]:
    rows = []
    for evaluation, runs in by_task.items():
        for method, own in runs.items():
            best = study.frontier(own)
            law = _law(own)
            fitted = [ABSENT] * 4 if law is None else _fitted(law, best)
            of = f"{best.height} of {own.height}"
            rows.append([labels[evaluation], method, of, *fitted])
    columns = ["Score", "Method", "Runs on the frontier", "b", "R²"]
    columns += ["Error at least compute", "Error at most compute"]
    return [
        "### Error against compute\n",
        "error = a C^-b through the frontier, by least squares in logarithms; R² refers to log "
        f"error. {_BRACKETS}\n",
        Table(columns, [False, False, *[True] * 5], rows).markdown(),
    ]


def _fitted(law: Law, best: pl.DataFrame) -> list[str]:
    ends = [measured(law.at(best["flops"][place]), "%") for place in (0, -1)]
    return [_exponent(law, 0), f"{law.r2:.2f}", *ends]


def _by_axis(own: pl.DataFrame) -> Law | None:
    """The law of the axes that vary between the runs of a method."""
    return study.fit(_values(own, "error"), *(_values(own, name) for name in _varying(own)))


def _varying(own: pl.DataFrame) -> list[str]:
    return [name for name in _AXES if own[name].n_unique() > 1]


def _axes(by_task: Mapping[Evaluation, Runs], labels: Mapping[Evaluation, str]) -> list[str]:
    rows = []
    for evaluation, runs in by_task.items():
        for method, own in runs.items():
            law = _by_axis(own)
            shown = dict.fromkeys(_AXES, ABSENT)
            if law is not None:
                shown |= {name: _exponent(law, place) for place, name in enumerate(_varying(own))}
            r2 = ABSENT if law is None else f"{law.r2:.2f}"
            rows.append([labels[evaluation], method, *shown.values(), r2, f"{own.height}"])
    columns = ["Score", "Method", "x (size)", "y (images)", "z (epochs)", "R²", "Runs"]
    return [
        "### What each axis buys\n",
        "error ~ size^-x images^-y epochs^-z, fitted to all runs of a method; size in FLOPs per "
        "image, images per epoch. With an exponent of 0.1, twice as much takes 7 % off the "
        f"error. {_BRACKETS}\n",
        Table(columns, [False, False, *[True] * 5], rows).markdown(),
    ]


def _budgets(
    by_task: Mapping[Evaluation, Runs], heading: ReportSpec, labels: Mapping[Evaluation, str]
) -> Table:
    methods = list(next(iter(by_task.values())))
    rows = []
    for evaluation, runs in by_task.items():
        for budget in study.compared_at(runs, heading):
            best = {method: study.within(own, budget) for method, own in runs.items()}
            most = measured(max(run["score"] for run in best.values()), "%")
            cells = []
            for run in best.values():
                score = measured(run["score"], "%")
                bold = f"**{score}**" if score == most else score
                cells.append(Markup(f"{bold} ({plain(run['backbone'])})"))
            rows.append([labels[evaluation], _flops(budget), *cells])
    columns = ["Score", "Budget", *methods]
    return Table(columns, [False, *[True] * (len(columns) - 1)], rows)


def _verdict(label: str, runs: Runs, heading: ReportSpec) -> str:
    """The larger cause of error, and the crossings of the methods' laws."""
    said = [f"**{label}.** {_spread(runs, heading)}"]
    for first, second in combinations(runs, 2):
        a, b = _law(runs[first]), _law(runs[second])
        if a is not None and b is not None:
            said.append(_crossing(first, second, a, b, runs))
    return " ".join(said) + "\n"


def _spread(runs: Runs, heading: ReportSpec) -> str:
    if len(runs) < 2:
        return "There is one method, so nothing is compared with it."
    budgets = study.compared_at(runs, heading)
    if not budgets:
        return "The methods' runs do not overlap in compute, so they are not compared."
    errors = {
        method: [float(study.within(own, budget)["error"]) for budget in budgets]
        for method, own in runs.items()
    }
    gaps = [max(column) / min(column) for column in zip(*errors.values(), strict=True)]
    gains = {method: own[0] / own[-1] for method, own in errors.items()}
    least, most = (choose(gains, key=gains.__getitem__) for choose in (min, max))
    scale, method = _mean(list(gains.values())), _mean(gaps)
    more = "scale moves the error more" if scale > method else "the method moves the error more"
    return (
        f"At equal compute, the worst method's error is {min(gaps):.2f} to {max(gaps):.2f} times "
        f"the best method's (geometric mean {method:.2f}). Over the common range, "
        f"{_flops(budgets[0])} to {_flops(budgets[-1])}, a method's error falls by a factor of "
        f"{gains[least]:.2f} ({plain(least)}) to {gains[most]:.2f} ({plain(most)}; geometric mean "
        f"{scale:.2f}). Within this range, {more}."
    )


def _crossing(first: str, second: str, a: Law, b: Law, runs: Runs) -> str:
    met = study.crossing(a, b)
    low = max(_values(runs[name], "flops")[0] for name in (first, second))
    high = min(_values(runs[name], "flops")[-1] for name in (first, second))
    first, second = plain(first), plain(second)
    if met is None or not met.sure:
        return (
            f"The exponents of {first} and {second} cannot be told apart at 95 %, so no crossing "
            "is claimed."
        )
    ahead, behind = (first, second) if a.exponents[0] > b.exponents[0] else (second, first)
    if met.flops < low:
        return f"By the curves, {ahead} leads {behind} throughout."
    if met.flops <= high:
        return (
            f"The curves of {first} and {second} cross at {_flops(met.flops)}; beyond it, {ahead} "
            "leads."
        )
    return (
        f"{behind} leads {ahead} throughout; the curves would cross at {_flops(met.flops)}, "
        f"{significant(met.flops / high, 2)} times the largest compute of both: an extrapolation "
        "without evidence."
    )


def _caveats(heading: ReportSpec, by_task: Mapping[Evaluation, Runs], fitted: bool) -> str:
    every = pl.concat(next(iter(by_task.values())).values())
    fewest = every.sort(pl.col("images") * pl.col("epochs")).row(0, named=True)
    seen = round(fewest["images"] * fewest["epochs"])
    lines = [
        "Recipes are made for one length and one backbone. No learning rate was tuned for other "
        "points of the grid, so a method may lose at some size only for that reason.",
        f"The shortest run sees {seen:,} images ({plain(fewest['row'])}).",
    ]
    lines += [
        "The frontier takes the best of several runs, lucky ones included; intervals of "
        "exponents cover the scatter of these runs, not this choice.",
        "A curve sums up its runs: at a single budget, the runs may stand in another order.",
        "The law has no irreducible error, so it promises too much far to the right.",
    ] * fitted
    lines.append(
        "Compute is counted in FLOPs of the networks; device time differs (see the ranking)."
    )
    if failed := every.filter("collapsed")["row"].unique(maintain_order=True).to_list():
        lines.insert(0, f"Embeddings collapsed in {plain(', '.join(failed))}, which are counted.")
    if len(heading.seeds) == 1:
        lines.insert(0, "One seed: it is unknown how far runs differ by chance.")
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _law(own: pl.DataFrame) -> Law | None:
    best = study.frontier(own)
    return study.fit(_values(best, "error"), _values(best, "flops"))


def _values(runs: pl.DataFrame, name: str) -> list[float]:
    return [float(value) for value in runs[name]]


def _exponent(law: Law, place: int) -> str:
    ends = law.interval(place)
    brackets = "" if ends is None else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
    return f"{law.exponents[place]:.3f}{brackets}"


def _flops(value: float) -> str:
    divisor, unit = flops_unit(value)
    return f"{significant(value / divisor)} {unit}"


def _mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
