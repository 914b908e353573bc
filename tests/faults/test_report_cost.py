"""A report costs what its rows cost, and its figures keep a size."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.report import EVALUATIONS, write_results
from steps.params.experiment import Experiment
from steps.params.load import load
from steps.params.paths import Paths
from steps.reporting.collect import collect
from steps.reporting.figures import curves_figure, ranking_figure
from steps.reporting.render import render_tables
from steps.reporting.source import ReportSpec, Source, source_files
from steps.reporting.summary import MOST_CURVES, MOST_ROWS, figure_methods, figure_rows, summarize

GROWTH = 2.6
"""Of CPU time where the rows double; what is quadratic comes near four."""


def heading(experiment: Path) -> tuple[ReportSpec, Paths]:
    """What ``steps.report`` makes of the params."""
    params = load(experiment, Experiment)
    made = ReportSpec.of(
        params, experiment=str(experiment), results="results", out="reports/made_up"
    )
    return made, Paths(params, str(experiment.parents[2] / "results"))


def tables(experiment: Path) -> tuple[float, Source]:
    """CPU seconds from the records to the page and its files, figures apart."""
    about, paths = heading(experiment)
    started = time.process_time()
    source = collect(about, paths)
    render_tables(source)
    source_files(source)
    return time.process_time() - started, source


@pytest.mark.long
def test_time_grows_as_the_rows_do(tmp_path: Path) -> None:
    small, large = (write_results(tmp_path / str(rows), rows) for rows in (100, 400))
    tables(write_results(tmp_path / "warm", 2))
    # The least of two: other processes only ever add to it.
    seconds = [min(tables(each)[0] for _ in range(2)) for each in (small, large)]
    assert seconds[1] < GROWTH**2 * seconds[0], seconds


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """More rows than a figure has room for."""
    experiment = write_results(tmp_path_factory.mktemp("rows"), MOST_ROWS + 10)
    return tables(experiment)[1]


def test_figures_show_the_best_rows_and_say_so(source: Source) -> None:
    summary = summarize(source.records())
    rows = figure_rows(summary, source.heading)
    assert rows.height == MOST_ROWS
    means = rows["mean"].to_list()
    assert means == sorted(means, reverse=True)
    methods = figure_methods(source.trained, summary, source.heading)
    assert len(methods) == MOST_CURVES
    assert set(methods) == set(rows["recipe"].head(MOST_CURVES))
    assert methods == sorted(methods), "not in the experiment's order"
    text = render_tables(source)["README.md"].decode()
    assert f"Only the best {MOST_ROWS} of {MOST_ROWS + 10} rows are shown." in text
    assert f"Only the best {MOST_CURVES} of {MOST_ROWS + 10} methods are shown." in text
    evaluations = sum(map(len, EVALUATIONS.values()))
    # The ranking and every table have all rows, and so have the folded ones; geometry folds none.
    assert text.count("| method") == (1 + evaluations + evaluations - 1) * (MOST_ROWS + 10)


@pytest.mark.slow
def test_a_figure_of_many_rows_is_no_larger(source: Source) -> None:
    summary = summarize(source.records())
    methods = figure_methods(source.trained, summary, source.heading)
    kinds = dict(summary.select("recipe", "kind").iter_rows())
    for png in (
        ranking_figure(summary, source.heading),
        curves_figure(source.curves, kinds, source.heading, methods),
    ):
        with Image.open(BytesIO(png)) as picture:
            assert picture.width <= 1800
            assert picture.height <= 8000


def test_many_protocols_share_the_room(source: Source) -> None:
    """Rows of panels below one another are shorter, so that the figure keeps a size."""
    summary = summarize(source.records())
    wide = source.heading.model_copy(
        update={"tasks": {**source.heading.tasks, "geometry": tuple(map(str, range(60)))}}
    )
    assert figure_rows(summary, wide).height == 12


def test_few_rows_are_all_shown(tmp_path: Path) -> None:
    _, few = tables(write_results(tmp_path, 3))
    summary = summarize(few.records())
    assert figure_rows(summary, few.heading).height == 3
    assert len(figure_methods(few.trained, summary, few.heading)) == 3
    text = render_tables(few)["README.md"].decode()
    assert "Only the best" not in text
