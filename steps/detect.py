"""Train Mask R-CNN on a pretrained backbone and measure box and mask AP.

    python -m steps.detect --protocol params/protocols/mask_rcnn_small.yaml \\
        --backbone …/backbone --data results/data/shapes_scenes --out …/detect.json

A run that was killed continues after its last whole epoch when the command is given again.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from pathlib import Path

from steps.artifacts import Record, read_manifest, write_records
from steps.artifacts.digest import digest_value
from steps.artifacts.provenance import code_version
from steps.command import UserError, run_step
from steps.params.detection import Detection
from steps.params.load import load


def main(arguments: list[str] | None = None) -> None:
    """Parse, train, measure, write the records."""
    started = time.monotonic()
    options = _parse(arguments)
    params = load(options.protocol, Detection)
    manifest = read_manifest(options.backbone, "pretrain")
    data = read_manifest(options.data, "prepare")
    if data.facts.get("kind") != "detection":
        raise UserError(
            str(options.data), f"a dataset of kind {data.facts.get('kind')}", allowed="detection"
        )
    # mmdet takes seconds to import: a user's mistake is to show before that.
    from steps.detection.train import train_and_evaluate

    seed = manifest.seed or 0
    scratch = scratch_folder(options.out, params, [manifest.digest, data.digest])
    outcome = train_and_evaluate(
        params, backbone=options.backbone, data=options.data, seed=seed, scratch=scratch
    )
    if not outcome.main_process:
        return
    measured = {
        "task": "detect",
        "protocol": options.protocol.stem,
        "unit": "%",
        "n": data.facts["splits"]["val"]["images"],
        "dataset": data.facts["dataset"],
    }
    write_records(
        options.out,
        [
            Record.of_backbone(options.backbone, metric=metric, value=value, **measured)
            for metric, value in outcome.metrics.items()
        ],
        node="detect",
        params={"protocol": options.protocol.stem, **params.resolved()},
        inputs={"backbone": options.backbone, "data": options.data},
        started=started,
        seed=seed,
        facts=outcome.facts,
    )
    shutil.rmtree(scratch)
    with contextlib.suppress(OSError):  # another run may have its checkpoints there
        scratch.parent.rmdir()


def scratch_folder(out: Path, params: Detection, inputs: list[str]) -> Path:
    """Where a run keeps its checkpoints: another run of other params, inputs or code has another.

    Args:
        out: the record file to be.
        inputs: digests of the input artifacts.
    """
    key = digest_value([params.resolved(), inputs, code_version().digest])
    return out.parent / ".scratch" / f"detect-{key[:16]}"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m steps.detect", description=__doc__)
    parser.add_argument("--protocol", type=Path, required=True, help="params/protocols/*.yaml")
    parser.add_argument("--backbone", type=Path, required=True, help="backbone artifact")
    parser.add_argument("--data", type=Path, required=True, help="prepared detection dataset")
    parser.add_argument("--out", type=Path, required=True, help="the record file to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_step(main)
