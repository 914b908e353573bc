"""Measure which cue decides on frozen features where the outline and another cue contradict.

    python -m steps.bias --protocol params/protocols/bias.yaml --backbone .../backbone \\
        --data results/data/shapes_conflicts --out .../bias/bias.json

A classifier of training images whose cues agree decides on images in which one contradicts the
outline: a linear probe, and k-NN (metrics ending in _knn).
"""

from __future__ import annotations

import time

import torch

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.publish import check_places
from steps.command import run_step, task_parser
from steps.data.loader import check_two_classes, dataset_facts
from steps.engine.devices import claim_gpu
from steps.evaluation.cues import Seen, decided, factors, kept, looks, scores
from steps.evaluation.knn import knn_votes
from steps.evaluation.linear import cached_probe
from steps.params.load import load
from steps.params.protocols import Bias

_CHUNK = 1024


def main(arguments: list[str] | None = None) -> None:
    started = time.monotonic()
    options = task_parser(__doc__, data="a drawn set whose cues conflict").parse_args(arguments)
    check_places(options, "bias", record=True, decisions=True)
    protocol = load(options.protocol, Bias)
    facts = dataset_facts(options.data, labels=True)
    check_two_classes(options.data, facts.num_classes)
    factors(options.data, "val", ["conflict"])
    of_classes = looks(options.data)
    seed = read_manifest(options.backbone, "pretrain").seed or 0
    claim_gpu()
    poolings = protocol.probe.poolings
    wanted = list(dict.fromkeys([*poolings, protocol.pooling]))
    seen = Seen(options.backbone, options.data, wanted, protocol.crop_fraction, protocol.batch_size)
    logits, lr = cached_probe(
        seen.features("train", poolings),
        seen.labels["train"],
        seen.features("val", poolings),
        protocol.probe,
        facts.num_classes,
        seed,
    )
    votes = knn_votes(
        seen.features("train", [protocol.pooling]),
        seen.labels["train"],
        seen.features("val", [protocol.pooling]),
        ks=[protocol.k],
        temperature=protocol.temperature,
        num_classes=facts.num_classes,
        chunk=_CHUNK,
    )
    predicted = {
        "": logits.argmax(dim=1),
        "_knn": torch.cat([chunk[protocol.k].argmax(dim=1) for chunk in votes]),
    }
    values = {
        f"{metric}{end}": each
        for end, classes in predicted.items()
        for metric, each in decided(classes, seen.labels["val"], options.data, of_classes).items()
    }
    write_scores(
        options.out,
        scores(values),
        task="bias",
        protocol=options.protocol,
        params=protocol.resolved(),
        inputs={"backbone": options.backbone, "data": options.data},
        dataset=facts.name,
        started=started,
        facts={"lr": lr},
        decisions=kept(seen.ids["val"], values),
    )


if __name__ == "__main__":
    run_step(main)
