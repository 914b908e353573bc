"""k-NN along the way: when it is due, what it gives, and that it leaves the backbone alone."""

from __future__ import annotations

import pytest
import torch

from steps.data.loader import dataset_facts
from steps.data.shards import Images
from steps.evaluation.online import KNNWatch, knn_watch
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.recipe import OnlineKNN
from tests.scenery import BACKBONE, Scenery

MEAN, STD = [0.5] * 3, [0.25] * 3


class _MeanColour(torch.nn.Module):
    """Stands in for a backbone: the mean colour, as a direction, tells the class of the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))


def test_due_once_an_interval_and_at_the_end(scenery: Scenery) -> None:
    watch = KNNWatch(scenery.images(), OnlineKNN(every_epochs=0.5), 32, MEAN, STD)
    due = [step for step in range(1, 24) if watch.due(step, steps_per_epoch=5, total_steps=23)]
    # 2.5 steps an interval: the first step at or after each multiple.
    assert due == [3, 5, 8, 10, 13, 15, 18, 20, 23]


def test_measures_what_k_nn_gives(scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> None:
    data = scenery.images(train=30, val=12)
    params = OnlineKNN(every_epochs=1.0, train=15, val=6, k=3)
    watch = KNNWatch(data, params, 32, MEAN, STD)
    assert len(watch.train) == 15
    expected = Images(data, "train").labels[::2]
    assert watch.train_labels.tolist() == expected.tolist()

    def brightness(backbone: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        assert not backbone.training
        angle = images.mean(dim=(1, 2, 3))
        return torch.stack([angle.cos(), angle.sin()], dim=1)

    monkeypatch.setattr("steps.evaluation.online.global_feature", brightness)
    backbone = _MeanColour().train()
    assert watch.measure(backbone) == 100.0
    assert backbone.training


def test_leaves_weights_and_generators_alone(scenery: Scenery) -> None:
    watch = KNNWatch(scenery.images(), OnlineKNN(every_epochs=1.0), 32, MEAN, STD)
    vit = create_backbone(Backbone(**BACKBONE))
    before, state = [p.clone() for p in vit.parameters()], torch.get_rng_state()
    accuracy = watch.measure(vit)
    assert 0 <= accuracy <= 100
    assert accuracy == watch.measure(vit)
    assert all(torch.equal(a, b) for a, b in zip(before, vit.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_a_set_without_labels_is_left_out_with_a_line(
    scenery: Scenery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data, params = scenery.images(), OnlineKNN(every_epochs=1.0)
    facts = dataset_facts(data)
    assert knn_watch(data, None, 32, facts) is None
    assert isinstance(knn_watch(data, params, 32, facts), KNNWatch)
    monkeypatch.setattr(Images, "has_labels", False)
    with caplog.at_level("INFO"):
        assert knn_watch(data, params, 32, facts) is None
    assert caplog.messages == [
        f"{data} has no labels: k-NN during training (training.knn) is left out"
    ]
