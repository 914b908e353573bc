"""Probe which factors of drawn images frozen features encode: outline, colour, texture, ground.

    python -m steps.decode --protocol params/protocols/decode.yaml --backbone .../backbone \\
        --data results/data/shapes_independent --out .../decode/decode.json
"""

from __future__ import annotations

from steps.command import run_step
from steps.data.loader import dataset_facts
from steps.engine.devices import claim_gpu
from steps.evaluation.cues import Seen, factors, kept, need_independent, scores
from steps.evaluation.linear import cached_probe
from steps.evaluation.task import TaskStep
from steps.params.protocols import Decode


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep(
        "decode", __doc__, Decode, arguments, data="a drawn set with independent factors"
    )
    protocol, data = step.protocol, step.options.data
    facts = dataset_facts(data, labels=True)
    values = {"outline": facts.num_classes, **need_independent(data)}
    seed = step.seed
    claim_gpu()
    poolings = protocol.probe.poolings
    seen = Seen(step.options.backbone, data, poolings, protocol.crop_fraction, protocol.batch_size)
    drawn = {
        split: {"outline": seen.labels[split], **factors(data, split, list(values)[1:])}
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
    step.write(
        scores(told),
        facts={"lr": rates, "values": values},
        decisions=kept(seen.ids["val"], told),
    )


if __name__ == "__main__":
    run_step(main)
