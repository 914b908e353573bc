"""Train linear classifiers on augmented images through a frozen backbone, in one pass of it.

Each process passes its share of a global batch through the backbone, in parts that fit the device;
the features of all processes come together before the classifiers are updated, by each process
alike. So neither the parts nor the number of processes change the result, batch norm included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from steps.command import UserError
from steps.core.distributed import gather, rank, world_size
from steps.core.finite import check_rows, not_finite
from steps.core.schedules import Progress
from steps.core.seeds import seeded
from steps.data.loader import (
    EvaluationViews,
    Label,
    TrainingViews,
    evaluation_batches,
    plan_batch,
    training_batches,
)
from steps.engine.checkpoint import Scratch
from steps.evaluation.accuracy import Classified, correct_in_top
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.linear import split_held_out
from steps.evaluation.probes import (
    FeatureSpec,
    Probes,
    best,
    build_optimizer,
    grid,
    read_backbone,
    set_rates,
    train_step,
    width,
)
from steps.params.protocols import Probe

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Measured:
    """Result on the validation set."""

    decided: Classified
    """By the classifier that was chosen."""
    head: str
    held_out: dict[str, float]
    """Each classifier's accuracy on the held-out part, in percent; empty where there is but one."""


def augmented_probe(
    backbone: FrozenBackbone,
    dataset: Path,
    protocol: Probe,
    classes: int,
    seed: int,
    scratch: Scratch,
    where: str,
) -> Measured:
    """Train all classifiers, choose one on the held-out part, and measure it.

    Args:
        backbone: on the device to use.
        dataset: a prepared set with labels.
        protocol: the params.
        classes: of the set.
        seed: of initialisation, split, order and views.
        scratch: where checkpoints go.
        where: the params file that errors name.

    Raises:
        UserError: the batch does not fit the set or the devices, or every classifier diverged.
    """
    size = backbone.size
    heads = grid(protocol.blocks, protocol.poolings, protocol.lr)
    widths = {head.reads: width(backbone.model.num_features, head.reads) for head in heads}
    with seeded(seed, "probe"):
        probes = Probes(heads, widths, classes, batch_norm=protocol.batch_norm, init=protocol.init)
    probes.to(backbone.device)
    views = TrainingViews(dataset, [protocol.view], size, seed)
    held = None
    if len(heads) > 1:
        kept, held = split_held_out(len(views), protocol.held_out, seed)
        views = views.only(kept)
    train(backbone, probes, views, protocol, seed, scratch, where)
    # A classifier of a grid may diverge; it is not chosen.
    diverged = [bool(not_finite(each.named_parameters())) for each in probes.classifiers()]
    if all(diverged):
        raise UserError(f"{where}: lr", "every classifier diverged", remedy="lower it")
    chosen, shares = diverged.index(False), {}
    if held is not None:
        whole = EvaluationViews(dataset, "train", size, protocol.crop_fraction)
        found = measure(backbone, probes, Subset(whole, held.tolist()), protocol, diverged)
        chosen = best([-1 if gone else right for gone, right in zip(diverged, found, strict=True)])
        shares = {
            head.name: 100 * hits / len(held) for head, hits in zip(heads, found, strict=True)
        }
    val = EvaluationViews(dataset, "val", size, protocol.crop_fraction)
    parts = [
        Classified.from_scores(logits[:, chosen], labels)
        for logits, labels in predict(backbone, probes, val, protocol)
    ]
    return Measured(Classified.together(parts), heads[chosen].name, shares)


def train(
    backbone: FrozenBackbone,
    probes: Probes,
    views: TrainingViews,
    protocol: Probe,
    seed: int,
    scratch: Scratch,
    where: str,
) -> None:
    """Train ``probes`` in place, from a checkpoint where there is one."""
    plan = plan_batch(
        protocol.batch_size,
        protocol.max_batch_per_device,
        rank=rank(),
        world=world_size(),
        where=where,
    )
    if len(views) < protocol.batch_size:
        raise UserError(
            f"{where}: batch_size",
            f"{protocol.batch_size}, but there are {len(views)} images to train on",
            allowed=f"at most {len(views)}",
        )
    per_epoch = protocol.epoch_length or len(views) // protocol.batch_size
    total = protocol.epochs * per_epoch
    optimizer = build_optimizer(
        probes,
        protocol.optimizer,
        protocol.batch_size,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        trust=protocol.trust_coefficient,
    )
    start = 0
    if (state := scratch.load()) is not None:
        probes.load_state_dict(state["probes"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    probes.train()
    batches = training_batches(
        views, plan, seed=seed, start=start, stop=total, workers=protocol.workers
    )
    saved = time.monotonic()
    for step in range(start, total):
        set_rates(
            optimizer, Progress(step, per_epoch, total), protocol.schedule, protocol.rate_changes
        )
        parts, labels = [], []
        for _ in range(plan.accumulation):
            samples = next(batches)
            parts.append(read(backbone, samples.views[0], probes.reads))
            labels.append(samples.labels.to(backbone.device))
        features = {
            reads: gather(torch.cat([part[reads] for part in parts])) for reads in probes.reads
        }
        train_step(probes, optimizer, features, gather(torch.cat(labels)))
        if rank() == 0 and time.monotonic() - saved > protocol.checkpoint_seconds:
            scratch.save(_state(probes, optimizer, step + 1), step + 1)
            saved = time.monotonic()


def measure(
    backbone: FrozenBackbone,
    probes: Probes,
    views: Dataset[tuple[Tensor, Label]],
    protocol: Probe,
    diverged: Sequence[bool],
) -> list[int]:
    """Number of images that each classifier gets right; none of one that has diverged."""
    hits = [0] * len(probes.heads)
    for logits, labels in predict(backbone, probes, views, protocol):
        for index in range(len(hits)):
            if not diverged[index]:
                hits[index] += correct_in_top(logits[:, index], labels, 1)
    return hits


@torch.no_grad()
def read(
    backbone: FrozenBackbone, images: Tensor, reads: Sequence[FeatureSpec]
) -> dict[FeatureSpec, Tensor]:
    """Features (B, width) float32 of uint8 images (B, 3, S, S).

    Raises:
        UserError: one is not finite.
    """
    with backbone.autocast():
        features = read_backbone(backbone.model, backbone.inputs(images), reads)
    for rows in features.values():
        check_rows(rows, "features of a batch")
    return features


@torch.no_grad()
def predict(
    backbone: FrozenBackbone, probes: Probes, views: Dataset[tuple[Tensor, Label]], protocol: Probe
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (b, L, C) of L classifiers on the CPU and labels (b,), a batch at a time."""
    probes.eval()
    for images, labels in evaluation_batches(views, protocol.eval_batch_size):
        yield probes(read(backbone, images, probes.reads)).cpu(), labels


def _state(probes: Probes, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    return {"probes": probes.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
