"""The backbone under evaluation takes images as its pretraining did, of the task's size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steps.command import UserError
from steps.data.loader import EvaluationViews
from steps.evaluation import frozen
from steps.evaluation.features import extract
from steps.evaluation.frozen import FrozenBackbone
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from tests.scenery import BACKBONE, RESNET, Scenery


def _stub(monkeypatch: pytest.MonkeyPatch, params: dict[str, object]) -> None:
    monkeypatch.setattr(frozen, "load_backbone", lambda _: create_backbone(Backbone(**params)))
    monkeypatch.setattr(frozen, "normalisation", lambda _: ([0.5] * 3, [0.25] * 3))


def test_images_are_normalised_on_the_way_in(monkeypatch: pytest.MonkeyPatch) -> None:
    _stub(monkeypatch, BACKBONE)
    backbone = FrozenBackbone.load(Path("backbone")).to("cpu")
    assert backbone.size == 32
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert backbone.inputs(images)[0, 0, 0].tolist() == [-2.0, 2.0]


@pytest.mark.parametrize("workers", [1, 2])
def test_features_do_not_depend_on_the_processes_that_decode(
    monkeypatch: pytest.MonkeyPatch, scenery: Scenery, workers: int
) -> None:
    torch.manual_seed(0)
    _stub(monkeypatch, BACKBONE)
    backbone = FrozenBackbone.load(Path("backbone")).to("cpu")
    views = EvaluationViews(scenery.images(train=20), "train", 32, 1.0)
    for folder, count in (("alone", 0), ("shared", workers)):
        place = scenery.root / folder
        place.mkdir()
        given = {"poolings": ["cls", "mean"], "batch_size": 8, "workers": count}
        extract(backbone, views, place, "train", **given)
    for name in ("train_cls.npy", "train_mean.npy", "train_labels.npy"):
        alone, shared = ((scenery.root / folder / name) for folder in ("alone", "shared"))
        assert alone.read_bytes() == shared.read_bytes()


def test_a_transformer_takes_images_of_the_tasks_size(monkeypatch: pytest.MonkeyPatch) -> None:
    _stub(monkeypatch, BACKBONE)

    def load(size: int | None) -> FrozenBackbone:
        return FrozenBackbone.load_transformer(
            Path("backbone"), size, "here", task="segment", reads="patch tokens"
        )

    assert (load(None).size, load(48).size) == (32, 48)
    with pytest.raises(UserError, match="here: 33 px does not divide into the 8 px patches"):
        load(33)


def test_a_resnet_is_refused_where_tokens_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    _stub(monkeypatch, RESNET)
    with pytest.raises(UserError, match=r"a ResNet, which has no patch tokens.*leave the task seg"):
        FrozenBackbone.load_transformer(
            Path("backbone"), None, "here", task="segment", reads="patch tokens"
        )
