"""What features see: features that are a factor tell it, and follow it where cues conflict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from steps import bias, decode, geometry
from steps.artifacts import publish, read_records
from steps.artifacts.decisions import read_decisions
from steps.command import UserError
from steps.data.convert import convert
from steps.data.shards import Images
from steps.data.sources import open_source
from steps.evaluation.cues import CUES, Seen, decided, factors, looks, need_independent, scores
from steps.evaluation.knn import knn_votes
from steps.evaluation.linear import cached_probe
from steps.params.dataset import Dataset
from steps.params.load import load
from steps.params.protocols import Linear
from steps.params.shapes import Cues, ShapesDataset
from tests.processes import REPOSITORY
from tests.unit.detection.conftest import make_backbone

PROBE = Linear(
    kind="cached", poolings=["cls"], epochs=20, batch_size=100, lr=[0.1, 1.0], held_out=0.1
)


def _prepare(name: str, out: Path, **changed: object) -> Path:
    dataset = load(REPOSITORY / f"params/datasets/{name}.yaml", Dataset)  # type: ignore[arg-type]
    assert isinstance(dataset, ShapesDataset)
    dataset = dataset.model_copy(update={"train": 200, "val": 300, **changed})
    with publish(out, node="prepare", params=dataset.resolved(), inputs={}) as draft:
        facts = convert(open_source(dataset), dataset, name, draft.path)
        draft.facts.update({"dataset": name, **facts})
    return out


@pytest.fixture(scope="module")
def conflicts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _prepare("shapes_conflicts", tmp_path_factory.mktemp("cues") / "conflicts")


def _step(module: ModuleType, data: Path, backbone: Path, protocol: Path) -> dict[str, float]:
    """The metrics of a step, run here."""
    out = backbone.parent / f"{protocol.stem}.json"
    given = {"protocol": protocol, "backbone": backbone, "data": data, "out": out}
    module.main([word for name, path in given.items() for word in (f"--{name}", str(path))])
    records, manifest = read_records(out)
    assert manifest.inputs.keys() == {"backbone", "data"}
    assert all(record.task == protocol.stem and record.unit == "%" for record in records)
    # Scores are the means of what is kept of each image.
    kept = read_decisions(out.with_suffix(".parquet"), manifest.facts["decisions"])
    assert kept.kind == "values"
    assert kept.table["id"].to_pylist() == Images(data, "val").ids
    for record in records:
        assert pc.mean(kept.table[record.metric]).as_py() == pytest.approx(record.value)
    assert {record.n for record in records} == {60 if protocol.stem == "decode" else 20}
    return {record.metric: record.value for record in records}


def test_the_steps_measure_a_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = make_backbone(tmp_path / "backbone", depth=1)
    independent = _prepare("shapes_independent", tmp_path / "independent", train=160, val=60)
    conflicts = _prepare("shapes_conflicts", tmp_path / "conflicts", train=160, val=60)
    protocols = REPOSITORY / "params/protocols"
    with pytest.raises(UserError, match="does not tell the conflict of each image"):
        _step(bias, independent, backbone, protocols / "bias.yaml")
    with pytest.raises(UserError, match="its factors are not told, or tell of each other"):
        _step(decode, conflicts, backbone, protocols / "decode.yaml")
    few = _prepare("shapes_conflicts", tmp_path / "few", train=40, val=2)
    with pytest.raises(UserError, match="2 images, in none of which"):
        _step(bias, few, backbone, protocols / "bias.yaml")
    one = _prepare("shapes", tmp_path / "one", train=40, val=1)
    with pytest.raises(UserError, match="one validation image, but geometry compares several"):
        _step(geometry, one, backbone, protocols / "geometry.yaml")
    told = _step(decode, independent, backbone, protocols / "decode.yaml")
    assert list(told) == ["outline", "colour", "texture", "ground_colour", "ground_texture"]
    assert max(told.values()) < 60, "random weights, 160 images"

    def texture(data: Path) -> Callable[..., Tensor]:
        return lambda _, split, __: _one_hot(data, ("texture",))[split]

    monkeypatch.setattr(Seen, "features", texture(independent))
    told = _step(decode, independent, backbone, protocols / "decode.yaml")
    assert told["texture"] == 100.0
    assert told["outline"] < 40
    monkeypatch.setattr(Seen, "features", texture(conflicts))
    followed = _step(bias, conflicts, backbone, protocols / "bias.yaml")
    assert len(followed) == 2 * 2 * len(CUES)
    for end in ("", "_knn"):
        assert followed[f"texture_vs_outline{end}"] == 100.0
        assert followed[f"outline_vs_texture{end}"] == 0.0
        assert followed[f"colour_vs_outline{end}"] < 50.0


def _one_hot(data: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Features that are some of the factors, and nothing else; ``outline`` among them."""
    found = {}
    for split in ("train", "val"):
        drawn = {
            "outline": torch.arange(len(factors(data, split, ["colour"])["colour"])) % 10,
            **factors(data, split, ["colour", "texture", "ground_colour", "ground_texture"]),
        }
        found[split] = torch.cat([F.one_hot(drawn[name], 10) for name in names], dim=1).float()
    return found


def _shares(data: Path, names: tuple[str, ...]) -> list[dict[str, tuple[float, int]]]:
    """What a linear probe and k-NN decide by features that are some of the factors."""
    features = _one_hot(data, names)
    labels = {split: torch.arange(len(rows)) % 10 for split, rows in features.items()}
    given = (features["train"], labels["train"], features["val"])
    logits, _ = cached_probe(*given, PROBE, 10, 0)
    votes = knn_votes(*given, ks=[20], temperature=0.07, num_classes=10, chunk=100)
    predicted = (logits.argmax(dim=1), torch.cat([chunk[20].argmax(dim=1) for chunk in votes]))
    return [scores(decided(each, labels["val"], data, looks(data))) for each in predicted]


def test_features_that_are_the_outline_follow_it(conflicts: Path) -> None:
    for shares in _shares(conflicts, ("outline",)):
        for cue in CUES:
            assert shares[f"outline_vs_{cue}"] == (100.0, 100)
            assert shares[f"{cue}_vs_outline"] == (0.0, 100)


@pytest.mark.parametrize("cue", list(CUES))
def test_features_that_are_another_cue_follow_that(conflicts: Path, cue: str) -> None:
    for shares in _shares(conflicts, CUES[cue]):
        outline, other = shares[f"outline_vs_{cue}"][0], shares[f"{cue}_vs_outline"][0]
        assert other >= 98.0
        assert outline / (outline + other) <= 0.02
        # Where another cue conflicts, this one is of neither class, and so is what they decide.
        for third in set(CUES) - {cue}:
            assert shares[f"outline_vs_{third}"][0] == 0.0


def test_a_set_whose_train_images_disagree_has_no_bias(tmp_path: Path) -> None:
    data = _prepare("shapes_independent", tmp_path / "independent", train=60, val=20)
    with pytest.raises(UserError, match="differ in texture in train"):
        looks(data)
    with pytest.raises(UserError, match="does not tell the conflict of each image"):
        factors(data, "val", ["conflict"])


def test_factors_are_read_where_they_are_independent(tmp_path: Path, conflicts: Path) -> None:
    data = _prepare("shapes_independent", tmp_path / "independent")
    counts = need_independent(data)
    assert counts == {"colour": 8, "texture": 6, "ground_colour": 8, "ground_texture": 6}
    features = _one_hot(data, ("texture",))
    shares = {}
    for name, count in counts.items():
        drawn = {split: factors(data, split, [name])[name] for split in ("train", "val")}
        logits, _ = cached_probe(
            features["train"], drawn["train"], features["val"], PROBE, count, 0
        )
        shares[name] = float((logits.argmax(dim=1) == drawn["val"]).float().mean())
    assert shares["texture"] == 1.0
    assert max(shares["colour"], shares["ground_colour"], shares["ground_texture"]) < 0.3
    with pytest.raises(UserError, match="tell of each other"):
        need_independent(conflicts)


@pytest.mark.parametrize("cues", [None, Cues(colour=0.5)])
def test_a_set_with_cues_or_without_factors_is_refused(tmp_path: Path, cues: Cues | None) -> None:
    data = _prepare("shapes_independent", tmp_path / "set", cues=cues, train=20, val=20)
    with pytest.raises(UserError, match="its factors are not told, or tell of each other"):
        need_independent(data)
