"""Train a linear head on frozen patch tokens for semantic segmentation, and measure it.

    python -m steps.segment --protocol params/protocols/segment.yaml --backbone .../backbone \\
        --data results/data/shapes_scenes --out .../segment/segment.json

A killed run resumes when the same command runs again.
"""

from __future__ import annotations

from steps.artifacts.decisions import of_confusion
from steps.command import UserError, run_step
from steps.data.loader import dataset_facts
from steps.data.semantic import need_pixel_classes
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.segmentation import Scenes, confusion, scores, train
from steps.evaluation.task import TaskStep
from steps.params.protocols import Segment


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep("segment", __doc__, Segment, arguments, data="a prepared set with masks")
    protocol, data = step.protocol, step.options.data
    need_pixel_classes(data, "segment")
    dataset_facts(data)
    where, artifact = f"{step.options.protocol}: image_size", step.options.backbone
    backbone = FrozenBackbone.load_transformer(
        artifact, protocol.image_size, where, task="segment", reads="patch tokens"
    )
    depth = len(backbone.transformer.blocks)
    if protocol.blocks > depth:
        raise UserError(
            f"{step.options.protocol}: blocks",
            f"{protocol.blocks}",
            allowed=f"at most {depth}, the blocks of {artifact}",
        )
    backbone, size = backbone.to(step.device), backbone.size
    with step.scratch() as place:
        scenes = Scenes(data, "train", size, protocol, step.seed)
        head = train(backbone, scenes, protocol, step.seed, place)
        val = Scenes(data, "val", size, protocol, step.seed)
        of_scenes = confusion(backbone, head, val, protocol.eval_batch_size)
        counts = of_scenes.sum(dim=0)
        shares = scores(counts, val.masks.classes[0])
        step.write(
            {metric: (100 * value, len(val)) for metric, value in shares.items()},
            facts={"classes": list(val.masks.classes), "confusion": counts.tolist()},
            decisions=of_confusion(val.images.ids, of_scenes.numpy()),
        )


if __name__ == "__main__":
    run_step(main)
