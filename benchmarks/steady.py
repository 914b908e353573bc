"""Whether the training loop's memory stays what it is, over 10,000 steps.

    python -m benchmarks.steady [--steps 10000] [--recipes mae] [--folder DIR]

Trains small recipes on a few drawn images with a tiny network, by the real step (loader, collapse
watch, log and checkpoints included), and reports the peak of resident memory that the step logs,
after each fifth of the run. What is freed cannot hide a leak: a peak never falls.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.result import Result

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES, BATCH = 64, 4
LOG_EVERY = 10
STRETCHES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--recipes", nargs="+", default=["mae"])
    parser.add_argument("--folder", type=Path, help="to keep; runs that ended there stay")
    arguments = parser.parse_args()
    result = Result("steady", [sys.executable, "-m", "benchmarks.steady", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for name in arguments.recipes:
            peaks = peak_mib(name, arguments.steps, folder.resolve())
            ends = [(index + 1) * arguments.steps // STRETCHES for index in range(STRETCHES)]
            result.add(
                method=name,
                steps=arguments.steps,
                **{f"peak_mib_at_step_{end}": peaks[end // LOG_EVERY - 1] for end in ends},
            )
    print(result.write())


def peak_mib(name: str, steps: int, folder: Path) -> list[float]:
    """Peak resident memory of a run so far, at each line of its log.

    Args:
        name: of a small recipe, trained as it says but for its length, batch and logging.
        steps: of the run.
        folder: where the run is, or is to be.
    """
    data, out = folder / "data", folder / name
    if not data.exists():
        dataset = _params("datasets/shapes.yaml") | {"train": IMAGES, "val": IMAGES}
        _step("prepare", "--dataset", _write(folder / "shapes.yaml", dataset), "--out", str(data))
    if not out.exists():
        recipe = _params(f"recipes/small/{name}.yaml")
        recipe["training"].update(
            epochs=steps / (IMAGES // BATCH),
            batch_size=BATCH,
            max_batch_per_device=BATCH,
            log_every=LOG_EVERY,
            checkpoint_seconds=5.0,
        )
        backbone = _params("backbones/vit_pico.yaml")
        backbone["model_args"] = {"embed_dim": 24, "depth": 2, "num_heads": 2}
        _step(
            *("pretrain", "--recipe", _write(folder / "recipes" / f"{name}.yaml", recipe)),
            *("--backbone", _write(folder / "backbones/vit_tiny.yaml", backbone)),
            *("--data", str(data), "--seed", "0", "--out", str(out)),
        )
    lines = [json.loads(line) for line in (out / "timing.jsonl").open(encoding="utf-8")]
    if lines[-1]["step"] != steps:
        sys.exit(f"{out} is a run of {lines[-1]['step']} steps")
    return [line["peak_memory_mib"] for line in lines]


def _params(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(
        (REPOSITORY / "params" / name).read_text(encoding="utf-8")
    )
    return content


def _write(path: Path, content: dict[str, Any]) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(path)


def _step(node: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    # From the outputs' folder, where the run has its scratch folder.
    folder = Path(arguments[-1]).parent
    command = [sys.executable, "-m", f"steps.{node}", *arguments]
    subprocess.run(command, cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main()
