"""Classify images by the names of their classes, without training on them.

    python -m steps.zeroshot --protocol params/protocols/zeroshot.yaml \\
        --backbone .../backbone --data results/data/shapes --out .../zeroshot/zeroshot.json

The backbone must come from a method with a text tower, which its artifact keeps.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from steps.command import run_step
from steps.data.loader import EvaluationViews, dataset_facts
from steps.data.text import fill
from steps.evaluation.accuracy import Classified
from steps.evaluation.task import TaskStep
from steps.evaluation.towers import ImageTextEncoder
from steps.models.backbones import image_size
from steps.params.protocols import ZeroShot


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep("zeroshot", __doc__, ZeroShot, arguments, data="a prepared dataset with labels")
    protocol = step.protocol
    dataset_facts(step.options.data, labels=True)
    classes = step.data_facts["classes"]
    towers = ImageTextEncoder(step.options.backbone)
    towers.to(step.device)
    size = image_size(towers.method.backbone)
    views = EvaluationViews(step.options.data, "val", size, protocol.crop_fraction)
    sentences = [fill(prompt, name) for name in classes for prompt in protocol.prompts]
    of_sentences = towers.sentences(sentences, protocol.batch_size)
    of_classes = F.normalize(of_sentences.view(len(classes), len(protocol.prompts), -1).mean(1))
    scores = towers.images(views, protocol.batch_size) @ of_classes.T
    decided = Classified.from_scores(scores, torch.from_numpy(views.labels))
    step.write_classified(decided, views.images.ids)


if __name__ == "__main__":
    run_step(main)
