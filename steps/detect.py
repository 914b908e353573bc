"""Train a detector on a pretrained backbone and measure box and mask AP.

    python -m steps.detect --protocol params/protocols/mask_rcnn_small.yaml \\
        --backbone …/backbone --data results/data/shapes_scenes \\
        --out …/detect/mask_rcnn_small.json --pictures …/detect/mask_rcnn_small

The picture is ``detections.png``, one row per image: its objects, and the detections. A killed run
resumes after its last whole epoch when the same command runs again.
"""

from __future__ import annotations

import os

from steps.artifacts import verify
from steps.command import UserError, run_step
from steps.engine.devices import claim_gpu
from steps.evaluation.task import TaskStep
from steps.params.detection import Detection


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep(
        "detect",
        __doc__,
        Detection,
        arguments,
        data="a prepared set with boxes",
        pictures="a folder for detections on images",
        pictures_needed=False,
    )
    params, options, seed = step.protocol, step.options, step.seed
    kind = step.data_facts.get("kind")
    if kind != "detection":
        raise UserError(str(options.data), f"a dataset of kind {kind}", allowed="detection")
    verify(options.data, shards=False)
    claim_gpu()
    # mmdet takes seconds to import: report a user's mistake before that.
    from steps.detection.drawing import draw
    from steps.detection.train import train_and_evaluate

    with step.scratch(owner=int(os.environ.get("RANK", "0")) == 0) as place:
        outcome = train_and_evaluate(
            params,
            backbone=options.backbone,
            data=options.data,
            seed=seed,
            scratch=place.folder,
            mark=place.mark,
        )
        if not outcome.main_process:
            return
        if options.pictures is not None:
            with step.pictures() as draft:
                picture = draw(outcome.model, params, options.data)
                (draft.path / "detections.png").write_bytes(picture)
        images = step.data_facts["splits"]["val"]["images"]
        step.write(
            {metric: (value, images) for metric, value in outcome.metrics.items()},
            facts=outcome.facts,
            decisions=outcome.decisions,
        )


if __name__ == "__main__":
    run_step(main)
