"""Fine-tune a backbone end to end with a new linear head, and evaluate it.

    python -m steps.finetune --protocol params/protocols/finetune_small.yaml \\
        --backbone .../backbone --data results/data/shapes --out .../finetune/finetune_small.json

Like pretraining it runs under torchrun too, and a killed run goes on where it was.
"""

from __future__ import annotations

import time

import torch
from lightning.fabric import Fabric

from steps.artifacts import read_manifest, write_scores
from steps.artifacts.identity import identify_evaluation
from steps.artifacts.publish import check_places
from steps.command import run_step, task_parser
from steps.core.seeds import seeded
from steps.data.loader import (
    EvaluationViews,
    TrainingViews,
    check_two_classes,
    dataset_facts,
    evaluation_batches,
)
from steps.data.shards import labelled_rows
from steps.data.views import normalise
from steps.engine.checkpoint import scratch
from steps.engine.devices import launch
from steps.engine.loop import fit
from steps.evaluation.accuracy import Classified
from steps.methods import MethodContext
from steps.methods.supervised import Supervised
from steps.models.backbones import depth, image_size, load_backbone, normalisation
from steps.models.beit import separate_tables
from steps.params.load import load
from steps.params.protocols import Finetune


def main() -> None:
    started = time.monotonic()
    arguments = task_parser(__doc__, data="a prepared dataset").parse_args()
    check_places(arguments, "finetune", record=True, decisions=True)
    protocol = load(arguments.protocol, Finetune)
    facts = dataset_facts(arguments.data, labels=True)
    check_two_classes(arguments.data, facts.num_classes)
    mean, std = normalisation(arguments.backbone)
    backbone = read_manifest(arguments.backbone, "pretrain")
    seed = backbone.seed or 0
    inputs = {"backbone": arguments.backbone, "data": arguments.data}
    training = protocol.training
    fabric = launch(training.precision, training.deterministic, training.strategy)
    identity = identify_evaluation(
        "finetune",
        protocol,
        arguments.protocol,
        inputs=inputs,
        dataset=facts.name,
        out=arguments.out,
    )
    model = load_backbone(arguments.backbone).train()
    separate_tables(model)
    size = image_size(model)
    with seeded(seed, "init"):
        method = Supervised(protocol.method, model, MethodContext(num_classes=facts.num_classes))
    views = TrainingViews(arguments.data, protocol.training.views, size, seed)
    if protocol.label_share < 1.0:
        labels = torch.from_numpy(views.labels)
        views = views.only(labelled_rows(labels, protocol.label_share, seed))
        facts = facts.of(len(views))
    with scratch(identity, started, owner=fabric.global_rank == 0) as place:
        fabric.barrier()
        fit(
            fabric,
            method,
            views,
            # The input that the backbone was pretrained on, not this set's own statistics.
            facts.normalised_by(mean, std),
            protocol.training,
            depth=depth(model),
            seed=seed,
            scratch=place,
            where=str(arguments.protocol),
            title=f"fine-tuning {backbone.facts['recipe']} {backbone.facts['backbone']}",
            resume=place.load(),
        )
        if fabric.global_rank == 0:
            held_out = EvaluationViews(arguments.data, "val", size, protocol.crop_fraction)
            decided = evaluate(fabric, method, held_out, protocol, mean, std)
            names = read_manifest(arguments.data, "prepare").facts["classes"]
            write_scores(
                arguments.out,
                decided.scores(len(names)),
                task="finetune",
                protocol=arguments.protocol,
                params=protocol.resolved(),
                inputs=inputs,
                dataset=facts.name,
                started=place.started,
                facts={
                    "labelled_images": facts.train_images,
                    **place.taken_up,
                    **decided.facts(names),
                },
                decisions=decided.decisions(held_out.images.ids),
            )


@torch.inference_mode()
def evaluate(
    fabric: Fabric,
    method: Supervised,
    views: EvaluationViews,
    protocol: Finetune,
    mean: list[float],
    std: list[float],
) -> Classified:
    """Decisions on the validation images, in order."""
    method.eval()
    parts = []
    for images, labels in evaluation_batches(views, protocol.eval_batch_size):
        with fabric.autocast():
            scores = method.logits(normalise(fabric.to_device(images), mean, std))
        parts.append(Classified.from_scores(scores.float().cpu(), labels))
    return Classified.together(parts)


if __name__ == "__main__":
    run_step(main)
