"""TensorBoard and Weights & Biases get a run's metrics, and the run does not change."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.params.checks import load_plan
from tests.pipeline.runs import Run, run_all
from tests.processes import REPOSITORY
from tests.project import tiny
from tests.scenery import Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]

FAKE = '''
"""Weights & Biases without a network: a line per call."""

import json
import os


class WandbLogger:
    def __init__(self, **options):
        self.options = {name: str(value) for name, value in options.items()}
        self.said("options", self.options)

    def said(self, what, value):
        with open(os.environ["FAKE_WANDB"], "a", encoding="utf-8") as file:
            file.write(json.dumps([what, value]) + "\\n")

    @property
    def experiment(self):
        if os.environ.get("FAKE_REFUSES"):
            raise RuntimeError("api_key not configured (no-tty)")
        return self

    def log_metrics(self, values, step):
        self.said("step", step)

    def finalize(self, status):
        pass

    def finish(self):
        self.said("finished", None)
'''


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of every scalar, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


@pytest.mark.slow
def test_tensorboard_shows_a_resumed_run_once_and_a_logger_restarts_nothing(
    scenery: Scenery,
) -> None:
    data, root = scenery.images(), scenery.root

    def run(out: str, loggers: list[str], stop: int | None = None) -> None:
        path = scenery.recipe("mae", loggers=loggers, checkpoint_seconds=1e-9)
        arguments = scenery.pretrain_arguments(path, data, root / out)
        # In folders of their own, the runs share no checkpoint.
        run_all([Run(str(root / f"from_{out}"), "pretrain", arguments, stop)], root)

    run("plain_out", [])
    run("out", [], stop=4)
    run("out", ["tensorboard"], stop=4)  # four steps more
    run("out", ["tensorboard"])
    lines = [json.loads(line) for line in (root / "out/metrics.jsonl").open()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    found = _scalars(root / "out.tensorboard")
    # Taken up at the checkpoint of step 4: nothing was made again.
    assert [step for step, _ in found["loss"]] == list(range(5, 13))
    assert [value for _, value in found["loss"]] == pytest.approx(
        [line["loss"] for line in lines[4:]]
    )
    assert {"loss", "lr", "epoch", "images_per_second"} <= set(found)
    logged, plain_one = read_manifest(root / "out"), read_manifest(root / "plain_out")
    assert logged.digest == plain_one.digest
    assert "loggers" not in plain_one.params["recipe"]["training"]


@pytest.mark.slow
def test_wandb_resumes_its_run(scenery: Scenery, step: Step) -> None:
    root = scenery.root
    package = root / "fake/wandb/integration/lightning"
    package.mkdir(parents=True)
    (package / "fabric.py").write_text(FAKE)
    for folder in (package, package.parent, package.parents[1]):
        (folder / "__init__.py").touch()
    calls = root / "calls.jsonl"
    path = scenery.recipe("mae", loggers=["wandb"], checkpoint_seconds=1e-9)
    arguments = scenery.pretrain_arguments(path, scenery.images(), root / "out")
    variables = {"FAKE_WANDB": str(calls), "PYTHONPATH": f"{REPOSITORY}:{root / 'fake'}"}
    refused = step("pretrain", *arguments, env={**variables, "FAKE_REFUSES": "1"})
    assert refused.returncode == 2
    said = "mae.yaml: training.loggers: wandb cannot start: api_key not configured (no-tty)"
    assert said in refused.stderr
    assert "WANDB_MODE=offline" in refused.stderr

    calls.unlink()
    for stop in (4, None):
        run_all([Run(str(root), "pretrain", arguments, stop)], root, **variables)
    said = [json.loads(line) for line in calls.open()]
    options = [value for what, value in said if what == "options"]
    assert options[0] == options[1]
    assert options[0]["name"] == "mae vit_test seed 0"
    assert (root / "out.wandb").is_dir()
    steps = [value for what, value in said if what == "step"]
    assert steps == list(range(1, 13))
    assert [what for what, _ in said].count("finished") == 2


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_that_is_not_installed_is_refused_before_any_work(
    scenery: Scenery, step: Step
) -> None:
    tiny(scenery)
    said = (
        "mae.yaml: training.loggers: wandb, which is not installed | "
        "remedy: uv sync --frozen --group wandb, or leave it out"
    )
    path = scenery.recipe("mae", loggers=["wandb"])
    with pytest.raises(UserError, match="wandb, which is not installed") as caught:
        load_plan("quickstart", scenery.params)
    assert said in str(caught.value)
    data, out = scenery.root / "no_data", scenery.root / "out"
    # W&B writes its runs into a folder of its own name, which is no package.
    (scenery.root / "wandb").mkdir()
    done = step("pretrain", *scenery.pretrain_arguments(path, data, out))
    assert done.returncode == 2
    assert said in done.stderr


def test_engines_do_not_compare_how_a_run_is_watched(scenery: Scenery) -> None:
    tiny(scenery)
    scenery.recipe("mae")
    plain = load_plan("quickstart", scenery.params).resolved(recipe="mae")
    scenery.recipe("mae", loggers=["tensorboard"], on_collapse="stop")
    watched = load_plan("quickstart", scenery.params)
    assert watched.resolved(recipe="mae") == plain
    assert watched.recipes["mae"].resolved()["training"]["loggers"] == ["tensorboard"]
