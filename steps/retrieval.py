"""Find captions by image and images by caption.

    python -m steps.retrieval --protocol params/protocols/retrieval.yaml \\
        --backbone .../backbone --data results/data/shapes --out .../retrieval/retrieval.json

The backbone must come from a method with a text tower, which its artifact keeps.
"""

from __future__ import annotations

from steps.artifacts.decisions import of_values
from steps.command import UserError, run_step
from steps.data.loader import EvaluationViews, dataset_facts
from steps.evaluation.accuracy import percent
from steps.evaluation.retrieval import CaptionIndex, answers, by_caption
from steps.evaluation.task import TaskStep
from steps.evaluation.towers import ImageTextEncoder
from steps.models.backbones import image_size
from steps.params.protocols import Retrieval


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep(
        "retrieval", __doc__, Retrieval, arguments, data="a prepared dataset with captions"
    )
    protocol, data = step.protocol, step.options.data
    dataset_facts(data)
    towers = ImageTextEncoder(step.options.backbone)
    size = image_size(towers.method.backbone)
    views = EvaluationViews(data, "val", size, protocol.crop_fraction)
    if not views.images.has_captions:
        raise UserError(str(data), "a set without captions", allowed="a set with captions")
    towers.to(step.device)
    sayings = CaptionIndex.from_captions(
        [them[: protocol.captions] for them in views.images.all_captions()]
    )
    found = answers(
        towers.images(views, protocol.batch_size),
        towers.sentences(sayings.sentences, protocol.batch_size),
        sayings,
        protocol.k,
    )
    step.write(
        {
            metric: (percent(int(right.sum()), len(right)), len(right))
            for metric, right in found.items()
        },
        decisions=of_values(
            [views.images.ids[image] for image in sayings.captions[:, 0].tolist()],
            by_caption(found, sayings),
        ),
    )


if __name__ == "__main__":
    run_step(main)
