"""Report: an experiment's records as tables, figures and a page whose numbers can be traced.

``--experiment``, ``--results`` and ``--out`` make the page. ``--published`` makes the page of
published figures beside measured ones. ``--check`` renders committed reports from their own records
and compares; ``--render`` writes them again instead, for example after a change of wording.
``--explain`` prints where the number in a cell comes from. ``--merge`` and ``--out`` make one page
of the seeds of several reports, which ran on other machines or at other times.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from steps.command import UserError, place, run_step
from steps.params.experiment import Experiment, load_experiment
from steps.params.load import load
from steps.params.paths import Paths
from steps.params.recipe import Recipe
from steps.params.tasks import TASKS
from steps.reporting.check import check_report, rewrite_report
from steps.reporting.collect import collect
from steps.reporting.explain import explain
from steps.reporting.merge import merge_reports
from steps.reporting.pictures import collect_pictures
from steps.reporting.published.data import is_published
from steps.reporting.published.explain import explain_published
from steps.reporting.published.page import check_published, write_published
from steps.reporting.render import check_folder, write_report
from steps.reporting.source import ReportSpec


def main(arguments: list[str] | None = None) -> None:
    """Make, check or explain a report."""
    parser = argparse.ArgumentParser(prog="python -m steps.report", description=__doc__)
    parser.add_argument("--experiment", type=Path, help="params/experiments/<experiment>.yaml")
    parser.add_argument("--results", type=Path, help="the folder of all results")
    parser.add_argument("--out", type=place, help="reports/<experiment>, the folder to write")
    parser.add_argument(
        "--published", type=Path, metavar="FOLDER", help="reports/published, beside the reports"
    )
    parser.add_argument(
        "--check", type=Path, nargs="+", metavar="REPORT", help="report folders to compare"
    )
    parser.add_argument(
        "--render", type=Path, nargs="+", metavar="REPORT", help="report folders to write again"
    )
    parser.add_argument(
        "--explain", type=Path, metavar="CELL", help="reports/<experiment>/<method>/<backbone>/…"
    )
    parser.add_argument(
        "--merge", type=Path, nargs="+", metavar="REPORT", help="reports of an experiment's seeds"
    )
    options = parser.parse_args(arguments)
    making = (options.experiment, options.results, None if options.merge else options.out)
    commands = (options.published, options.check, options.render, options.explain, options.merge)
    if sum(command is not None for command in (*commands, any(making) or None)) > 1:
        parser.error(
            "--published, --check, --render, --explain, --merge and making a report are six "
            "commands: give one"
        )
    if options.merge:
        if options.out is None:
            parser.error("--merge needs --out, the folder to write")
        print(merge_reports(options.merge, options.out, _printed(options.out)))
    elif options.check:
        for folder in options.check:
            print(check_published(folder) if is_published(folder) else check_report(folder))
    elif options.render:
        for folder in options.render:
            print(write_published(folder) if is_published(folder) else rewrite_report(folder))
    elif options.explain:
        cell = options.explain
        folder = next(filter(is_published, (cell, *cell.parents)), None)
        print(explain_published(folder, cell) if folder else explain(cell), end="")
    elif options.published:
        write_published(options.published)
    elif all(making):
        make(options.experiment, options.results, options.out)
    else:
        parser.error(
            "give --experiment, --results and --out; or --merge and --out; or --published, "
            "--check, --render or --explain"
        )


def make(experiment: Path, results: Path, out: Path) -> None:
    """Read every record that the experiment calls for and write the report into ``out``.

    Raises:
        UserError: the params are wrong, or a record is missing or does not belong.
    """
    check_folder(out)
    params = load_experiment(experiment)
    if not results.is_dir():
        raise UserError(
            str(results), "no such results folder", remedy=f"run the experiment {experiment}"
        )
    heading = ReportSpec.of(
        params,
        text_methods(params, experiment.parents[1]),
        experiment=_printed(experiment),
        results=_printed(results),
        out=_printed(out),
    )
    paths = Paths(params, str(results))
    source = collect(heading, paths)
    write_report(source, out, *collect_pictures(heading, paths, params.pictured))


def text_methods(experiment: Experiment, root: Path) -> list[str]:
    """The rows whose recipe has a text tower; none where no task needs one.

    Args:
        experiment: its recipes are looked up.
        root: the params folder.
    """
    if not any("text" in TASKS[task].needs for task in experiment.tasks):
        return []
    folder, scaled = root / "recipes" / experiment.regime, experiment.scaled
    rows = {name: name for name in experiment.recipes}
    rows |= {name: each.recipe for name, each in experiment.kept.items()}
    stems = {name: scaled[row].recipe if row in scaled else row for name, row in rows.items()}
    return [
        name for name, stem in stems.items() if load(folder / f"{stem}.yaml", Recipe).method.text
    ]


def _printed(path: Path) -> str:
    """A path as commands print it: relative to the working folder where it lies below it."""
    absolute, here = path.resolve(), Path.cwd().resolve()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(path)


if __name__ == "__main__":
    run_step(main)
