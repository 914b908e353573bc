"""Training speed of each method of a regime, through the loop that trains.

    python -m benchmarks.step [--regime small] [--backbone vit_pico] [--steps 40]

Runs each recipe for some steps by turns (several rounds, so that a slow moment of the machine hits
all of them), data loading included, and reports images a second, the share of time spent waiting
for data, peak memory, and the FLOPs rate that follows from counted FLOPs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks.result import Result
from steps.artifacts import read_manifest

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--regime", default="small")
    parser.add_argument("--backbone", default="vit_pico")
    parser.add_argument("--data", type=Path, default=REPOSITORY / "results/data/shapes")
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    recipes = sorted((REPOSITORY / "params/recipes" / arguments.regime).glob("*.yaml"))
    contents = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in recipes}
    # A recipe of continued pretraining takes the steps of its method, and needs weights.
    trained = {
        name: content
        for name, content in contents.items()
        if "training" in content and "init" not in content
    }
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in trained}
    for _ in range(ROUNDS):
        for name, content in trained.items():
            rounds[name].append(run(name, content, arguments))
    result = Result("step", [sys.executable, "-m", "benchmarks.step", *sys.argv[1:]])
    for name, measured in rounds.items():
        median = {key: statistics.median(row[key] for row in measured) for key in measured[0]}
        result.add(
            method=name,
            backbone=arguments.backbone,
            images_per_second=round(median["images_per_second"], 1),
            gflops_per_second=round(median["gflops_per_second"], 1),
            data_wait_share=round(median["data_wait_share"], 3),
            peak_memory_mib=round(median["peak_memory_mib"]),
        )
    print(result.write())


def run(name: str, content: dict, arguments: argparse.Namespace) -> dict[str, float]:
    """Train for some steps; the first quarter is left out of the figures."""
    training = content["training"]
    images = read_manifest(arguments.data).facts["splits"]["train"]["images"]
    per_epoch = images // training["batch_size"]
    training.update(
        epochs=arguments.steps / per_epoch,
        log_every=arguments.steps // 4,
        schedule={**training["schedule"], "warmup_epochs": 0},
    )
    with tempfile.TemporaryDirectory() as folder:
        recipe, out = Path(folder) / f"{name}.yaml", Path(folder) / "out"
        recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
        subprocess.run(
            [
                *(sys.executable, "-m", "steps.pretrain", "--recipe", str(recipe)),
                *("--backbone", f"params/backbones/{arguments.backbone}.yaml"),
                *("--data", str(arguments.data), "--seed", "0", "--out", str(out)),
            ],
            cwd=REPOSITORY,
            check=True,
        )
        timing = [json.loads(line) for line in (out / "timing.jsonl").open(encoding="utf-8")][1:]
        facts = read_manifest(out).facts
    speed = statistics.mean(row["images_per_second"] for row in timing)
    return {
        "images_per_second": speed,
        "gflops_per_second": speed * facts["flops"] / facts["images_seen"] / 1e9,
        "data_wait_share": statistics.mean(row["data_wait_share"] for row in timing),
        "peak_memory_mib": max(row["peak_memory_mib"] for row in timing),
    }


if __name__ == "__main__":
    main()
