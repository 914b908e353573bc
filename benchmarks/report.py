"""Growth of a report's cost with its rows.

    python -m benchmarks.report

Writes made-up results of so many rows and evaluations, each of 10,000 images, as the steps would
have left them, then makes the report of them and checks it, each in a process of its own on one
core. CPU seconds are user and system time of that process; a busy machine stretches the wall time,
and hardly them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.result import Result
from steps.artifacts import Record
from steps.artifacts.manifest import (
    MANIFEST,
    Manifest,
    code_version,
    digest_file,
    digest_files,
    digest_value,
)
from steps.params.experiment import Experiment
from steps.params.paths import Paths
from steps.params.paths import backbone as backbone_of

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS, IMAGES, POINTS = (50, 100, 200, 500), 10_000, 200
EVALUATIONS = {
    "knn": ("knn", "knn_dinov2"),
    "linear": ("linear", "linear_mae", "linear_dino", "logreg"),
    "finetune": ("finetune", "finetune_10pct", "finetune_1pct"),
    "geometry": ("geometry",),
}
"""Ten, three metrics each."""
KINDS = ("Generative", "Contrastive", "Hybrid", "Position")


def main() -> None:
    result = Result("report", [sys.executable, "-m", "benchmarks.report"])
    for rows, seeds in (*((rows, 1) for rows in ROWS), (ROWS[-1], 3)):
        with tempfile.TemporaryDirectory() as folder:
            experiment = write_results(Path(folder), rows, seeds=seeds)
            made = measured(experiment)
            checked = measured(experiment, check=True)
        result.add(rows=rows, seeds=seeds, evaluations=10, **made, **checked)
    print(result.write())


def measured(experiment: Path, *, check: bool = False) -> dict[str, Any]:
    """CPU and wall seconds, and peak memory, of making a report of made-up results, or checking it.

    Args:
        experiment: the params file that :func:`write_results` wrote.
        check: hold the report, which is there, to its records.
    """
    root = experiment.parents[2]
    making = ["--experiment", experiment, "--results", root / "results", "--out", root / "report"]
    options = ["--check", root / "report"] if check else making
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "steps.report", *map(str, options)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        | {"POLARS_MAX_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"steps.report ended with {child.returncode}")
    what = "check" if check else "make"
    return {
        f"{what}_cpu_s": round(used.ru_utime + used.ru_stime, 1),
        f"{what}_wall_s": round(time.perf_counter() - started, 1),
        f"{what}_mib": round(used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)),
    }


def write_results(root: Path, rows: int, seeds: int = 1) -> Path:
    """Made-up backbones and records of so many rows.

    Returns:
        The experiment's params file.
    """
    content = {
        "title": "Made-up numbers",
        "question": "What does a report cost?",
        "dataset": "images",
        "regime": "made_up",
        "methods": [f"method{index:03d}" for index in range(rows)],
        "backbones": ["vit"],
        "seeds": list(range(seeds)),
        "tasks": {task: list(names) for task, names in EVALUATIONS.items()},
    }
    file = root / "params/experiments/made_up.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    experiment = Experiment.model_validate(content)
    paths = Paths(experiment, str(root / "results"))
    for index, recipe in enumerate(experiment.names):
        for seed in experiment.seeds:
            row = paths.row("vit", recipe, seed)
            backbone = _write_backbone(Path(backbone_of(row)), recipe, index, seed)
            for task, protocol in experiment.evaluations():
                _write_records(Path(paths.record(row, task, protocol)), backbone, task, protocol)
    return file


def _write_backbone(out: Path, recipe: str, index: int, seed: int) -> Manifest:
    out.mkdir(parents=True)
    lines = (
        {"step": 10 * step, "epoch": step / 20, "loss": 1 + (7 * index + seed) % 13 / (1 + step)}
        for step in range(1, POINTS + 1)
    )
    log = out / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    facts = {
        "method": recipe,
        "recipe": recipe,
        "kind": KINDS[index % len(KINDS)],
        "backbone": "vit",
        "scale": "ViT",
        "pretrain_dataset": "images",
        "epochs": 10.0,
        "images_seen": 10 * IMAGES,
        "flops": 1e15 + index,
        "device_seconds": 100.0 + seed,
        "collapsed": False,
    }
    files = {log.name: digest_file(log)}
    manifest = _manifest("pretrain", digest_files(files), seed, files=files, facts=facts)
    (out / MANIFEST).write_text(manifest.model_dump_json(), encoding="utf-8")
    return manifest


def _write_records(file: Path, backbone: Manifest, task: str, protocol: str) -> None:
    facts = {key: value for key, value in backbone.facts.items() if key in Record.model_fields}
    metrics = ("effective_rank", "alignment", "uniformity")
    records = [
        Record(
            task=task,
            protocol=protocol,
            metric=metric,
            value=20 + int(backbone.digest[place : place + 4], 16) % 7000 / 100,
            unit="" if task == "geometry" else "%",
            n=IMAGES,
            dataset="images",
            seed=backbone.seed or 0,
            artifact=backbone.digest,
            **facts,
        )
        for place, metric in enumerate(
            metrics if task == "geometry" else ("top1", "top5", "balanced")
        )
    ]
    content = [record.model_dump() for record in records]
    manifest = _manifest(task, digest_value(content), backbone.seed or 0)
    file.parent.mkdir(parents=True, exist_ok=True)
    headline = {record.metric: record.value for record in records}
    body = {"metrics": headline, "records": content, "manifest": manifest.model_dump(mode="json")}
    file.write_text(json.dumps(body), encoding="utf-8")


def _manifest(node: str, digest: str, seed: int, **further: Any) -> Manifest:
    params = {"protocol": {"lr": [0.1, 0.3], "epochs": 100, "views": [{"size": 224}] * 4}}
    return Manifest(
        node=node,
        digest=digest,
        params=params,
        inputs={"backbone": digest},
        seed=seed,
        code=code_version(),
        libraries={"torch": "2.13", "polars": "1.35"},
        device="a made-up device",
        wall_seconds=12.3,
        peak_memory_mib=456.0,
        **{"files": {}, **further},
    )


if __name__ == "__main__":
    main()
