"""Train a detector on a pretrained backbone and measure box and mask AP.

    python -m steps.detect --protocol params/protocols/mask_rcnn_small.yaml \\
        --backbone …/backbone --data results/data/shapes_scenes \\
        --out …/detect/mask_rcnn_small.json --pictures …/detect/mask_rcnn_small

The picture is ``detections.png``, a row an image: its objects, and what was found. A run that was
killed continues after its last whole epoch when the command is given again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from steps.artifacts import publish, read_manifest, verify, write_scores
from steps.artifacts.identity import identify_evaluation
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.engine.checkpoint import scratch
from steps.engine.devices import claim_gpu
from steps.params.detection import Detection
from steps.params.load import load

if TYPE_CHECKING:
    from steps.detection.train import Outcome


def main(arguments: list[str] | None = None) -> None:
    """Parse, train, measure, write the records."""
    started = time.monotonic()
    options = _parse(arguments)
    check_places(options, "detect", record=True, decisions=True)
    params = load(options.protocol, Detection)
    manifest = read_manifest(options.backbone, "pretrain")
    data = read_manifest(options.data, "prepare")
    if data.facts.get("kind") != "detection":
        raise UserError(
            str(options.data), f"a dataset of kind {data.facts.get('kind')}", allowed="detection"
        )
    verify(options.data, shards=False)
    claim_gpu()
    # mmdet takes seconds to import: a user's mistake is to show before that.
    from steps.detection.train import train_and_evaluate

    seed = manifest.seed or 0
    inputs = {"backbone": options.backbone, "data": options.data}
    identity = identify_evaluation(
        "detect",
        params,
        options.protocol,
        inputs=inputs,
        dataset=data.facts["dataset"],
        out=options.out,
    )
    with scratch(identity, started, owner=int(os.environ.get("RANK", "0")) == 0) as place:
        outcome = train_and_evaluate(
            params,
            backbone=options.backbone,
            data=options.data,
            seed=seed,
            scratch=place.folder,
            mark=place.mark,
        )
        if outcome.main_process:
            if options.pictures is not None:
                picture(options, params, outcome.model, seed)
            facts = {**outcome.facts, **place.taken_up}
            write(options, params, data.facts, outcome, facts, place.started)


def picture(options: argparse.Namespace, params: Detection, model: nn.Module, seed: int) -> None:
    """Publish a sheet of detections."""
    from steps.detection.drawing import draw

    with publish(
        options.pictures,
        node="detect",
        params=params.resolved(),
        inputs={"backbone": options.backbone, "data": options.data},
        seed=seed,
    ) as draft:
        (draft.path / "detections.png").write_bytes(draw(model, params, options.data))


def write(
    options: argparse.Namespace,
    params: Detection,
    data: dict[str, Any],
    outcome: Outcome,
    facts: dict[str, Any],
    started: float,
) -> None:
    """Write the records of a finished run."""
    images = data["splits"]["val"]["images"]
    write_scores(
        options.out,
        {metric: (value, images) for metric, value in outcome.metrics.items()},
        task="detect",
        protocol=options.protocol,
        params=params.resolved(),
        inputs={"backbone": options.backbone, "data": options.data},
        dataset=data["dataset"],
        started=started,
        facts=facts,
        decisions=outcome.decisions,
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m steps.detect", description=__doc__)
    parser.add_argument("--protocol", type=Path, required=True, help="params/protocols/*.yaml")
    parser.add_argument("--backbone", type=Path, required=True, help="backbone artifact")
    parser.add_argument("--data", type=Path, required=True, help="prepared detection dataset")
    parser.add_argument("--out", type=place, required=True, help="the record file to write")
    parser.add_argument("--pictures", type=place, help="a folder for detections on images")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_step(main)
