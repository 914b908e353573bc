"""Probe which factors of drawn images frozen features tell: outline, colour, texture, ground.

    python -m steps.decode --protocol params/protocols/decode.yaml --backbone .../backbone \\
        --data results/data/shapes_independent --out .../decode/decode.json
"""

from __future__ import annotations

import time

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.publish import check_places
from steps.command import run_step, task_parser
from steps.data.loader import dataset_facts
from steps.engine.devices import claim_gpu
from steps.evaluation.cues import Seen, factors, kept, need_independent, scores
from steps.evaluation.linear import cached_probe
from steps.params.load import load
from steps.params.protocols import Decode


def main(arguments: list[str] | None = None) -> None:
    started = time.monotonic()
    options = task_parser(__doc__, data="a drawn set with independent factors").parse_args(
        arguments
    )
    check_places(options, "decode", record=True, decisions=True)
    protocol = load(options.protocol, Decode)
    facts = dataset_facts(options.data, labels=True)
    values = {"outline": facts.num_classes, **need_independent(options.data)}
    seed = read_manifest(options.backbone, "pretrain").seed or 0
    claim_gpu()
    poolings = protocol.probe.poolings
    seen = Seen(
        options.backbone, options.data, poolings, protocol.crop_fraction, protocol.batch_size
    )
    drawn = {
        split: {"outline": seen.labels[split], **factors(options.data, split, list(values)[1:])}
        for split in ("train", "val")
    }
    told, rates = {}, {}
    for factor, count in values.items():
        predicted, rates[factor] = cached_probe(
            seen.features("train", poolings),
            drawn["train"][factor],
            seen.features("val", poolings),
            protocol.probe,
            count,
            seed,
        )
        told[factor] = 100.0 * (predicted.argmax(dim=1) == drawn["val"][factor])
    write_scores(
        options.out,
        scores(told),
        task="decode",
        protocol=options.protocol,
        params=protocol.resolved(),
        inputs={"backbone": options.backbone, "data": options.data},
        dataset=facts.name,
        started=started,
        facts={"lr": rates, "values": values},
        decisions=kept(seen.ids["val"], told),
    )


if __name__ == "__main__":
    run_step(main)
