"""Train a detector on a pretrained backbone and measure box and mask AP.

    python -m steps.detect --protocol params/protocols/mask_rcnn_small.yaml \\
        --backbone …/backbone --data results/data/shapes_scenes \\
        --out …/detect/mask_rcnn_small.json --pictures …/detect/mask_rcnn_small

The picture is ``detections.png``, one row per image: its objects, and the detections. A killed run
resumes after its last whole epoch when the same command runs again.

With ``keep_detector: true`` in the protocol the detector is kept beside the picture, and finds
objects on any images:

    python -m steps.detect --predict …/detect/mask_rcnn_small --images photos --out found
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from steps.artifacts import verify
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.engine.devices import claim_gpu
from steps.evaluation.task import TaskStep
from steps.params.base import Probability, Whole
from steps.params.detection import Detection
from steps.params.load import option

PREDICT = "--predict"
_ONLY = ("images", "min_score", "count", "on_bad")
"""Options of ``--predict`` only."""
_DRAWN = 16
"""Images that are drawn by default."""


def main(arguments: list[str] | None = None) -> None:
    given = sys.argv[1:] if arguments is None else arguments
    if any(word.partition("=")[0] == PREDICT for word in given):
        predict(given)
    else:
        train(arguments)


def train(arguments: list[str] | None) -> None:
    """Train and measure a detector."""
    step = TaskStep(
        "detect",
        __doc__,
        Detection,
        arguments,
        data="a prepared set with boxes",
        pictures="a folder for detections on images",
        pictures_needed=False,
        further=add_prediction,
    )
    params, options, seed = step.protocol, step.options, step.seed
    for name in _ONLY:
        if getattr(options, name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')}",
                "given without --predict",
                remedy="name the detector with --predict, or leave the option out",
            )
    if params.keep_detector and options.pictures is None:
        raise UserError(
            f"{options.protocol}: keep_detector",
            "true, and the command has no --pictures, the folder that the detector goes to",
            remedy="give --pictures, or remove the key",
        )
    kind = step.data_facts.get("kind")
    if kind != "detection":
        raise UserError(str(options.data), f"a dataset of kind {kind}", allowed="detection")
    verify(options.data, shards=False)
    claim_gpu()
    # mmdet takes seconds to import: report a user's mistake before that.
    from steps.detection.drawing import draw
    from steps.detection.predict import keep
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
                if params.keep_detector:
                    draft.facts.update(keep(outcome.model, step.options, draft.path))
        images = step.data_facts["splits"]["val"]["images"]
        step.write(
            {metric: (value, images) for metric, value in outcome.metrics.items()},
            facts=outcome.facts,
            decisions=outcome.decisions,
        )


def add_prediction(parser: argparse.ArgumentParser) -> None:
    """Add the options of a kept detector."""
    group = parser.add_argument_group(
        "find objects on any images, with --out as the folder to write",
        "such as: python -m steps.detect --predict .../detect/mask_rcnn_small --images photos "
        "--out found",
    )
    group.add_argument(
        PREDICT,
        type=Path,
        metavar="DETECTOR",
        help="the --pictures folder of a detection whose protocol says keep_detector: true",
    )
    group.add_argument(
        "--images",
        help="a folder of any depth, a .txt list of files, or a quoted glob of tar files",
    )
    group.add_argument(
        "--min-score", type=option(Probability), help="lowest score; the protocol's of pictures"
    )
    group.add_argument(
        "--count", type=option(Whole), help=f"images to draw, evenly spaced; {_DRAWN}"
    )
    group.add_argument("--on-bad", choices=["fail", "skip"], help="what a damaged image does; fail")


def predict(arguments: list[str]) -> None:
    """Find objects on any images by a detector that was kept."""
    parser = argparse.ArgumentParser(
        prog="python -m steps.detect",
        description="Find objects on any images by a detector that was kept.",
        epilog="Written to --out: predictions.parquet (a row per object: name, class, score, box), "
        "predictions.json (the same in COCO's layout) and pictures/.",
    )
    add_prediction(parser)
    parser.add_argument("--out", type=place, required=True, help="the folder to write")
    options = parser.parse_args(arguments)
    if options.images is None:
        raise UserError(
            PREDICT,
            "given without --images",
            allowed="a folder of images, a list of files, or tar files",
        )
    check_places(options, "predict")
    from steps.evaluation.embeddings import images_at

    items = images_at(options.images)
    claim_gpu()
    from steps.detection.predict import load_detector, write_predictions

    detector = load_detector(options.predict)
    found = write_predictions(
        detector,
        items,
        options.out,
        least=options.min_score,
        pictures=_DRAWN if options.count is None else options.count,
        on_bad=options.on_bad or "fail",
        where=options.images,
    )
    print(f"{options.out}: {found.objects} objects on {found.images} images")


if __name__ == "__main__":
    run_step(main)
