"""Train a linear probe on a frozen backbone: on cached features, or on augmented images.

    python -m steps.linear --protocol params/protocols/linear.yaml --backbone .../backbone \\
        --features .../features --data results/data/shapes --out .../linear/linear.json

The protocol's ``kind`` decides: ``cached`` and ``logreg`` read the features, ``augmented`` reads
the images (it runs under torchrun too, and a killed run resumes). Sets with several labels or a
number per image take ``cached``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from steps.command import run_step
from steps.data.loader import check_two_classes, dataset_facts
from steps.data.shards import Images
from steps.engine.devices import launch
from steps.evaluation.accuracy import Classified
from steps.evaluation.augmented import augmented_probe
from steps.evaluation.features import features_of, read_features
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.linear import cached_probe, label_probe, logistic_probe, number_probe
from steps.evaluation.task import TaskStep
from steps.params.protocols import Linear, LinearProtocol, LogReg, Probe, check_target


def main(arguments: list[str] | None = None) -> None:
    any_protocol: Any = LinearProtocol
    step: TaskStep[Any] = TaskStep(
        "linear",
        __doc__,
        any_protocol,
        arguments,
        features="a features artifact, for cached and logreg",
        data="a prepared dataset",
    )
    if isinstance(step.protocol, Probe):
        augmented(step)
    else:
        cached(step)


def cached(step: TaskStep[Linear | LogReg]) -> None:
    """Train and measure a classifier on features that were extracted once."""
    protocol, options = step.protocol, step.options
    known = features_of(options.features, options.backbone, options.data).facts
    classes, target = known["classes"], known.get("target", "class")
    check_two_classes(options.features, classes, target)
    check_target(options.protocol, protocol, target, str(options.data))
    train, val = (
        read_features(options.features, split, protocol.poolings) for split in ("train", "val")
    )
    ids = Images(options.data, "val").ids
    if target != "class":
        assert isinstance(protocol, Linear)
        probe = label_probe if target == "classes" else number_probe
        predicted, lr = probe(
            train.concatenated(protocol.poolings),
            train.labels,
            val.concatenated(protocol.poolings),
            val.labels,
            protocol,
            step.seed,
        )
        step.write_predicted(predicted, ids, facts={"lr": lr})
        return
    given = (
        train.concatenated(protocol.poolings).to(step.device),
        torch.from_numpy(train.labels).to(step.device),
        val.concatenated(protocol.poolings).to(step.device),
    )
    if isinstance(protocol, LogReg):
        scores, c = logistic_probe(*given, protocol, classes, step.seed)
        facts = {"c": c}
    else:
        scores, lr = cached_probe(*given, protocol, classes, step.seed)
        facts = {"lr": lr}
    decided = Classified.from_scores(scores.cpu(), torch.from_numpy(val.labels))
    step.write_classified(decided, ids, facts=facts)


def augmented(step: TaskStep[Probe]) -> None:
    """Train and measure classifiers on augmented views, through the frozen backbone."""
    protocol, options = step.protocol, step.options
    del step.inputs["features"]
    seed = step.seed
    data = dataset_facts(options.data, labels=True, targets=("class", "classes", "number"))
    assert data.target is not None
    check_two_classes(options.data, data.num_classes, data.target)
    check_target(options.protocol, protocol, data.target, str(options.data))
    fabric = launch(protocol.precision, protocol.deterministic)
    backbone = FrozenBackbone.load(options.backbone).to(fabric.device)
    backbone = replace(backbone, autocast=fabric.autocast)
    main_process, further = fabric.global_rank == 0, {"processes": fabric.world_size}
    with step.scratch(owner=main_process, further=further) as place:
        fabric.barrier()
        measured = augmented_probe(
            backbone, options.data, protocol, data.num_classes, seed, place, str(options.protocol)
        )
        if main_process:
            ids = Images(options.data, "val").ids
            facts = {"head": measured.head, "held_out": measured.held_out}
            step.write_classified(measured.decided, ids, facts=facts)


if __name__ == "__main__":
    run_step(main)
