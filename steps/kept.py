"""Make a backbone of the weights that a pretraining kept at an epoch.

    python -m steps.kept --backbone results/pretrained/shapes/small/vit_pico/mae/seed0/backbone \\
        --epoch 5 --out DIR

The pretraining's recipe names such epochs in ``training.keep_epochs``. The result is a backbone
artifact like any other: it has the length and the cost of the run up to there, and its metrics.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

from steps.artifacts import publish
from steps.artifacts.manifest import verify
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.engine.monitor import METRICS, TIMING
from steps.engine.run import KEPT, OUTCOME
from steps.params.base import Positive
from steps.params.load import option
from steps.params.recipe import KeptWeights, epoch_name


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", type=Path, required=True, help="of the whole pretraining")
    parser.add_argument(
        "--epoch", type=option(Positive), required=True, help="one of its training.keep_epochs"
    )
    parser.add_argument("--out", type=place, required=True)
    arguments = parser.parse_args()
    check_places(arguments, "pretrain")
    source: Path = arguments.backbone
    manifest = verify(source, "pretrain")
    kept = KeptWeights(manifest.facts["recipe"], arguments.epoch)
    folder = source / KEPT / epoch_name(kept.epoch)
    if not folder.is_dir():
        there = sorted((path.name[1:] for path in (source / KEPT).glob("e*")), key=float)
        raise UserError(
            f"--epoch {arguments.epoch:g}",
            f"{source} kept no weights of that epoch",
            allowed=f"epoch {', '.join(there)}" if there else "none: it kept only the last ones",
            remedy="add it to training.keep_epochs of the recipe, and train again",
        )
    outcome = json.loads((folder / OUTCOME).read_bytes())
    step = outcome.pop("step")
    with publish(
        arguments.out,
        node="pretrain",
        params={**manifest.params, "epoch": arguments.epoch},
        inputs={"pretraining": source},
        seed=manifest.seed,
    ) as draft:
        draft.seconds_before = time.monotonic() - started
        for file in folder.iterdir():
            if file.name != OUTCOME:
                shutil.copyfile(file, draft.path / file.name)
        for log in (METRICS, TIMING):
            lines = (source / log).read_text(encoding="utf-8").splitlines(keepends=True)
            first = [line for line in lines if json.loads(line)["step"] <= step]
            (draft.path / log).write_text("".join(first), encoding="utf-8")
        draft.logs.add(TIMING)
        draft.facts.update(manifest.facts, **outcome, recipe=kept.name)


if __name__ == "__main__":
    run_step(main)
