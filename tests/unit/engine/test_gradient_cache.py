"""Gradient caching gives the whole batch's gradient, at the memory of a chunk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from benchmarks.memory import SavedActivations
from steps.command import UserError
from steps.data.loader import TrainingViews, dataset_facts
from steps.engine.checkpoint import Scratch
from steps.engine.gradient_cache import cached_backward
from steps.engine.loop import fit
from steps.engine.schedules import Progress
from steps.engine.seeds import seeded
from steps.methods import (
    Batch,
    Draws,
    Encoded,
    JointMethod,
    Losses,
    Method,
    Surroundings,
    build_method,
)
from steps.methods.build import backbone_for
from steps.models.backbones import create_backbone
from steps.models.teacher import load_teacher
from steps.params.backbone import Backbone
from steps.params.load import load
from steps.params.recipe import Recipe
from steps.params.views import sides
from steps.pretrain import captions_for
from steps.tokenizers import load_tokenizer
from tests.scenery import BACKBONE, TRAINED, Scenery

BATCH, CHUNKS = 16, 8


@dataclass
class Step:
    """What one step of the loop did."""

    gradients: dict[str, Tensor]
    buffers: dict[str, Tensor]
    metrics: str
    saved_bytes: int
    flops: float


def _method(name: str, scenery: Scenery) -> Method:
    path, data = scenery.recipe(name), scenery.images()
    recipe, facts = load(path, Recipe), dataset_facts(data)
    assert recipe.training is not None
    arguments = scenery.pretrain_arguments(path, data, scenery.root / "out")
    given = dict(zip(arguments[::2], map(Path, arguments[1::2]), strict=True))
    seen = {"mean": facts.mean, "std": facts.std}
    captions = captions_for(recipe, data, 0, name)
    around = Surroundings(
        views=sum(view.count for view in recipe.training.views),
        sides=sides(recipe.training.views, BACKBONE["image_size"]),
        num_classes=facts.num_classes,
        teacher=load_teacher(given["--teacher"], **seen) if "--teacher" in given else None,
        tokenizer=load_tokenizer(given["--tokenizer"], **seen) if "--tokenizer" in given else None,
        vocabulary=captions.tokenizer.size if captions is not None else 0,
    )
    with seeded(0, "init"):
        backbone = create_backbone(backbone_for(recipe.method, Backbone(**BACKBONE)))
        return build_method(recipe.method, backbone, around)


def _step(name: str, method: Method, scenery: Scenery, limit: int) -> Step:
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

    def frozen(progress: Progress) -> Iterable[nn.Parameter]:
        """What the loop asks between the backward pass and the update."""
        for name, parameter in method.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.clone()
        return ()

    method.frozen = frozen  # type: ignore[method-assign]
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
            scratch=Scratch(scratch, "key"),
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


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_equal_the_whole_batch_at_a_third_of_its_memory(
    name: str, scenery: Scenery
) -> None:
    """Of methods whose loss couples samples by caching, of the others by accumulation."""
    whole = _step(name, _method(name, scenery), scenery, BATCH)
    parts = _step(name, _method(name, scenery), scenery, BATCH // CHUNKS)
    assert whole.gradients.keys() == parts.gradients.keys()
    # Of the largest of all: in float32 a small tensor's own gradient is less exact than 1e-5 of
    # itself, whole batch or not.
    largest = max(gradient.abs().max() for gradient in whole.gradients.values())
    for parameter, gradient in whole.gradients.items():
        worst = (parts.gradients[parameter] - gradient).abs().max() / largest
        assert worst < 1e-5, parameter
    for buffer, value in whole.buffers.items():
        assert torch.allclose(parts.buffers[buffer], value, rtol=1e-5, atol=1e-6), buffer
    assert parts.saved_bytes < whole.saved_bytes / 3
    assert parts.flops == whole.flops


class Toy(JointMethod):
    """A coupled loss of an encoding, of a frozen one, and of draws; in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 5).double()
        self.momentum = nn.Linear(3, 5).double().requires_grad_(False)
        self.temperature = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def encode(self, batch: Batch, draws: Draws, progress: Progress) -> Encoded:
        (images,) = batch.views
        masked = images * draws["mask"]
        return {
            "query": self.net(masked).tanh(),
            "key": self.momentum(masked),
            "unused": self.net(masked),
            "label": batch.labels,
        }

    def losses(self, encoded: Encoded, draws: Draws, progress: Progress) -> Losses:
        logits = encoded["query"] @ encoded["key"].T / self.temperature
        weight = draws["mask"].mean(dim=1) + encoded["label"]
        loss = nn.functional.cross_entropy(logits, torch.arange(len(logits)), reduction="none")
        return {"loss": (loss * weight).mean(), "largest": logits.max()}


def test_a_toy_to_the_last_digits() -> None:
    torch.manual_seed(0)
    method, progress = Toy(), Progress(step=0, steps_per_epoch=1, total_steps=1)
    images, labels = torch.randn(12, 3, dtype=torch.float64), torch.arange(12)
    mask = torch.rand(12, 3, dtype=torch.float64)
    expected = method(Batch([images], labels), {"mask": mask}, progress)
    expected["loss"].backward()
    whole = {name: parameter.grad for name, parameter in method.named_parameters()}
    method.zero_grad(set_to_none=True)
    chunks = [
        (Batch([images[rows]], labels[rows]), {"mask": mask[rows]})
        for rows in torch.arange(12).chunk(3)
    ]
    fabric = Fabric(accelerator="cpu", devices=1)
    losses = cached_backward(fabric, method, chunks, progress, where="test")
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-12)
        assert not losses[name].requires_grad
    for name, parameter in method.named_parameters():
        if whole[name] is None:
            assert parameter.grad is None, name
        else:
            assert torch.allclose(parameter.grad, whole[name], rtol=1e-12, atol=0), name


def test_batch_norm_in_the_backbone_is_refused(scenery: Scenery) -> None:
    method = _method("simclr", scenery)
    method.exported().norm = nn.BatchNorm1d(BACKBONE["model_args"]["embed_dim"])
    with pytest.raises(UserError) as refusal:
        _step("simclr", method, scenery, limit=4)
    message = str(refusal.value)
    assert "simclr.yaml: training.max_batch_per_device: a device takes 4 of its 16" in message
    assert "allowed: 16 or more" in message
    assert "take a backbone without batch norm" in message
