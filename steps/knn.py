"""Classify by the nearest neighbours among frozen features.

    python -m steps.knn --protocol params/protocols/knn.yaml \\
        --backbone .../backbone --features .../features --data results/data/shapes \\
        --out .../knn/knn.json
"""

from __future__ import annotations

import time
from collections import defaultdict

import torch
from torch import Tensor

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.publish import check_places
from steps.command import run_step, task_parser
from steps.data.loader import check_two_classes
from steps.data.shards import Images
from steps.engine.devices import claim_gpu
from steps.evaluation.accuracy import Classified
from steps.evaluation.features import FrozenFeatures, features_of, read_features
from steps.evaluation.knn import few_shot_ks, few_shot_rows, knn_votes
from steps.params.load import load
from steps.params.protocols import KNN


def main() -> None:
    started = time.monotonic()
    arguments = task_parser(
        __doc__, features="a features artifact", data="the prepared dataset that they are of"
    ).parse_args()
    check_places(arguments, "knn", record=True, decisions=True)
    protocol = load(arguments.protocol, KNN)
    facts = features_of(arguments.features, arguments.backbone, arguments.data).facts
    check_two_classes(arguments.features, facts["classes"])
    poolings = [protocol.pooling, *protocol.more_poolings]
    train = read_features(arguments.features, "train", poolings)
    val = read_features(arguments.features, "val", poolings)
    seed = read_manifest(arguments.backbone, "pretrain").seed or 0
    claim_gpu()
    values: dict[str, float] = {}
    decided: list[Classified] = []
    for pooling in poolings:
        suffix = "" if pooling == protocol.pooling else f"_{pooling}"
        measured, classified = measure(protocol, train, val, pooling, facts["classes"], seed)
        values |= {f"{metric}{suffix}": value for metric, value in measured.items()}
        decided.append(classified)
    names = read_manifest(arguments.data, "prepare").facts["classes"]
    write_scores(
        arguments.out,
        {metric: (value, len(val.labels)) for metric, value in values.items()},
        task="knn",
        protocol=arguments.protocol,
        params=protocol.resolved(),
        inputs={
            "backbone": arguments.backbone,
            "features": arguments.features,
            "data": arguments.data,
        },
        dataset=facts["dataset"],
        started=started,
        facts=decided[0].facts(names),
        decisions=decided[0].decisions(Images(arguments.data, "val").ids),
    )


def measure(
    protocol: KNN,
    train: FrozenFeatures,
    val: FrozenFeatures,
    pooling: str,
    classes: int,
    seed: int,
) -> tuple[dict[str, float], Classified]:
    """Accuracies in percent by metric: the headline, each k, then each few-shot size.

    Returns:
        The accuracies, and the headline's decisions.
    """
    of_k = classify(protocol, train, val, pooling, classes, protocol.k)
    headline = of_k[protocol.headline_k]
    values = {**headline.accuracies(classes), "balanced": headline.balanced}
    for k in protocol.k:
        values |= _named(protocol, of_k[k], classes, f"_k{k}")
    labels = torch.from_numpy(train.labels)
    for samples in protocol.samples_per_class:
        sums: dict[str, float] = defaultdict(float)
        ks = few_shot_ks(protocol.k, samples)
        for attempt in range(protocol.tries):
            rows = few_shot_rows(labels, samples, seed, attempt)
            for k, found in classify(protocol, train, val, pooling, classes, ks, rows).items():
                of_try = _named(protocol, found, classes, f"_{samples}shot_k{k}")
                for name, value in of_try.items():
                    sums[name] += value / protocol.tries
        values |= sums
    return values, headline


def _named(protocol: KNN, classified: Classified, classes: int, suffix: str) -> dict[str, float]:
    """Accuracies of a k that is not the headline."""
    values = classified.accuracies(classes)
    if protocol.per_class:
        values["balanced"] = classified.balanced
    return {f"{metric}{suffix}": value for metric, value in values.items()}


def classify(
    protocol: KNN,
    train: FrozenFeatures,
    val: FrozenFeatures,
    pooling: str,
    classes: int,
    ks: list[int],
    rows: Tensor | None = None,
) -> dict[int, Classified]:
    """Decisions on the validation set by k, with some or all ``rows`` of the training set."""
    bank, bank_labels = train.arrays[pooling], torch.from_numpy(train.labels)
    if rows is not None:
        bank, bank_labels = bank[rows.numpy()], bank_labels[rows]
    parts: dict[int, list[Classified]] = defaultdict(list)
    labels = iter(torch.from_numpy(val.labels).split(protocol.chunk))
    for votes in knn_votes(
        bank,
        bank_labels,
        val.arrays[pooling],
        ks=ks,
        temperature=protocol.temperature,
        num_classes=classes,
        chunk=protocol.chunk,
        bank_chunk=protocol.bank_chunk,
        weights=protocol.votes,
        device="cuda" if torch.cuda.is_available() else "cpu",
    ):
        here = next(labels)
        for k, scores in votes.items():
            parts[k].append(Classified.from_scores(scores, here))
    return {k: Classified.together(chunks) for k, chunks in parts.items()}


if __name__ == "__main__":
    run_step(main)
