"""Backbones of other channels: evaluated on such sets only, and not taken for photographs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from steps import geometry
from steps.artifacts import publish, read_records
from steps.command import UserError
from steps.core.seeds import seeded
from steps.data.bands import pack
from steps.data.loader import dataset_facts
from steps.data.shards import ShardWriter
from steps.diagnosis.sheet import Denormaliser
from steps.evaluation.embeddings import check_artifact
from steps.models.backbones import create_backbone, save_backbone, with_channels
from steps.params.backbone import Backbone
from steps.params.recipe import Recipe
from steps.pretrain import check_channels
from tests.scenery import BACKBONE, RECIPES, Scenery

PROTOCOL = {"pooling": "cls", "view": {"area": [0.2, 1.0]}, "crop_fraction": 1.0}


def backbone(out: Path, channels: int) -> Path:
    vit = with_channels(Backbone(**BACKBONE), channels)
    with publish(out, node="pretrain", params={}, inputs={}, seed=0) as draft:
        with seeded(0, "pretrained"):
            model = create_backbone(vit)
        statistics = {"mean": [0.5] * channels, "std": [0.25] * channels}
        save_backbone(model, vit, draft.path, **statistics)
        draft.facts.update(
            recipe="mae", method="mae", backbone="vit_test", kind="images", scale="ViT-Test"
        )
        draft.facts.update(
            pretrain_dataset="fields", epochs=0, images_seen=0, flops=0, device_seconds=0
        )
        if channels != 3:
            draft.facts.update(channels=channels, bits=16)
    return out


def bands(out: Path, channels: int) -> Path:
    rng = np.random.default_rng(0)
    with publish(out, node="prepare", params={}, inputs={}) as draft:
        for split in ("train", "val"):
            path = draft.path / f"{split}.arrow"
            with ShardWriter(path, labels=False, captions=False) as writer:
                for index in range(6):
                    pixels = rng.integers(0, 65536, (channels, 36, 40), dtype=np.uint16)
                    writer.add(str(index), pack(pixels), 40, 36)
        draft.facts.update(dataset="fields", kind="images", classes=[])
        draft.facts.update(mean=[0.5] * channels, std=[0.25] * channels, channels=channels)
        draft.facts.update(bits=16, splits={"train": {"images": 6}, "val": {"images": 6}})
    return out


def test_a_task_reads_the_channels_of_its_backbone(scenery: Scenery, tmp_path: Path) -> None:
    protocol = scenery.write("protocols/geometry.yaml", PROTOCOL)
    four, three = backbone(tmp_path / "four", 4), backbone(tmp_path / "three", 3)
    fields, out = bands(tmp_path / "fields", 4), tmp_path / "geometry.json"

    def measure(network: Path, data: Path) -> None:
        options = {"protocol": protocol, "backbone": network, "data": data, "out": out}
        geometry.main([word for key, path in options.items() for word in (f"--{key}", str(path))])

    for network, data, said in (
        (three, fields, "images of 4 channels of 16 bits, and {network} takes 3 channels"),
        (four, scenery.images(), "images of 3 channels of 8 bits, and {network} takes 4 channels"),
    ):
        with pytest.raises(UserError) as caught:
            measure(network, data)
        assert f"{data}: {said.format(network=network)} | allowed: a set of" in str(caught.value)
    coloured = {**PROTOCOL, "view": {**PROTOCOL["view"], "solarize": 0.2}}  # type: ignore[dict-item]
    scenery.write("protocols/geometry.yaml", coloured)
    with pytest.raises(UserError, match=r"geometry\.yaml: view\.solarize: 0\.2 is for red, green"):
        measure(four, fields)
    assert not out.exists()
    scenery.write("protocols/geometry.yaml", PROTOCOL)
    measure(four, fields)
    records, _ = read_records(out)
    assert all(np.isfinite(record.value) for record in records)


def test_k_nn_during_pretraining_reads_as_many(scenery: Scenery, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(RECIPES["mae"])
    four, three = bands(tmp_path / "fields", 4), scenery.images()
    arguments = Namespace(recipe=Path("mae.yaml"), knn=four)
    check_channels(recipe, dataset_facts(four), arguments)
    with pytest.raises(UserError) as caught:
        check_channels(recipe, dataset_facts(three), arguments)
    assert str(caught.value) == (
        f"--knn {four}: images of 4 channels of 16 bits, and noise has 3 channels of 8 bits | "
        "allowed: a set of 3 channels"
    )


def test_photographs_are_not_embedded_by_it(tmp_path: Path) -> None:
    """The check of ``embed``, ``export`` and ``visualize``."""
    check_artifact(backbone(tmp_path / "three", 3))
    with pytest.raises(UserError) as caught:
        check_artifact(backbone(tmp_path / "four", 4))
    assert "takes images of 4 channels | allowed: three channels" in str(caught.value)


def test_pictures_show_the_first_channels_by_percentile() -> None:
    ramp = torch.linspace(0.01, 0.02, 64 * 64).view(1, 1, 64, 64)
    images = torch.cat([ramp, 1 - ramp, ramp.flip(3), torch.ones_like(ramp)], dim=1)
    look = Denormaliser([0.0] * 4, [1.0] * 4, rgb=False)
    shown = look.shown(images, images)
    assert shown.shape == (1, 3, 64, 64)
    assert float(shown.min()) == 0
    assert float(shown.max()) == 1
    assert float((shown == 1).float().mean()) == pytest.approx(0.02, abs=0.005)
    assert look.facts.keys() == {"channels_shown"}
    grey = look.shown(images[:, :2], images[:, :2])
    assert torch.equal(grey[:, 0], grey[:, 2])
    usual = Denormaliser([0.5] * 3, [0.25] * 3)
    assert torch.equal(usual.shown(images[:, :3], images[:, :3]), images[:, :3])
    assert usual.facts == {}
