"""Extract the features of a prepared set with a frozen backbone.

    python -m steps.features --protocol params/protocols/features.yaml \\
        --backbone .../backbone --data results/data/shapes --out .../features
"""

from __future__ import annotations

from steps.artifacts import publish
from steps.command import run_step
from steps.data.loader import EvaluationViews, dataset_facts
from steps.evaluation.features import SPLITS, extract
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.task import TaskStep
from steps.params.protocols import Features


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep(
        "features", __doc__, Features, arguments, data="a prepared dataset", record=False
    )
    protocol, options = step.protocol, step.options
    facts = dataset_facts(options.data, labels=True, targets=("class", "classes", "number"))
    backbone = FrozenBackbone.load(options.backbone).to(step.device)
    with publish(
        options.out,
        node="features",
        params=protocol.resolved(),
        inputs=step.inputs,
        sources={"protocol": options.protocol},
        seed=step.seed,
    ) as draft:
        for split in SPLITS:
            views = EvaluationViews(options.data, split, backbone.size, protocol.crop_fraction)
            extract(
                backbone,
                views,
                draft.path,
                split,
                poolings=protocol.poolings,
                batch_size=protocol.batch_size,
                workers=protocol.workers,
            )
        draft.facts["dataset"] = facts.name
        draft.facts["classes"] = facts.num_classes
        if facts.target != "class":
            draft.facts["target"] = facts.target


if __name__ == "__main__":
    run_step(main)
