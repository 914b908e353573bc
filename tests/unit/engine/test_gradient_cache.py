"""Gradient caching gives the whole batch's gradient, at the memory of a chunk."""

from __future__ import annotations

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

from steps.command import UserError
from steps.core.schedules import Progress
from steps.engine.gradient_cache import cached_backward
from steps.methods import (
    Batch,
    BatchCoupledMethod,
    Draws,
    Encoded,
    Losses,
)
from tests.scenery import RESNET, TRAINED, Scenery
from tests.unit.engine.one_step import BATCH, method_of, one_step

CHUNKS = 8


@pytest.mark.parametrize("name", TRAINED)
def test_gradients_equal_the_whole_batch_at_a_third_of_its_memory(
    name: str, scenery: Scenery
) -> None:
    """Of methods whose loss couples samples by caching, of the others by accumulation."""
    whole = one_step(name, method_of(name, scenery), scenery, BATCH)
    parts = one_step(name, method_of(name, scenery), scenery, BATCH // CHUNKS)
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


class Toy(BatchCoupledMethod):
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


@pytest.mark.parametrize("name", ["simclr", "supervised"])
def test_batch_norm_in_a_backbone_is_refused(name: str, scenery: Scenery) -> None:
    method = method_of(name, scenery, RESNET)
    with pytest.raises(UserError) as refusal:
        one_step(name, method, scenery, limit=4)
    message = str(refusal.value)
    assert f"{name}.yaml: training.max_batch_per_device: a device takes 4 of its 16" in message
    assert "allowed: 16 or more" in message
    assert "take a backbone without batch norm" in message
