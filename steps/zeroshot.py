"""Classify images by the names of their classes, without training on them.

    python -m steps.zeroshot --protocol params/protocols/zeroshot.yaml \\
        --backbone .../backbone --data results/data/shapes --out .../zeroshot/zeroshot.json

The backbone is one of a method with a text tower: its artifact keeps that too.
"""

from __future__ import annotations

import time

import torch
from torch.nn import functional as F

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.publish import check_places
from steps.command import run_step, task_parser
from steps.data.loader import EvaluationViews, dataset_facts
from steps.data.text import fill
from steps.engine.devices import claim_gpu
from steps.evaluation.accuracy import Classified
from steps.evaluation.towers import ImageTextEncoder
from steps.models.backbones import image_size
from steps.params.load import load
from steps.params.protocols import ZeroShot


def main() -> None:
    started = time.monotonic()
    arguments = task_parser(__doc__, data="a prepared dataset with labels").parse_args()
    check_places(arguments, "zeroshot", record=True, decisions=True)
    protocol = load(arguments.protocol, ZeroShot)
    facts = dataset_facts(arguments.data, labels=True)
    classes = read_manifest(arguments.data, "prepare").facts["classes"]
    towers = ImageTextEncoder(arguments.backbone)
    claim_gpu()
    towers.to("cuda" if torch.cuda.is_available() else "cpu")
    size = image_size(towers.method.backbone)
    views = EvaluationViews(arguments.data, "val", size, protocol.crop_fraction)
    sentences = [fill(prompt, name) for name in classes for prompt in protocol.prompts]
    of_sentences = towers.sentences(sentences, protocol.batch_size)
    of_classes = F.normalize(of_sentences.view(len(classes), len(protocol.prompts), -1).mean(1))
    scores = towers.images(views, protocol.batch_size) @ of_classes.T
    decided = Classified.from_scores(scores, torch.from_numpy(views.labels))
    write_scores(
        arguments.out,
        decided.scores(len(classes)),
        task="zeroshot",
        protocol=arguments.protocol,
        params=protocol.resolved(),
        inputs={"backbone": arguments.backbone, "data": arguments.data},
        dataset=facts.name,
        started=started,
        facts=decided.facts(classes),
        decisions=decided.decisions(views.images.ids),
    )


if __name__ == "__main__":
    run_step(main)
