"""Classify by the nearest neighbours among frozen features.

    python -m steps.knn --protocol params/protocols/knn.yaml \\
        --backbone .../backbone --features .../features --out .../knn.json
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import torch

from steps.artifacts import Record, read_manifest, write_records
from steps.command import run_step
from steps.evaluation.accuracy import correct_in_top, percent
from steps.evaluation.features import read_features
from steps.evaluation.knn import knn_votes
from steps.params.plan import load_checked
from steps.params.protocols import KNN


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--protocol", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    protocol = load_checked(arguments.protocol, KNN)
    facts = read_manifest(arguments.features, "features").facts
    train = read_features(arguments.features, "train", [protocol.pooling])
    val = read_features(arguments.features, "val", [protocol.pooling])
    labels = torch.from_numpy(val.labels)
    hits: Counter[tuple[int, int]] = Counter()
    start = 0
    for votes in knn_votes(
        train.concatenated([protocol.pooling]),
        torch.from_numpy(train.labels),
        val.concatenated([protocol.pooling]),
        ks=protocol.k,
        temperature=protocol.temperature,
        num_classes=facts["classes"],
        chunk=protocol.chunk,
    ):
        here = labels[start : start + protocol.chunk]
        for k, scores in votes.items():
            for top in (1, 5):
                hits[k, top] += correct_in_top(scores, here, top)
        start += protocol.chunk
    headline = protocol.headline_k
    values = {f"top{top}": hits[headline, top] for top in (1, 5)}
    values |= {f"top{top}_k{k}": hits[k, top] for k in protocol.k for top in (1, 5)}
    records = [
        Record.of_backbone(
            arguments.backbone,
            task="knn",
            protocol=arguments.protocol.stem,
            metric=metric,
            value=percent(count, len(labels)),
            unit="%",
            n=len(labels),
            dataset=facts["dataset"],
        )
        for metric, count in values.items()
    ]
    write_records(
        arguments.out,
        records,
        node="knn",
        params=protocol.resolved(),
        inputs={"backbone": arguments.backbone, "features": arguments.features},
        seed=records[0].seed,
        started=started,
    )


if __name__ == "__main__":
    run_step(main)
