"""Effective rank, alignment and uniformity: by hand, at their ends, and the step as a command."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from steps.artifacts import read_records
from steps.engine.watch import effective_rank
from steps.evaluation.geometry import ManyViews, Pairs, alignment, lidar, uniformity
from steps.geometry import main
from steps.params.load import load
from steps.params.protocols import Geometry, LiDAR
from steps.params.views import View
from tests.processes import REPOSITORY
from tests.scenery import Scenery
from tests.unit.detection.conftest import make_backbone


def test_the_effective_rank_counts_directions() -> None:
    basis = torch.linalg.qr(torch.randn(40, 8, generator=torch.Generator().manual_seed(0)))[0]
    for rank in (1, 3, 8):
        features = basis[:, :rank] @ torch.eye(rank, 8)
        assert effective_rank(features) == pytest.approx(rank, rel=1e-4)
        assert effective_rank(7 * features.T) == pytest.approx(rank, rel=1e-4), "any scale, wide"
    weights = torch.tensor([8.0, 4.0, 2.0, 2.0])
    share = weights / weights.sum()
    expected = math.exp(-(share * share.log()).sum().item())
    assert effective_rank(basis[:, :4] * weights) == pytest.approx(expected, rel=1e-4)


def test_features_of_nothing_have_no_rank_to_speak_of() -> None:
    assert math.isfinite(effective_rank(torch.zeros(5, 4)))


def test_alignment_by_hand() -> None:
    first = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[0.0, 1.0], [0.0, 9.0]])
    assert alignment(first, first) == 0
    assert alignment(first, second) == pytest.approx((2 + 0) / 2)
    assert alignment(first, second, alpha=1) == pytest.approx(math.sqrt(2) / 2)
    assert alignment(first[:1], -first[:1]) == pytest.approx(4)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_uniformity_is_the_log_of_the_mean_potential_of_pairs(chunk: int) -> None:
    features = torch.randn(23, 6, generator=torch.Generator().manual_seed(1))
    unit = F.normalize(features.double(), dim=1)
    expected = torch.pdist(unit).pow(2).mul(-2).exp().mean().log().item()
    assert uniformity(features, chunk=chunk) == pytest.approx(expected, rel=1e-5)
    expected = torch.pdist(unit).pow(2).mul(-0.5).exp().mean().log().item()
    assert uniformity(5 * features, t=0.5, chunk=chunk) == pytest.approx(expected, rel=1e-5)


def test_uniformity_of_one_point_is_the_worst() -> None:
    same = torch.ones(9, 4)
    assert uniformity(same) == pytest.approx(0, abs=1e-6)
    assert uniformity(torch.randn(9, 4, generator=torch.Generator().manual_seed(0))) < -0.5
    with pytest.raises(ValueError, match="1 images make no pair"):
        uniformity(same[:1])


def _basis(rows: int, columns: int) -> Tensor:
    """Orthonormal columns that sum to 0."""
    drawn = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).double()
    return torch.linalg.qr(drawn - drawn.mean(dim=0))[0]


def test_lidar_by_hand() -> None:
    # Means of four images: (±2, 0) and (0, ±1). Their views differ by (±a, 0) and by (0, ±b).
    means = torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]])
    views = torch.tensor([[3.0, 0], [-3, 0], [0, 0.5], [0, -0.5]])
    features = means.unsqueeze(1) + views
    # S_b = diag(2, 1/2), S_w = diag(9/2, 1/8): the eigenvalues are 4/9 and 4.
    first, second = (4 / 9) / (4 / 9 + 4), 4 / (4 / 9 + 4)
    expected = math.exp(-first * math.log(first) - second * math.log(second))
    assert lidar(features, delta=1e-12) == pytest.approx(expected, rel=1e-4)
    # delta 1/2: S_w = diag(5, 5/8), the eigenvalues are 2/5 and 4/5.
    expected = math.exp(-math.log(1 / 3) / 3 - 2 * math.log(2 / 3) / 3)
    assert lidar(features, delta=0.5) == pytest.approx(expected, rel=1e-4)
    assert lidar(features + 7, delta=0.5) == pytest.approx(expected, rel=1e-4), "any mean"


def test_lidar_counts_directions_of_images_and_not_of_views() -> None:
    noise = torch.randn(64, 20, 8, generator=torch.Generator().manual_seed(1)).double()
    means = torch.zeros(64, 8).double()
    means[:, :3] = _basis(64, 3)
    assert lidar(means.unsqueeze(1) + 1e-6 * noise) == pytest.approx(3, rel=1e-3)
    # Views that differ along a fourth direction add to RankMe and not to LiDAR.
    moved = means.unsqueeze(1).repeat(1, 20, 1)
    moved[..., 3] += noise[..., 3] - noise[..., 3].mean(dim=1, keepdim=True)
    assert lidar(moved) == pytest.approx(3, rel=1e-3)
    assert effective_rank(moved.flatten(0, 1)) < 2.5


def test_lidar_of_images_that_are_all_one() -> None:
    assert lidar(torch.ones(5, 4, 3)) == 0


def test_many_views_are_of_evenly_spaced_images(scenery: Scenery) -> None:
    data, view = scenery.images(val=12), View(area=[0.2, 0.5])
    several = ManyViews(data, "val", view, 16, 3, LiDAR(images=4, views=5))
    assert len(several) == 4
    assert [several[index][1] for index in range(4)] == [0, 3, 6, 9]
    assert several[1][0].shape == (5, 3, 16, 16)
    assert len(ManyViews(data, "val", view, 16, 3, LiDAR(images=99))) == 12


def test_pairs_are_two_views_of_each_image_and_of_the_seed_alone(scenery: Scenery) -> None:
    data = scenery.images()
    view = View(area=[0.2, 0.5])
    pairs = Pairs(data, "val", view, 16, seed=3)
    views, place = pairs[2]
    assert views.shape == (2, 3, 16, 16)
    assert place == 2
    assert not torch.equal(*views), "the two views differ"
    assert torch.equal(views, Pairs(data, "val", view, 16, seed=3)[2][0])
    assert not torch.equal(views, Pairs(data, "val", view, 16, seed=4)[2][0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": 2}, "two views are drawn from it"),
        ({"size": 32}, "the backbone's image size"),
        ({"second": {}, "order": ["flip", "crop"]}, "no tokenizer"),
    ],
)
def test_the_view_is_one_of_the_backbones_size(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Geometry(pooling="cls", view=View(area=[0.2, 1.0], **changed), crop_fraction=1.0)


def test_the_protocol_on_the_shelf_is_the_papers() -> None:
    protocol = load(REPOSITORY / "params/protocols/geometry.yaml", Geometry)
    assert (protocol.alpha, protocol.t, protocol.view.grayscale) == (2, 2, 0.2)


def test_what_is_not_measured_is_not_in_a_protocols_values() -> None:
    shelf = REPOSITORY / "params/protocols"
    plain = load(shelf / "geometry.yaml", Geometry).resolved()
    assert "lidar" not in plain
    asked = load(shelf / "geometry_lidar.yaml", Geometry).resolved()
    assert asked.pop("lidar") == {"images": 1000, "views": 50, "delta": 1e-4}
    assert asked == plain


@pytest.mark.parametrize("asked", [None, {"images": 7, "views": 3}])
def test_command(
    asked: dict[str, int] | None, scenery: Scenery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenery.root)
    protocol, out = scenery.root / "tiny.yaml", scenery.root / "results/tiny.json"
    content: dict[str, Any] = {"pooling": "mean", "view": {"area": [0.3, 1.0]}}
    content |= {"crop_fraction": 1.0, "batch_size": 5} | ({"lidar": asked} if asked else {})
    protocol.write_text(yaml.safe_dump(content))
    flags = {"protocol": protocol, "data": scenery.images(val=12), "out": out}
    flags["backbone"] = make_backbone(scenery.root / "backbone")
    main([text for name, path in flags.items() for text in (f"--{name}", str(path))])
    records, manifest = read_records(out)
    assert {(r.task, r.protocol, r.unit) for r in records} == {("geometry", "tiny", "")}
    values = {record.metric: record.value for record in records}
    known = {"effective_rank": 12, "alignment": 12, "uniformity": 12}
    expected = {**known, "lidar": 7} if asked else known
    assert {record.metric: record.n for record in records} == expected
    assert 1 < values.get("lidar", 2.0) <= 6
    assert 1 < values["effective_rank"] <= 12
    assert 0 < values["alignment"] < 4
    assert -8 < values["uniformity"] < 0
    assert manifest.facts["width"] == 32
