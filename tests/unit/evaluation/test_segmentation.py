"""Linear segmentation: scores by hand, views and their masks, resuming, the step as a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from steps.artifacts import read_records
from steps.artifacts.decisions import read_decisions
from steps.artifacts.manifest import ROOT
from steps.command import UserError
from steps.data.annotations import IGNORED
from steps.data.shards import Images
from steps.engine.checkpoint import Scratch
from steps.evaluation import segmentation
from steps.evaluation.frozen import FrozenBackbone
from steps.evaluation.segmentation import (
    Head,
    Scenes,
    confusion,
    patch_map,
    rate,
    scores,
    train,
)
from steps.models.backbones import load_backbone
from steps.models.features import last_blocks
from steps.params.backbone import BEiTBackbone
from steps.params.load import load
from steps.params.protocols import Segment
from steps.prepare import main as prepare
from steps.segment import main
from tests.unit.detection.conftest import make_backbone, make_scenes

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.01, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("data") / "scenes", train=10, val=4)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backbone(tmp_path_factory.mktemp("pretrained") / "backbone")


def frozen(backbone: Path) -> FrozenBackbone:
    return FrozenBackbone(load_backbone(backbone).eval(), [0.5] * 3, [0.25] * 3, 64)


def test_scores_by_hand() -> None:
    # Rows are the truth. Class 0: 6 of 6 + 2 + 1 right; class 1: 3 of 3 + 1 + 2; class 2: 4 of
    # 4 + 1; class 3 is nowhere and counts nowhere.
    counts = torch.tensor([[6, 1, 0, 0], [2, 3, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]])
    counts[2, 0] = 0
    counts[1, 2] = 1
    found = scores(counts)
    first, second, third = 6 / (6 + 1 + 2), 3 / (3 + 2 + 1 + 1), 4 / (4 + 1)
    assert found["miou"] == pytest.approx((first + second + third) / 3)
    assert found["miou_objects"] == pytest.approx((second + third) / 2)
    assert found["accuracy"] == pytest.approx(13 / 17)


def test_a_class_that_is_predicted_and_not_there_counts_as_nothing_right() -> None:
    found = scores(torch.tensor([[8, 2], [0, 0]]))
    assert found["miou"] == pytest.approx((0.8 + 0) / 2)
    assert found["miou_objects"] == 0
    assert found["accuracy"] == pytest.approx(0.8)


def test_confusion_counts_known_pixels_by_truth_and_prediction(
    scenes: Path, backbone: Path
) -> None:
    class OnlyDiscs(Head):
        def forward(self, map_BDHW: Tensor, size: int) -> Tensor:
            logits = torch.zeros(len(map_BDHW), 3, size, size)
            logits[:, 2] = 1
            return logits

    data = Scenes(scenes, "val", 64, Segment(**SMALL), seed=0)
    of_scenes = confusion(frozen(backbone), OnlyDiscs(32, 3), data, batch_size=3)
    assert of_scenes.shape == (4, 3, 3)
    counts = of_scenes.sum(dim=0)
    truth = torch.stack([data[0, index][1] for index in range(4)])
    assert counts[:, :2].sum() == 0
    for label in range(3):
        assert counts[label, 2] == (truth == label).sum()


def test_the_map_is_that_of_the_backbone_s_patch_tokens(backbone: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    vit = load_backbone(backbone).eval()
    inputs = (images.float() / 255 - 0.5) / 0.25
    with torch.no_grad():
        expected = last_blocks(vit, inputs, 2)
    found = patch_map(frozen(backbone), images, blocks=2)
    assert found.shape == (2, 64, 8, 8)
    # Patch (row 3, column 5) of both blocks, one behind the other.
    for block, tokens in enumerate(expected):
        part = found[:, 32 * block : 32 * (block + 1), 3, 5]
        torch.testing.assert_close(part, tokens[:, 1 + 3 * 8 + 5])
    larger = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    assert patch_map(frozen(backbone), larger, blocks=1).shape == (1, 32, 12, 12)


@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_follow_their_images(scenes: Path, split: str, monkeypatch: Any) -> None:
    protocol = Segment(**SMALL, scale=[1.0, 1.6])
    data = Scenes(scenes, split, 48, protocol, seed=0)
    # An image that shows its own mask: what happens to one has to happen to the other.
    shown = [Image.fromarray(np.stack([data.masks[k] * 80] * 3, 2)) for k in range(len(data))]
    monkeypatch.setattr(data.images, "image", lambda index: shown[index])
    objects = 0
    for epoch in range(2):
        for index in range(len(data)):
            pixels, classes = data[epoch, index]
            assert pixels.shape == (3, 48, 48)
            assert classes.shape == (48, 48)
            known = classes != IGNORED
            found = (pixels[0].float() / 80).round()
            # Interpolated edges are of neither class.
            assert (found == classes)[known].float().mean() > 0.85
            objects += int((classes[known] > 0).sum())
    assert objects > 1000


def test_views_depend_on_seed_epoch_and_image(scenes: Path) -> None:
    def view(seed: int, epoch: int) -> Tensor:
        data = Scenes(scenes, "train", 32, Segment(**SMALL, scale=[1.0, 2.0]), seed)
        return data[epoch, 0][0]

    assert torch.equal(view(0, 1), view(0, 1))
    assert not torch.equal(view(0, 1), view(0, 2))
    assert not torch.equal(view(1, 1), view(0, 1))


def test_learning_rate() -> None:
    assert rate(0, 100, 0) == 1.0
    assert rate(0, 100, 10) == pytest.approx(0.1)
    assert rate(9, 100, 10) == pytest.approx(0.91)
    assert rate(99, 100, 10) == pytest.approx(0.01)


def test_a_killed_training_ends_with_the_same_head(
    scenes: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = Segment(**SMALL, checkpoint_seconds=1e-9)
    data = Scenes(scenes, "train", 64, protocol, seed=0)
    vit = frozen(backbone)
    places = [Scratch(tmp_path / name) for name in ("whole", "killed")]
    for place in places:
        place.folder.mkdir()
    whole = train(vit, data, protocol, 0, places[0])

    def killed(step: int, total: int, warmup: int) -> float:
        if step == 3:
            raise KeyboardInterrupt
        return rate(step, total, warmup)

    monkeypatch.setattr(segmentation, "rate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(vit, data, protocol, 0, places[1])
    monkeypatch.undo()
    torch.rand(5)
    resumed = train(vit, data, protocol, 0, places[1])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_it_learns(scenes: Path, backbone: Path, tmp_path: Path) -> None:
    protocol = Segment(**{**SMALL, "epochs": 30})
    data = Scenes(scenes, "train", 64, protocol, seed=0)
    place = Scratch(tmp_path)
    vit = frozen(backbone)
    val = Scenes(scenes, "val", 64, protocol, seed=0)
    background = scores(confusion(vit, Head(32, 3).eval(), val, 4).sum(dim=0))["accuracy"]
    found = scores(confusion(vit, train(vit, data, protocol, 0, place), val, 4).sum(dim=0))
    assert found["accuracy"] > max(0.6, background)
    assert found["miou_objects"] > 0.1


def test_command(
    scenes: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    protocol, out = tmp_path / "tiny.yaml", tmp_path / "results" / "tiny.json"
    protocol.write_text(yaml.safe_dump(SMALL))
    flags = {"protocol": protocol, "backbone": backbone, "data": scenes, "out": out}
    main([text for name, path in flags.items() for text in (f"--{name}", str(path))])
    records, manifest = read_records(out)
    assert {(r.task, r.protocol, r.unit, r.n) for r in records} == {("segment", "tiny", "%", 4)}
    assert {record.metric for record in records} == {"miou", "miou_objects", "accuracy"}
    assert manifest.facts["classes"] == ["background", "rectangle", "disc"]
    counted = torch.tensor(manifest.facts["confusion"])
    assert 0 < counted.sum() <= 4 * 64 * 64
    assert records[0].value == pytest.approx(100 * scores(counted)["miou"])
    decided = read_decisions(out.with_suffix(".parquet"), manifest.facts["decisions"])
    kept = torch.tensor(decided.table["confusion"].to_pylist()).view(4, 3, 3)
    assert torch.equal(kept.sum(dim=0), counted)
    assert decided.table["id"].to_pylist() == Images(scenes, "val").ids


@pytest.mark.parametrize("first", ["background", "road"])
def test_command_on_semantic_masks(
    first: str, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRETEXT_DATA", str(tmp_path))
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for folder in ("images", "masks"):
            (tmp_path / split / folder).mkdir(parents=True)
        for index in range(count):
            classes = np.zeros((70, 90), np.uint8)
            classes[:, int(rng.integers(20, 70)) :] = 1
            classes[:8] = 255
            pixels = 60 + 120 * (classes[..., None] == 1) + rng.normal(0, 9, (70, 90, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{split}/images/{index}.png")
            Image.fromarray(classes).save(tmp_path / f"{split}/masks/{index}.png")
    places = {s: {"images": f"{s}/images", "masks": f"{s}/masks"} for s in ("train", "val")}
    params = {"format": "masks", **places, "classes": [first, "sky"]}
    Path("fields.yaml").write_text(yaml.safe_dump(params))
    prepare(["--dataset", "fields.yaml", "--out", "fields"])
    Path("tiny.yaml").write_text(yaml.safe_dump({**SMALL, "epochs": 20}))
    flags = {"protocol": "tiny.yaml", "backbone": backbone, "data": "fields", "out": "s.json"}
    main([text for name, path in flags.items() for text in (f"--{name}", str(path))])
    records, manifest = read_records(Path("s.json"))
    metrics = {record.metric: record.value for record in records}
    assert manifest.facts["classes"] == [first, "sky"]
    assert {*metrics} == {"miou", "accuracy", *(["miou_objects"] if first == "background" else [])}
    assert metrics["miou"] > 50
    counted = torch.tensor(manifest.facts["confusion"])
    # Pixels of the value 255 are not scored.
    assert counted.sum() < 3 * 64 * 64 * 0.95


def test_a_beit_is_looked_at_in_another_size(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    beit = make_backbone(tmp_path / "beit", beit=BEiTBackbone())
    protocol, out = tmp_path / "tiny.yaml", tmp_path / "tiny.json"
    protocol.write_text(yaml.safe_dump({**SMALL, "epochs": 1, "image_size": 96}))
    flags = {"protocol": protocol, "backbone": beit, "data": scenes, "out": out}
    main([text for name, path in flags.items() for text in (f"--{name}", str(path))])
    counted = torch.tensor(read_records(out)[1].facts["confusion"])
    assert 64 * 64 * 4 < counted.sum() <= 4 * 96 * 96


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 60}, r"image_size: 60 px does not divide .* a multiple of 8"),
        ({"blocks": 5}, r"blocks: 5 .* at most 4"),
        ({"batch_size": 11}, r"batch_size: 11, but there are 10 images"),
    ],
)
def test_protocols_that_do_not_fit(
    changes: dict[str, Any],
    message: str,
    scenes: Path,
    backbone: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    protocol = tmp_path / "bad.yaml"
    protocol.write_text(yaml.safe_dump({**SMALL, **changes}))
    flags = {"protocol": protocol, "backbone": backbone, "data": scenes, "out": "x.json"}
    with pytest.raises(UserError, match=message):
        main([text for name, path in flags.items() for text in (f"--{name}", str(path))])


@pytest.mark.parametrize(
    "path",
    sorted((ROOT / "params" / "protocols").glob("segment*.yaml")),
    ids=lambda path: path.stem,
)
def test_protocols_of_the_repository(path: Path) -> None:
    assert load(path, Segment).epochs > 0
    assert path.read_text().startswith("#"), "a protocol opens with what to expect of it"
