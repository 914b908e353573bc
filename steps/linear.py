"""Train a linear classifier on frozen features.

    python -m steps.linear --protocol params/protocols/linear.yaml \\
        --backbone .../backbone --features .../features --out .../linear.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from steps.artifacts import Record, read_manifest, write_records
from steps.command import run_step
from steps.evaluation.accuracy import correct_in_top, percent
from steps.evaluation.features import read_features
from steps.evaluation.linear import probe
from steps.params.plan import load_checked
from steps.params.protocols import Linear


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--protocol", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    protocol = load_checked(arguments.protocol, Linear)
    facts = read_manifest(arguments.features, "features").facts
    seed = read_manifest(arguments.backbone, "pretrain").seed or 0
    train = read_features(arguments.features, "train", protocol.poolings)
    val = read_features(arguments.features, "val", protocol.poolings)
    labels = torch.from_numpy(val.labels)
    scores, lr = probe(
        train.concatenated(protocol.poolings),
        torch.from_numpy(train.labels),
        val.concatenated(protocol.poolings),
        protocol,
        facts["classes"],
        seed,
    )
    records = [
        Record.of_backbone(
            arguments.backbone,
            task="linear",
            protocol=arguments.protocol.stem,
            metric=f"top{top}",
            value=percent(correct_in_top(scores, labels, top), len(labels)),
            unit="%",
            n=len(labels),
            dataset=facts["dataset"],
        )
        for top in (1, 5)
    ]
    write_records(
        arguments.out,
        records,
        node="linear",
        params=protocol.resolved(),
        inputs={"backbone": arguments.backbone, "features": arguments.features},
        seed=seed,
        started=started,
        facts={"lr": lr},
    )


if __name__ == "__main__":
    run_step(main)
