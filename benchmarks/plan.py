"""How long the engines think before they work.

    python -m benchmarks.plan

Times `snakemake -n` on an experiment of every method x 3 backbones x 7 tasks (nothing made yet),
and a run of the default experiment, whose results are expected to be there and up to date: its
no-op. Each is the median of five runs after one that warms the disk cache.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.result import Result
from steps.params.checks import load_plan

REPOSITORY = Path(__file__).resolve().parents[1]
BACKBONES, RUNS = 3, 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        params = Path(folder) / "params"
        experiment = write_experiment(params)
        wide = load_plan(experiment, params).experiment
        methods, tasks = len(wide.methods), len(wide.tasks)
        plan = timed(
            ["-n", "report", "--config", f"params={params}", f"experiment={experiment}"],
            expected="total",
        )
    noop = timed(["report"], expected="Nothing to be done")
    result = Result("plan", [sys.executable, "-m", "benchmarks.plan"])
    result.add(
        what=f"plan {methods} methods x {BACKBONES} backbones x {tasks} tasks",
        seconds=plan,
        target="under 5 s",
    )
    result.add(what="no-op of the finished quickstart", seconds=noop, target="under 10 s")
    print(result.write())


def write_experiment(params: Path) -> str:
    """A params tree with every method, tokenizers and teachers included, on three backbones."""
    shutil.copytree(REPOSITORY / "params", params)
    backbones = [f"vit_{index}" for index in range(BACKBONES)]
    for backbone in backbones:
        shutil.copy(params / "backbones/vit_pico.yaml", params / f"backbones/{backbone}.yaml")
    content = yaml.safe_load((params / "experiments/all_methods.yaml").read_text(encoding="utf-8"))
    content.update(backbones=backbones, seeds=[0])
    (params / "experiments/wide.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return "wide"


def timed(arguments: list[str], expected: str) -> float:
    """Median seconds of a Snakemake command whose output must contain ``expected``."""
    seconds = []
    for _ in range(RUNS + 1):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        seconds.append(time.perf_counter() - started)
        output = done.stdout + done.stderr
        if done.returncode or expected not in output:
            sys.exit(f"snakemake {' '.join(arguments)} did not say {expected!r}:\n{output}")
    return round(statistics.median(seconds[1:]), 2)


if __name__ == "__main__":
    main()
