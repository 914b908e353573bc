"""Classify, or estimate numbers, by nearest neighbours among frozen features.

    python -m steps.knn --protocol params/protocols/knn.yaml \\
        --backbone .../backbone --features .../features --data results/data/shapes \\
        --out .../knn/knn.json
"""

from __future__ import annotations

from steps.command import run_step
from steps.data.loader import check_two_classes
from steps.data.shards import Images
from steps.evaluation.accuracy import Classified
from steps.evaluation.features import features_of, read_features
from steps.evaluation.knn_accuracy import measure, measure_targets
from steps.evaluation.targets import Estimated, Labelled
from steps.evaluation.task import TaskStep
from steps.params.protocols import KNN, check_target


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep(
        "knn",
        __doc__,
        KNN,
        arguments,
        features="a features artifact",
        data="the prepared dataset of the features",
    )
    protocol, options = step.protocol, step.options
    facts = features_of(options.features, options.backbone, options.data).facts
    classes, target = facts["classes"], facts.get("target", "class")
    check_two_classes(options.features, classes, target)
    check_target(options.protocol, protocol, target, str(options.data))
    poolings = [protocol.pooling, *protocol.more_poolings]
    train, val = (read_features(options.features, split, poolings) for split in ("train", "val"))
    values: dict[str, float] = {}
    ids = Images(options.data, "val").ids
    if target != "class":
        predicted: list[Labelled | Estimated] = []
        for pooling in poolings:
            suffix = "" if pooling == protocol.pooling else f"_{pooling}"
            scored, probe = measure_targets(protocol, train, val, pooling, step.device)
            values |= {f"{metric}{suffix}": value for metric, value in scored.items()}
            predicted.append(probe)
        step.write_predicted(predicted[0], ids, scores=values)
        return
    decided: list[Classified] = []
    for pooling in poolings:
        suffix = "" if pooling == protocol.pooling else f"_{pooling}"
        measured, classified = measure(
            protocol, train, val, pooling, classes, step.seed, step.device
        )
        values |= {f"{metric}{suffix}": value for metric, value in measured.items()}
        decided.append(classified)
    step.write_classified(
        decided[0],
        ids,
        scores={metric: (value, len(val.labels)) for metric, value in values.items()},
    )


if __name__ == "__main__":
    run_step(main)
