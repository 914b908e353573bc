"""Find captions by image and images by caption.

    python -m steps.retrieval --protocol params/protocols/retrieval.yaml \\
        --backbone .../backbone --data results/data/shapes --out .../retrieval/retrieval.json

The backbone is one of a method with a text tower: its artifact keeps that too.
"""

from __future__ import annotations

import time

import torch

from steps.artifacts import write_scores
from steps.artifacts.decisions import of_values
from steps.artifacts.publish import check_places
from steps.command import UserError, run_step, task_parser
from steps.data.loader import EvaluationViews, dataset_facts
from steps.engine.devices import claim_gpu
from steps.evaluation.accuracy import percent
from steps.evaluation.retrieval import CaptionIndex, answers, by_caption
from steps.evaluation.towers import ImageTextEncoder
from steps.models.backbones import image_size
from steps.params.load import load
from steps.params.protocols import Retrieval


def main() -> None:
    started = time.monotonic()
    arguments = task_parser(__doc__, data="a prepared dataset with captions").parse_args()
    check_places(arguments, "retrieval", record=True, decisions=True)
    protocol = load(arguments.protocol, Retrieval)
    facts = dataset_facts(arguments.data)
    towers = ImageTextEncoder(arguments.backbone)
    size = image_size(towers.method.backbone)
    views = EvaluationViews(arguments.data, "val", size, protocol.crop_fraction)
    if not views.images.has_captions:
        raise UserError(
            str(arguments.data), "a set without captions", allowed="a set with captions"
        )
    claim_gpu()
    towers.to("cuda" if torch.cuda.is_available() else "cpu")
    sayings = CaptionIndex.from_captions(
        [them[: protocol.captions] for them in views.images.all_captions()]
    )
    found = answers(
        towers.images(views, protocol.batch_size),
        towers.sentences(sayings.sentences, protocol.batch_size),
        sayings,
        protocol.k,
    )
    write_scores(
        arguments.out,
        {
            metric: (percent(int(right.sum()), len(right)), len(right))
            for metric, right in found.items()
        },
        task="retrieval",
        protocol=arguments.protocol,
        params=protocol.resolved(),
        inputs={"backbone": arguments.backbone, "data": arguments.data},
        dataset=facts.name,
        started=started,
        decisions=of_values(
            [views.images.ids[image] for image in sayings.captions[:, 0].tolist()],
            by_caption(found, sayings),
        ),
    )


if __name__ == "__main__":
    run_step(main)
