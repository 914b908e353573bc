"""Classify linearly what a frozen backbone gives: on cached features, or on augmented images.

    python -m steps.linear --protocol params/protocols/linear.yaml --backbone .../backbone \\
        --features .../features --data results/data/shapes --out .../linear/linear.json

The protocol's ``kind`` decides: ``cached`` and ``logreg`` take the features, ``augmented`` the data
(under torchrun too, and a killed run goes on where it was).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.identity import identify_evaluation
from steps.artifacts.publish import check_places
from steps.command import run_step, task_parser
from steps.data.loader import check_two_classes, dataset_facts
from steps.data.shards import Images
from steps.engine.checkpoint import scratch
from steps.engine.devices import launch
from steps.evaluation.accuracy import Classified
from steps.evaluation.augmented import augmented_probe
from steps.evaluation.features import features_of, read_features
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.linear import cached_probe, logistic_probe
from steps.params.load import load
from steps.params.protocols import Linear, LinearProtocol, LogReg, Probe


def main() -> None:
    started = time.monotonic()
    arguments = task_parser(
        __doc__, features="of cached and logreg", data="a prepared dataset"
    ).parse_args()
    check_places(arguments, "linear", record=True, decisions=True)
    any_protocol: Any = LinearProtocol
    protocol: Linear | LogReg | Probe = load(arguments.protocol, any_protocol)
    if isinstance(protocol, Probe):
        augmented(arguments, protocol, started)
    else:
        cached(arguments, protocol, started)


def cached(arguments: argparse.Namespace, protocol: Linear | LogReg, started: float) -> None:
    """On features that were extracted once."""
    manifest = features_of(arguments.features, arguments.backbone, arguments.data)
    classes = manifest.facts["classes"]
    check_two_classes(arguments.features, classes)
    seed = read_manifest(arguments.backbone, "pretrain").seed or 0
    train = read_features(arguments.features, "train", protocol.poolings)
    val = read_features(arguments.features, "val", protocol.poolings)
    given = (
        train.concatenated(protocol.poolings),
        torch.from_numpy(train.labels),
        val.concatenated(protocol.poolings),
    )
    if isinstance(protocol, LogReg):
        scores, c = logistic_probe(*given, protocol, classes, seed)
        facts = {"c": c}
    else:
        scores, lr = cached_probe(*given, protocol, classes, seed)
        facts = {"lr": lr}
    decided = Classified.from_scores(scores, torch.from_numpy(val.labels))
    write(arguments, protocol, "features", decided, facts, started)


def augmented(arguments: argparse.Namespace, protocol: Probe, started: float) -> None:
    """On views of the images, through the backbone."""
    manifest = read_manifest(arguments.backbone, "pretrain")
    seed = manifest.seed or 0
    data = dataset_facts(arguments.data, labels=True)
    check_two_classes(arguments.data, data.num_classes)
    fabric = launch(protocol.precision, protocol.deterministic)
    inputs = {"backbone": arguments.backbone, "data": arguments.data}
    identity = identify_evaluation(
        "linear",
        protocol,
        arguments.protocol,
        inputs=inputs,
        dataset=data.name,
        out=arguments.out,
        further={"processes": fabric.world_size},
    )
    frozen = FrozenBackbone.load(arguments.backbone).to(fabric.device)
    frozen = replace(frozen, autocast=fabric.autocast)
    with scratch(identity, started, owner=fabric.global_rank == 0) as place:
        fabric.barrier()
        measured = augmented_probe(
            frozen, arguments.data, protocol, data.num_classes, seed, place, str(arguments.protocol)
        )
        if fabric.global_rank == 0:
            facts = {"head": measured.head, "held_out": measured.held_out, **place.taken_up}
            write(arguments, protocol, "data", measured.decided, facts, place.started)


def write(
    arguments: argparse.Namespace,
    protocol: Linear | LogReg | Probe,
    read: str,
    decided: Classified,
    facts: Mapping[str, Any],
    started: float,
) -> None:
    """The records of what was ``decided`` on the validation images; ``read`` is the input."""
    inputs = {"backbone": arguments.backbone, read: getattr(arguments, read)}
    data = read_manifest(arguments.data, "prepare").facts
    write_scores(
        arguments.out,
        decided.scores(len(data["classes"])),
        task="linear",
        protocol=arguments.protocol,
        params=protocol.resolved(),
        inputs=inputs,
        dataset=data["dataset"],
        started=started,
        facts={**facts, **decided.facts(data["classes"])},
        decisions=decided.decisions(Images(arguments.data, "val").ids),
    )


if __name__ == "__main__":
    run_step(main)
