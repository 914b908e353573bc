"""Whether the training loop's memory stays what it is, over 10,000 steps.

    python -m benchmarks.steady [--steps 10000] [--recipes mae dino simclr]

Trains small recipes on a few drawn images with a tiny network, by the real step in a process of its
own (loader, collapse watch, log and checkpoints included), and reads its resident memory from
/proc while it runs. Reported are the mean of each stretch and the slope of a line through
what comes after the first fifth, when allocators and caches have filled up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.result import Result

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES, BATCH = 64, 4
LOG_EVERY = 10
STRETCHES = 5
POLL_SECONDS = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--recipes", nargs="+", default=["mae", "dino", "simclr"])
    arguments = parser.parse_args()
    result = Result("steady", [sys.executable, "-m", "benchmarks.steady", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder))
        for name in arguments.recipes:
            samples = resident(name, arguments.steps, data, Path(folder))
            result.add(method=name, steps=arguments.steps, **summary(samples, arguments.steps))
    print(result.write())


def prepare(folder: Path) -> Path:
    """A prepared set of a few drawn images."""
    params = yaml.safe_load((REPOSITORY / "params/datasets/shapes.yaml").read_text())
    dataset = folder / "shapes.yaml"
    dataset.write_text(yaml.safe_dump({**params, "train": IMAGES, "val": IMAGES}))
    out = folder / "data"
    command = [sys.executable, "-m", "steps.prepare", "--dataset", str(dataset), "--out", str(out)]
    subprocess.run(command, cwd=folder, env=_environment(), check=True)
    return out


def resident(name: str, steps: int, data: Path, folder: Path) -> list[tuple[int, float]]:
    """MiB of a run's process, each with the step it was read at.

    Args:
        name: of a small recipe, trained as it says but for its length, batch and logging.
        steps: of the run.
        data: a prepared set.
        folder: to run in.
    """
    recipe = yaml.safe_load((REPOSITORY / f"params/recipes/small/{name}.yaml").read_text())
    recipe["training"].update(
        epochs=steps / (IMAGES // BATCH),
        batch_size=BATCH,
        max_batch_per_device=BATCH,
        log_every=LOG_EVERY,
        checkpoint_seconds=5.0,
    )
    backbone = yaml.safe_load((REPOSITORY / "params/backbones/vit_pico.yaml").read_text())
    backbone["model_args"] = {"embed_dim": 24, "depth": 2, "num_heads": 2}
    command = [
        *(sys.executable, "-m", "steps.pretrain"),
        *("--recipe", _write(folder / "recipes" / f"{name}.yaml", recipe)),
        *("--backbone", _write(folder / "backbones/vit_tiny.yaml", backbone)),
        *("--data", str(data), "--seed", "0", "--out", str(folder / name)),
    ]
    process = subprocess.Popen(command, cwd=folder, env=_environment())
    samples: list[tuple[int, float]] = []
    while process.poll() is None:
        step, memory = _step(folder), _memory_mib(process.pid)
        if step and memory:
            samples.append((step, memory))
        time.sleep(POLL_SECONDS)
    if process.returncode:
        sys.exit(f"the run of {name} failed")
    return samples


def summary(samples: list[tuple[int, float]], steps: int) -> dict[str, Any]:
    """The mean of each stretch of the run, and by how much the later ones rise."""
    stretches: dict[str, float] = {}
    for index in range(STRETCHES):
        first, last = index * steps // STRETCHES, (index + 1) * steps // STRETCHES
        within = [memory for step, memory in samples if first <= step < last]
        stretches[f"mib_to_step_{last}"] = round(statistics.mean(within), 1)
    later = [sample for sample in samples if sample[0] >= steps // STRETCHES]
    line = statistics.linear_regression(*zip(*later, strict=True))
    return {**stretches, "kib_per_1000_steps": round(line.slope * 1000 * 2**10, 1)}


def _write(path: Path, content: dict[str, Any]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def _step(folder: Path) -> int:
    """The step that the running run has logged last."""
    logs = list(folder.glob(".scratch/*/metrics.jsonl"))
    try:
        return LOG_EVERY * logs[0].read_bytes().count(b"\n") if logs else 0
    except FileNotFoundError:  # it has just ended
        return 0


def _memory_mib(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (FileNotFoundError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    main()
