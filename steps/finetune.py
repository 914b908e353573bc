"""Fine-tune a backbone end to end with a new linear head, and evaluate it.

    python -m steps.finetune --protocol params/protocols/finetune_small.yaml \\
        --backbone .../backbone --data results/data/shapes --out .../finetune/finetune_small.json

Like pretraining, it runs under torchrun too, and a killed run resumes.
"""

from __future__ import annotations

import torch
from lightning.fabric import Fabric

from steps.artifacts import read_manifest
from steps.command import run_step
from steps.core.seeds import seeded
from steps.data.loader import (
    EvaluationViews,
    TrainingViews,
    check_two_classes,
    dataset_facts,
    evaluation_batches,
)
from steps.data.subsets import labelled_rows
from steps.data.views import normalise
from steps.engine.devices import launch
from steps.engine.loop import fit
from steps.evaluation.accuracy import Classified
from steps.evaluation.task import TaskStep
from steps.methods import MethodContext
from steps.methods.supervised import Supervised
from steps.models.backbones import depth, image_size, load_backbone, normalisation
from steps.models.beit import separate_tables
from steps.params.protocols import Finetune


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep("finetune", __doc__, Finetune, arguments, data="a prepared dataset")
    protocol, options, training = step.protocol, step.options, step.protocol.training
    facts = dataset_facts(options.data, labels=True)
    check_two_classes(options.data, facts.num_classes)
    mean, std = normalisation(options.backbone)
    backbone, seed = read_manifest(options.backbone, "pretrain"), step.seed
    fabric = launch(training.precision, training.deterministic, training.strategy)
    model = load_backbone(options.backbone).train()
    separate_tables(model)
    size = image_size(model)
    with seeded(seed, "init"):
        method = Supervised(protocol.method, model, MethodContext(num_classes=facts.num_classes))
    views = TrainingViews(options.data, training.views, size, seed)
    if protocol.label_share < 1.0:
        labels = torch.from_numpy(views.labels)
        views = views.only(labelled_rows(labels, protocol.label_share, seed))
        facts = facts.of(len(views))
    with step.scratch(owner=fabric.global_rank == 0) as place:
        fabric.barrier()
        fit(
            fabric,
            method,
            views,
            # The statistics that the backbone was pretrained with, not those of this set.
            facts.normalised_by(mean, std),
            training,
            depth=depth(model),
            seed=seed,
            scratch=place,
            where=str(options.protocol),
            title=f"fine-tuning {backbone.facts['recipe']} {backbone.facts['backbone']}",
            resume=place.load(),
        )
        if fabric.global_rank == 0:
            held_out = EvaluationViews(options.data, "val", size, protocol.crop_fraction)
            decided = evaluate(fabric, method, held_out, protocol, mean, std)
            labelled = {"labelled_images": facts.train_images}
            step.write_classified(decided, held_out.images.ids, facts=labelled)


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
