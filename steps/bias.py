"""Measure which cue frozen features follow where the outline and another cue conflict.

    python -m steps.bias --protocol params/protocols/bias.yaml --backbone .../backbone \\
        --data results/data/shapes_conflicts --out .../bias/bias.json

Classifiers trained on images whose cues agree are tested on images in which one cue contradicts the
outline: a linear probe, and k-NN (metrics ending in _knn).
"""

from __future__ import annotations

import torch

from steps.command import run_step
from steps.data.loader import check_two_classes, dataset_facts
from steps.engine.devices import claim_gpu
from steps.evaluation.cues import Seen, check_conflicts, decided, kept, looks, scores
from steps.evaluation.knn import knn_votes
from steps.evaluation.linear import cached_probe
from steps.evaluation.task import TaskStep
from steps.params.protocols import Bias

_CHUNK = 1024


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep("bias", __doc__, Bias, arguments, data="a drawn set whose cues conflict")
    protocol, data = step.protocol, step.options.data
    classes = dataset_facts(data, labels=True).num_classes
    check_two_classes(data, classes)
    check_conflicts(data)
    of_classes = looks(data)
    seed = step.seed
    claim_gpu()
    poolings = protocol.probe.poolings
    wanted = list(dict.fromkeys([*poolings, protocol.pooling]))
    seen = Seen(step.options.backbone, data, wanted, protocol.crop_fraction, protocol.batch_size)
    train, val = (seen.features(split, poolings) for split in ("train", "val"))
    logits, lr = cached_probe(train, seen.labels["train"], val, protocol.probe, classes, seed)
    votes = knn_votes(
        seen.features("train", [protocol.pooling]),
        seen.labels["train"],
        seen.features("val", [protocol.pooling]),
        ks=[protocol.k],
        temperature=protocol.temperature,
        num_classes=classes,
        chunk=_CHUNK,
    )
    predicted = {
        "": logits.argmax(dim=1),
        "_knn": torch.cat([chunk[protocol.k].argmax(dim=1) for chunk in votes]),
    }
    values = {
        f"{metric}{end}": value
        for end, found in predicted.items()
        for metric, value in decided(found, seen.labels["val"], data, of_classes).items()
    }
    step.write(scores(values), facts={"lr": lr}, decisions=kept(seen.ids["val"], values))


if __name__ == "__main__":
    run_step(main)
