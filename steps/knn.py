"""Classify by the nearest neighbours among frozen features.

    python -m steps.knn --protocol params/protocols/knn.yaml \\
        --backbone .../backbone --features .../features --out .../knn/knn.json
"""

from __future__ import annotations

import time
from collections import defaultdict

import torch
from torch import Tensor

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.places import check_places
from steps.command import run_step, task_parser
from steps.data.loader import check_two_classes
from steps.engine.devices import claim_gpu
from steps.evaluation.accuracy import in_top, per_class_percent, percent
from steps.evaluation.features import FrozenFeatures, features_of, read_features
from steps.evaluation.knn import few_shot_ks, few_shot_rows, knn_votes
from steps.params.load import load
from steps.params.protocols import KNN


def main() -> None:
    started = time.monotonic()
    arguments = task_parser(__doc__, features="a features artifact").parse_args()
    check_places(arguments, "knn", record=True)
    protocol = load(arguments.protocol, KNN)
    facts = features_of(arguments.backbone, arguments.features).facts
    check_two_classes(arguments.features, facts["classes"])
    poolings = [protocol.pooling, *protocol.more_poolings]
    train = read_features(arguments.features, "train", poolings)
    val = read_features(arguments.features, "val", poolings)
    seed = read_manifest(arguments.backbone, "pretrain").seed or 0
    claim_gpu()
    values: dict[str, float] = {}
    for pooling in poolings:
        suffix = "" if pooling == protocol.pooling else f"_{pooling}"
        measured = measure(protocol, train, val, pooling, facts["classes"], seed)
        values |= {f"{metric}{suffix}": value for metric, value in measured.items()}
    write_scores(
        arguments.out,
        {metric: (value, len(val.labels)) for metric, value in values.items()},
        task="knn",
        protocol=arguments.protocol,
        params=protocol.resolved(),
        inputs={"backbone": arguments.backbone, "features": arguments.features},
        dataset=facts["dataset"],
        started=started,
    )


def measure(
    protocol: KNN,
    train: FrozenFeatures,
    val: FrozenFeatures,
    pooling: str,
    classes: int,
    seed: int,
) -> dict[str, float]:
    """Accuracies in percent by metric: the headline, each k, then each few-shot size."""
    of_k = accuracies(protocol, train, val, pooling, classes, protocol.k)
    values = dict(of_k[protocol.headline_k])
    values |= {f"{name}_k{k}": of_k[k][name] for k in protocol.k for name in of_k[k]}
    labels = torch.from_numpy(train.labels)
    for samples in protocol.samples_per_class:
        sums: dict[str, float] = defaultdict(float)
        ks = few_shot_ks(protocol.k, samples)
        for attempt in range(protocol.tries):
            rows = few_shot_rows(labels, samples, seed, attempt)
            for k, named in accuracies(protocol, train, val, pooling, classes, ks, rows).items():
                for name, value in named.items():
                    sums[f"{name}_{samples}shot_k{k}"] += value / protocol.tries
        values |= sums
    return values


def accuracies(
    protocol: KNN,
    train: FrozenFeatures,
    val: FrozenFeatures,
    pooling: str,
    classes: int,
    ks: list[int],
    rows: Tensor | None = None,
) -> dict[int, dict[str, float]]:
    """Accuracies in percent by k and name, with some or all ``rows`` of the training set."""
    bank, bank_labels = train.arrays[pooling], torch.from_numpy(train.labels)
    if rows is not None:
        bank, bank_labels = bank[rows.numpy()], bank_labels[rows]
    right: dict[tuple[int, int], list[Tensor]] = defaultdict(list)
    labels = torch.from_numpy(val.labels)
    here = iter(labels.split(protocol.chunk))
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
        chunk_labels = next(here)
        for k, scores in votes.items():
            for top in (1, 5):
                right[k, top].append(in_top(scores, chunk_labels, top))
    found: dict[int, dict[str, float]] = {k: {} for k in ks}
    for (k, top), chunks in right.items():
        correct = torch.cat(chunks)
        found[k][f"top{top}"] = percent(int(correct.sum()), len(labels))
        if protocol.per_class:
            found[k][f"top{top}_per_class"] = per_class_percent(correct, labels)
    return found


if __name__ == "__main__":
    run_step(main)
