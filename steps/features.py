"""Extract frozen features of a prepared set with a backbone.

    python -m steps.features --protocol params/protocols/features.yaml \\
        --backbone .../backbone --data results/data/shapes --out .../features
"""

from __future__ import annotations

import torch

from steps.artifacts import publish, read_manifest
from steps.artifacts.publish import check_places
from steps.command import run_step, task_parser
from steps.data.loader import EvaluationViews, dataset_facts
from steps.engine.devices import claim_gpu
from steps.evaluation.features import SPLITS, extract
from steps.evaluation.frozen import FrozenBackbone
from steps.params.load import load
from steps.params.protocols import Features


def main() -> None:
    arguments = task_parser(__doc__, data="a prepared dataset").parse_args()
    check_places(arguments, "features")
    protocol = load(arguments.protocol, Features)
    facts = dataset_facts(arguments.data, labels=True)
    backbone = FrozenBackbone.load(arguments.backbone)
    claim_gpu()
    backbone = backbone.to("cuda" if torch.cuda.is_available() else "cpu")
    with publish(
        arguments.out,
        node="features",
        params=protocol.resolved(),
        inputs={"backbone": arguments.backbone, "data": arguments.data},
        sources={"protocol": arguments.protocol},
        seed=read_manifest(arguments.backbone).seed,
    ) as draft:
        for split in SPLITS:
            views = EvaluationViews(arguments.data, split, backbone.size, protocol.crop_fraction)
            extract(
                backbone,
                views,
                draft.path,
                split,
                poolings=protocol.poolings,
                batch_size=protocol.batch_size,
            )
        draft.facts["dataset"] = facts.name
        draft.facts["classes"] = facts.num_classes


if __name__ == "__main__":
    run_step(main)
