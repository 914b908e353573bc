"""Train a linear head on frozen patch tokens for semantic segmentation, and measure it.

    python -m steps.segment --protocol params/protocols/segment.yaml --backbone .../backbone \\
        --data results/data/shapes_scenes --out .../segment/segment.json

A run that was killed goes on where it was when the command is given again.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.decisions import of_confusion
from steps.artifacts.identity import identify_evaluation
from steps.artifacts.publish import check_places
from steps.command import UserError, run_step, task_parser
from steps.data.annotations import need_masks
from steps.data.loader import dataset_facts
from steps.engine.checkpoint import scratch
from steps.engine.devices import claim_gpu
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.segmentation import Scenes, confusion, scores, train
from steps.params.load import load
from steps.params.protocols import Segment


def main(arguments: list[str] | None = None) -> None:
    started = time.monotonic()
    options = task_parser(__doc__, data="a prepared set with masks").parse_args(arguments)
    check_places(options, "segment", record=True, decisions=True)
    protocol = load(options.protocol, Segment)
    need_masks(options.data, "segment")
    facts = dataset_facts(options.data)
    manifest = read_manifest(options.backbone, "pretrain")
    seed = manifest.seed or 0
    inputs = {"backbone": options.backbone, "data": options.data}
    claim_gpu()
    backbone = _transformer(options.backbone, protocol)
    size = backbone.size
    identity = identify_evaluation(
        "segment",
        protocol,
        options.protocol,
        inputs=inputs,
        dataset=facts.name,
        out=options.out,
    )
    with scratch(identity, started) as place:
        scenes = Scenes(options.data, "train", size, protocol, seed)
        head = train(backbone, scenes, protocol, seed, place)
        val = Scenes(options.data, "val", size, protocol, seed)
        of_scenes = confusion(backbone, head, val, protocol.eval_batch_size)
        counts = of_scenes.sum(dim=0)
        write_scores(
            options.out,
            {metric: (100 * value, len(val)) for metric, value in scores(counts).items()},
            task="segment",
            protocol=options.protocol,
            params=protocol.resolved(),
            inputs=inputs,
            dataset=facts.name,
            started=place.started,
            facts={
                "classes": list(val.masks.classes),
                "confusion": counts.tolist(),
                **place.taken_up,
            },
            decisions=of_confusion(val.images.ids, of_scenes.numpy()),
        )


def _transformer(artifact: Path, protocol: Segment) -> FrozenBackbone:
    """The frozen backbone, on the device to use.

    Raises:
        UserError: it has no patch tokens, or none of images of the protocol's size.
    """
    backbone = FrozenBackbone.load_transformer(
        *(artifact, protocol.image_size, "segmentation protocol: image_size"),
        task="segment",
        reads="patch tokens",
    )
    depth = len(backbone.transformer.blocks)
    if protocol.blocks > depth:
        raise UserError(
            "segmentation protocol: blocks",
            f"{protocol.blocks}",
            allowed=f"up to {depth}, those of {artifact}",
        )
    return backbone.to("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    run_step(main)
