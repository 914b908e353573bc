"""One step of training through the loop, as ``steps.pretrain`` runs it, and what it did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from torch import Tensor, nn

from benchmarks.memory import SavedActivations
from steps.core.schedules import Progress
from steps.data.loader import TrainingViews, dataset_facts
from steps.engine.checkpoint import Scratch
from steps.engine.loop import fit
from steps.methods import Method, backbone_for
from steps.models.teacher import load_teacher
from steps.params.backbone import Backbone
from steps.params.load import load
from steps.params.recipe import Recipe
from steps.pretrain import build, captions_for
from steps.tokenizers import load_tokenizer
from tests.scenery import BACKBONE, Scenery

BATCH = 16


@dataclass
class Step:
    """What one step of the loop did."""

    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    metrics: str
    saved_bytes: int
    flops: float


def method_of(name: str, scenery: Scenery, backbone: dict[str, Any] = BACKBONE) -> Method:
    """As ``steps.pretrain`` makes it, its teacher and tokenizer first."""
    path, data = scenery.recipe(name), scenery.root / "results/data/noise"
    if not data.exists():
        scenery.images()
    recipe = load(path, Recipe)
    assert recipe.training is not None
    options = scenery.pretrain_arguments(path, data, scenery.root / "out")
    named = dict(zip(options[::2], options[1::2], strict=True))
    facts = dataset_facts(data)
    seen = {"mean": facts.mean, "std": facts.std}
    teacher, tokenizer = named.get("--teacher"), named.get("--tokenizer")
    return build(
        recipe,
        recipe.training,
        backbone_for(recipe.method, Backbone(**backbone)),
        facts,
        data,
        seed=0,
        where=name,
        teacher=load_teacher(Path(teacher), **seen) if teacher else None,
        tokenizer=load_tokenizer(Path(tokenizer), **seen) if tokenizer else None,
    ).method


def one_step(name: str, method: Method, scenery: Scenery, limit: int) -> Step:
    """One step through the loop at a global batch of ``BATCH``, ``limit`` images at a time."""
    path = scenery.recipe(name, batch_size=BATCH, max_batch_per_device=limit, clip_grad=None)
    recipe = load(path, Recipe)
    training = recipe.training
    assert training is not None
    data = scenery.root / "results/data/noise"
    captions = captions_for(recipe, data, 0, name)
    facts = dataset_facts(data)
    training = training.model_copy(
        update={"epochs": BATCH / facts.train_images, "final_phase": None}
    )
    gradients: dict[str, Tensor] = {}

    def without_gradient(progress: Progress) -> Iterable[nn.Parameter]:
        """What the loop asks between the backward pass and the update."""
        for name, parameter in method.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.clone()
        return ()

    method.without_gradient = without_gradient  # type: ignore[method-assign]
    scratch = scenery.root / f"scratch{limit}"
    scratch.mkdir()
    with SavedActivations(method) as saved:
        outcome = fit(
            Fabric(accelerator="cpu", devices=1),
            method,
            TrainingViews(data, training.views, BACKBONE["image_size"], 0, captions),
            facts,
            training,
            depth=2,
            seed=0,
            scratch=Scratch(scratch),
            where=str(path),
            title="test",
        )
    return Step(
        gradients=gradients,
        buffers={name: buffer.clone() for name, buffer in method.named_buffers()},
        metrics=(scratch / "metrics.jsonl").read_text(),
        saved_bytes=saved.peak,
        flops=outcome.flops,
    )
