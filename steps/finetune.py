"""Fine-tune a backbone end to end with a new linear head, and evaluate it.

    python -m steps.finetune --protocol params/protocols/finetune_small.yaml \\
        --backbone .../backbone --data results/data/shapes --out .../finetune/finetune_small.json

Like pretraining, it runs under torchrun too, and a killed run resumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy.typing as npt
import torch
from lightning.fabric import Fabric
from torch import Tensor

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
from steps.data.subsets import labelled_rows, training_rows
from steps.data.views import normalise
from steps.engine.devices import launch
from steps.engine.loop import fit
from steps.evaluation.accuracy import Classified
from steps.evaluation.targets import Estimated, Labelled
from steps.evaluation.task import TaskStep
from steps.methods import MethodContext
from steps.methods.supervised import Supervised
from steps.models.backbones import depth, image_size, load_backbone, normalisation
from steps.models.beit import separate_tables
from steps.params.protocols import Finetune, check_target


def main(arguments: list[str] | None = None) -> None:
    step = TaskStep("finetune", __doc__, Finetune, arguments, data="a prepared dataset")
    protocol, options, training = step.protocol, step.options, step.protocol.training
    facts = dataset_facts(options.data, labels=True, targets=("class", "classes", "number"))
    target = facts.target
    assert target is not None
    check_two_classes(options.data, facts.num_classes, target)
    check_target(options.protocol, protocol, target, str(options.data))
    mean, std = normalisation(options.backbone)
    backbone, seed = read_manifest(options.backbone, "pretrain"), step.seed
    fabric = launch(training.precision, training.deterministic, training.strategy)
    model = load_backbone(options.backbone).train()
    separate_tables(model)
    size = image_size(model)
    views = TrainingViews(options.data, training.views, size, seed)
    if protocol.label_share < 1.0:
        if target == "class":
            labels = torch.from_numpy(views.labels)
            rows = labelled_rows(labels, protocol.label_share, seed)
        else:
            rows = training_rows(len(views), protocol.label_share, seed)
        views = views.only(rows)
        facts = facts.of(len(views))
    context = MethodContext(sides=views.sides, num_classes=facts.num_classes, target=target)
    if target == "number":
        known = views.labels if views.rows is None else views.labels[views.rows.numpy()]
        spread = float(known.std()) or 1.0  # a share of the labels may be of equal numbers
        context = replace(context, numbers=(float(known.mean()), spread))
    with seeded(seed, "init"):
        method = Supervised(protocol.method, model, context)
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
            parts = evaluate(fabric, method, held_out, protocol, mean, std)
            labelled, ids = {"labelled_images": facts.train_images}, held_out.images.ids
            if target == "class":
                classified = [Classified.from_scores(*part) for part in parts]
                step.write_classified(Classified.together(classified), ids, facts=labelled)
            else:
                outputs = torch.cat([scores for scores, _ in parts])
                predicted = from_outputs(method, outputs, held_out.labels)
                step.write_predicted(predicted, ids, facts=labelled)


@torch.inference_mode()
def evaluate(
    fabric: Fabric,
    method: Supervised,
    views: EvaluationViews,
    protocol: Finetune,
    mean: list[float],
    std: list[float],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs (b, C) float32 and labels of the validation images, in order, a batch at a time."""
    method.eval()
    for images, labels in evaluation_batches(views, protocol.eval_batch_size):
        with fabric.autocast():
            scores = method.logits(normalise(fabric.to_device(images), mean, std))
        yield scores.float().cpu(), labels


def from_outputs(
    method: Supervised, outputs: Tensor, truth: npt.NDArray[Any]
) -> Labelled | Estimated:
    """Decisions on images with several labels (N, C), or with a number (N,), by outputs (N, C)."""
    if method.target == "classes":
        return Labelled(truth > 0, outputs.numpy(), threshold=0.0)
    mean, std = method.numbers
    return Estimated(truth, outputs[:, 0].double().numpy() * std + mean)


if __name__ == "__main__":
    run_step(main)
