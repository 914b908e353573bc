"""Train a linear head on frozen patch tokens for semantic segmentation, and measure it.

    python -m steps.segment --protocol params/protocols/segment.yaml --backbone .../backbone \\
        --data results/data/shapes_scenes --out .../segment/segment.json

A run that was killed goes on where it was when the command is given again.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from timm.models.resnet import ResNet

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.decisions import of_confusion
from steps.artifacts.identity import identify_evaluation
from steps.artifacts.publish import check_places
from steps.command import UserError, run_step, task_parser
from steps.data.annotations import need_masks
from steps.data.loader import dataset_facts
from steps.engine.checkpoint import scratch
from steps.engine.devices import claim_gpu
from steps.evaluation.segmentation import Frozen, Scenes, confusion, scores, train
from steps.models.backbones import Transformer, image_size, load_backbone, normalisation
from steps.models.features import sized
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
    vit = _transformer(options.backbone, protocol)
    size = protocol.image_size or image_size(vit)
    frozen = Frozen(vit, protocol.blocks, *normalisation(options.backbone))
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
        head = train(frozen, scenes, protocol, seed, place)
        val = Scenes(options.data, "val", size, protocol, seed)
        of_scenes = confusion(frozen, head, val, protocol.eval_batch_size)
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


def _transformer(artifact: Path, protocol: Segment) -> Transformer:
    """The frozen backbone, on the device to use.

    Raises:
        UserError: it has no patch tokens, or none of images of the protocol's size.
    """
    vit = load_backbone(artifact)
    if isinstance(vit, ResNet):
        raise UserError(
            str(artifact),
            "a ResNet, which has no patch tokens",
            allowed="a vision transformer",
            remedy="leave the task segment out",
        )
    size = protocol.image_size or image_size(vit)
    vit = sized(vit, artifact, size, "segmentation protocol: image_size")
    if protocol.blocks > len(vit.blocks):
        raise UserError(
            "segmentation protocol: blocks",
            f"{protocol.blocks}",
            allowed=f"up to {len(vit.blocks)}, those of {artifact}",
        )
    return vit.eval().to("cuda" if torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    run_step(main)
