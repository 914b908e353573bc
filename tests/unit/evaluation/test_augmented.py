"""Probes on augmented images: neither parts of a batch nor a kill change what comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from steps.command import UserError
from steps.data.loader import TrainingViews
from steps.engine.checkpoint import Scratch
from steps.evaluation import augmented
from steps.evaluation.augmented import augmented_probe, train
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.probes import Probes, grid, width
from steps.models.backbones import create_backbone, image_size
from steps.params.backbone import Backbone
from steps.params.load import validate
from steps.params.protocols import Probe
from tests.scenery import BACKBONE, Scenery

BASE: dict[str, Any] = {
    "kind": "augmented",
    "blocks": [1, 2],
    "poolings": ["cls", "cls_mean"],
    "lr": [0.1, 1.0],
    "batch_norm": True,
    "epochs": 2,
    "schedule": {"warmup_epochs": 0},
    "batch_size": 8,
    "max_batch_per_device": 8,
    "view": {"area": [0.5, 1.0]},
    "crop_fraction": 1.0,
    "workers": 0,
}


def _frozen() -> FrozenBackbone:
    torch.manual_seed(0)
    backbone = create_backbone(validate(BACKBONE, Backbone, "backbone")).eval()
    return FrozenBackbone(backbone, [0.5] * 3, [0.25] * 3, image_size(backbone))


def _train(frozen: FrozenBackbone, data: Path, folder: Path, **changes: Any) -> Probes:
    protocol = Probe(**(BASE | changes))
    heads = grid(protocol.blocks, protocol.poolings, protocol.lr)
    widths = {head.reads: width(frozen.model.num_features, head.reads) for head in heads}
    torch.manual_seed(1)
    probes = Probes(heads, widths, classes=3, batch_norm=True)
    folder.mkdir(exist_ok=True)
    views = TrainingViews(data, [protocol.view], 32, seed=0).only(torch.arange(24))
    train(frozen, probes, views, protocol, 0, Scratch(folder), "probe.yaml")
    return probes


def test_parts_of_a_batch_do_not_change_the_result(scenery: Scenery, tmp_path: Path) -> None:
    data, frozen = scenery.images(train=30), _frozen()
    whole = _train(frozen, data, tmp_path / "whole").state_dict()
    parts = _train(frozen, data, tmp_path / "parts", max_batch_per_device=2).state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, msg=name)


def test_a_killed_run_ends_with_the_same_bits(
    scenery: Scenery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, frozen = scenery.images(train=30), _frozen()
    whole = _train(frozen, data, tmp_path / "whole", checkpoint_seconds=1e-9).state_dict()
    steps = iter(range(4))
    real = augmented.train_step

    def killed(*arguments: Any) -> torch.Tensor:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(augmented, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        _train(frozen, data, tmp_path / "killed", checkpoint_seconds=1e-9)
    monkeypatch.setattr(augmented, "train_step", real)
    resumed = _train(frozen, data, tmp_path / "killed", checkpoint_seconds=1e-9).state_dict()
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_the_best_is_picked_on_the_training_set(scenery: Scenery, tmp_path: Path) -> None:
    data = scenery.images(train=30, val=12)
    protocol = Probe(**BASE)
    found = augmented_probe(_frozen(), data, protocol, 3, 0, Scratch(tmp_path), "probe.yaml")
    assert len(found.decided.labels) == 12
    assert len(found.held_out) == 8
    assert found.held_out[found.head] == max(found.held_out.values())
    # The accuracy of three classes within five guesses is of no use.
    assert list(found.decided.accuracies(3)) == ["top1"]
    assert found.decided.top.shape == (12, 3)


def test_a_batch_above_the_set_is_refused(scenery: Scenery, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="batch_size"):
        _train(_frozen(), scenery.images(train=30), tmp_path / "out", batch_size=64)
