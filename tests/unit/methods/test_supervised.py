"""Mixing and erasing do what their draws say."""

from __future__ import annotations

import pytest
import torch

from steps.core.schedules import Progress
from steps.data.loader import with_partners
from steps.methods import Batch, MethodContext
from steps.methods.supervised import Supervised, erase, mix
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.methods.baselines import SupervisedParams
from tests.scenery import BACKBONE


def _method(**params: float) -> Supervised:
    vit = create_backbone(Backbone(**BACKBONE))
    context = MethodContext(num_classes=5)
    return Supervised(SupervisedParams(name="supervised", **params), vit, context)


def test_smoothed_targets() -> None:
    targets = _method(label_smoothing=0.1).targets(torch.tensor([2]))
    torch.testing.assert_close(targets, torch.tensor([[0.02, 0.02, 0.92, 0.02, 0.02]]))


def test_mixup_and_cutmix() -> None:
    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    targets = torch.eye(2)
    weights, partners = torch.tensor([0.75, 0.75]), torch.tensor([1, -1])
    nothing = torch.zeros(2, 4, dtype=torch.int64)
    mixed, labels = mix(images, targets, weights, partners, nothing)
    assert mixed[0].unique().tolist() == [0.25]
    assert mixed[1].unique().tolist() == [0.75]
    torch.testing.assert_close(labels, torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    box = torch.tensor([[0, 0, 2, 2]] * 2)
    mixed, labels = mix(images, targets, weights, partners, box)
    assert mixed[0].sum().item() == 3 * 4
    assert mixed[0, :, :2, :2].min().item() == 1.0
    assert mixed[1, :, :2, :2].max().item() == 0.0


def test_draws_weigh_by_the_box_that_was_cut() -> None:
    method = _method(cutmix=1.0)
    for seed in range(20):
        draws = method.sample(5, torch.Generator().manual_seed(seed))
        top, left, bottom, right = draws["mix_box"][0].tolist()
        share = (bottom - top) * (right - left) / 32**2
        assert abs(draws["mix"][0].item() - (1 - share)) < 1e-6
        assert draws["partner"].tolist() == [1, -1, 1, -1, 0]


def test_erasing_fills_the_box_alone_and_from_its_seed() -> None:
    images = torch.zeros(2, 3, 8, 8)
    boxes = torch.tensor([[2, 3, 5, 7], [0, 0, 0, 0]])
    seeds = torch.tensor([1, 2])
    erased = erase(images, boxes, seeds)
    assert (erased[0] != 0).sum().item() == 3 * 3 * 4
    assert erased[1].abs().sum().item() == 0.0
    assert torch.equal(erased, erase(images, boxes, seeds))
    assert images.abs().sum().item() == 0.0, "the input was changed"


def test_erasing_images_of_any_number_of_channels() -> None:
    boxes, seeds = torch.tensor([[1, 2, 5, 6]]), torch.tensor([3])
    for channels in (1, 4):
        erased = erase(torch.zeros(1, channels, 8, 8), boxes, seeds)
        filled = erased[0, :, 1:5, 2:6]
        assert filled.shape == (channels, 4, 4)
        assert (filled != 0).all()
        assert torch.count_nonzero(erased) == filled.numel()


def test_share_of_erased_images() -> None:
    draws = _method(random_erasing=0.25).sample(2000, torch.Generator().manual_seed(0))
    top, left, bottom, right = draws["erase"].unbind(dim=1)
    area = (bottom - top) * (right - left) / 32**2
    assert abs((area > 0).float().mean().item() - 0.25) < 0.04
    assert area.max().item() < 0.36


def test_forward_is_a_function_of_its_draws() -> None:
    method = _method(mixup=0.8, cutmix=1.0, drop_path=0.5, random_erasing=0.5)
    draws = method.sample(4, torch.Generator().manual_seed(0))
    batch = Batch([torch.randn(4, 3, 32, 32)], torch.tensor([0, 1, 2, 3]))
    progress = Progress(0, 1, 1)
    first = method(batch, draws, progress)["loss"]
    assert torch.equal(first, method(batch, draws, progress)["loss"])
    others = method.sample(4, torch.Generator().manual_seed(1))
    assert not torch.equal(first, method(batch, others, progress)["loss"])


@pytest.mark.parametrize(("batch", "size"), [(6, 3), (6, 2), (6, 1), (10, 5), (7, 7), (9, 3)])
@pytest.mark.parametrize("params", [{"mixup": 0.8}, {"cutmix": 1.0, "drop_path": 0.3}])
def test_partners_are_of_the_whole_batch(batch: int, size: int, params: dict[str, float]) -> None:
    """Losses and gradients are those of the whole, whatever a device takes at a time."""
    method = _method(random_erasing=0.5, **params)
    draws = method.sample(batch, torch.Generator().manual_seed(3))
    images = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    labels, progress = torch.arange(batch) % 5, Progress(0, 1, 1)
    whole = method(Batch([images], labels), draws, progress)["loss"]
    whole.backward()
    gradients = {
        name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None
    }
    method.zero_grad()
    total = torch.zeros(())
    for start in range(0, batch, size):
        part = slice(start, start + size)
        rows = with_partners(part, batch)
        own = torch.zeros(batch, dtype=torch.bool)
        own[part] = True
        given = {name: draw[rows] for name, draw in {**draws, "own": own}.items()}
        loss = method(Batch([images[rows]], labels[rows]), given, progress)["loss"]
        (loss * size / batch).backward()
        total += loss.detach() * size / batch
    torch.testing.assert_close(total, whole.detach())
    for name, gradient in gradients.items():
        torch.testing.assert_close(method.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-6)


def test_boxes_are_of_the_view_s_size() -> None:
    vit = create_backbone(Backbone(**BACKBONE))
    params = SupervisedParams(name="supervised", cutmix=1.0, random_erasing=1.0)
    method = Supervised(params, vit, MethodContext(num_classes=5, sides=(16,)))
    for seed in range(20):
        draws = method.sample(4, torch.Generator().manual_seed(seed))
        top, left, bottom, right = draws["mix_box"][0].tolist()
        assert max(bottom, right) <= 16
        assert draws["mix"][0].item() == pytest.approx(1 - (bottom - top) * (right - left) / 16**2)
        assert draws["erase"].max().item() <= 16
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
    assert torch.isfinite(method(Batch([images], labels), draws, Progress(0, 1, 1))["loss"])
