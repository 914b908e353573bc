"""No number comes from weights, features or scores that are not finite."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from steps.artifacts import publish
from steps.command import UserError
from steps.core.finite import not_finite
from steps.engine.checkpoint import read_checkpoint
from steps.evaluation import knn
from steps.evaluation.accuracy import correct_in_top
from steps.evaluation.linear import cached_probe, logistic_probe
from steps.params.protocols import Linear, LogReg
from tests.scenery import Scenery

Step = Callable[..., subprocess.CompletedProcess[str]]


def _named(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that a step ended with one line that has these words."""
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("error: "), done.stderr
    assert all(word in line for word in words), line
    assert "Traceback" not in done.stderr


def _rate(path: Path, lr: float) -> None:
    """Set a recipe's learning rate."""
    content = yaml.safe_load(path.read_text())
    content["training"]["optimizer"]["lr"] = lr
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(("lr", "found"), [(1e5, "after step 3"), (1e30, "not finite")])
def test_an_update_that_overflows_is_not_published(
    lr: float, found: str, scenery: Scenery, step: Step
) -> None:
    """The losses of a run's steps are those of weights before their updates."""
    data, out = scenery.images(train=24), scenery.root / "out"
    recipe = scenery.recipe("mae", epochs=1, knn=None)
    _rate(recipe, lr)
    done = step("pretrain", *scenery.pretrain_arguments(recipe, data, out))
    _named(done, "not finite", found, "lower the learning rate")
    assert not out.exists()


def test_a_rate_that_no_weight_takes_is_refused(scenery: Scenery, step: Step) -> None:
    recipe = scenery.recipe("mae")
    _rate(recipe, 1e31)
    arguments = scenery.pretrain_arguments(recipe, scenery.images(), scenery.root / "out")
    _named(step("pretrain", *arguments), "optimizer.lr", "less than or equal to")


def test_a_checkpoint_is_good_after_its_update_too(scenery: Scenery, step: Step) -> None:
    data = scenery.images(train=64)
    recipe = scenery.recipe("mae", epochs=4, knn=None)
    _rate(recipe, 1e6)
    arguments = scenery.pretrain_arguments(recipe, data, scenery.root / "out")
    _named(step("pretrain", *arguments), "not finite", "last good checkpoint")
    for file in scenery.root.glob(".scratch/*/checkpoint.pt"):
        saved = read_checkpoint(file)["tensors"]
        tensors = {
            name: torch.empty(size, dtype=dtype) for name, (size, dtype) in saved.kinds().items()
        }
        saved.fill(tensors)
        assert not not_finite(tensors.items())


def _untrained(scenery: Scenery, step: Step) -> Path:
    """A backbone artifact."""
    recipe, out = scenery.params / "recipes/test/random.yaml", scenery.root / "made"
    done = step("pretrain", *scenery.pretrain_arguments(recipe, scenery.images(), out))
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_not_imported(
    value: float, scenery: Scenery, step: Step
) -> None:
    made, out = _untrained(scenery, step), scenery.root / "imported"
    weights = load_file(made / "model.safetensors")
    weights["norm.weight"][3] = value
    save_file(weights, scenery.root / "weights.safetensors")
    done = step(
        "import",
        *("--name", "given", "--format", "mae", "--checkpoint", "weights.safetensors"),
        *("--backbone", scenery.backbone, "--out", out),
    )
    _named(done, "norm.weight", "1 of 24 numbers are not finite")
    assert not out.exists()


@pytest.mark.parametrize("node", ["features", "linear", "finetune", "geometry"])
def test_a_backbone_that_is_not_finite_gives_no_number(
    node: str, scenery: Scenery, step: Step
) -> None:
    """Also one that an earlier version published."""
    made, spoilt = _untrained(scenery, step), scenery.root / "spoilt"
    data = scenery.root / "results/data/noise"
    weights = load_file(made / "model.safetensors")
    weights["blocks.1.mlp.fc1.weight"][0, 0] = float("nan")
    with publish(spoilt, node="pretrain", params={}, inputs={}, seed=0) as draft:
        for file in made.iterdir():
            if file.name != "manifest.json":
                (draft.path / file.name).write_bytes(file.read_bytes())
        save_file(weights, draft.path / "model.safetensors", metadata={"format": "pt"})
        draft.facts.update(json.loads((made / "manifest.json").read_text())["facts"])
    given = {
        "features": {"poolings": ["cls"], "crop_fraction": 1.0},
        "geometry": yaml.safe_load(Path("params/protocols/geometry.yaml").read_text()),
        "finetune": yaml.safe_load(Path("params/protocols/finetune_small.yaml").read_text()),
        "linear": yaml.safe_load(Path("params/protocols/linear_dino.yaml").read_text()),
    }
    protocol = scenery.write(f"protocols/{node}.yaml", given[node])
    out = scenery.root / f"{node}-out"
    paths = ("--backbone", spoilt, "--data", data, "--out", out)
    # The step's options ask for features, which an augmented probe does not read.
    paths += ("--features", data) if node == "linear" else ()
    _named(step(node, "--protocol", protocol, *paths), "blocks.1.mlp.fc1.weight", "not finite")
    assert not out.exists()


def _bank(rows: int = 30, classes: int = 3) -> tuple[Tensor, Tensor]:
    labels = torch.arange(rows) % classes
    noise = torch.randn(rows, 24, generator=torch.Generator().manual_seed(0))
    return noise * 0.02 + torch.eye(classes, 24)[labels] * 0.05 + 1, labels


def _vote(bank: Tensor, labels: Tensor, queries: Tensor, **changes: Any) -> Tensor:
    given = {"ks": [20], "temperature": 0.07, "num_classes": 3, "chunk": 90, **changes}
    return torch.cat([votes[20] for votes in knn.knn_votes(bank, labels, queries, **given)])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("spoilt", ["bank", "queries"])
def test_nearest_neighbours_of_what_is_not_finite(value: float, spoilt: str) -> None:
    bank, labels = _bank()
    rows = {"bank": bank, "queries": bank[:7].clone()}
    rows[spoilt][5, 2] = value
    with pytest.raises(UserError, match="row 5 is not finite"):
        _vote(rows["bank"], labels, rows["queries"])


@pytest.mark.parametrize("scale", [1e16, 1e20, -1e37])
def test_features_whose_squares_overflow_give_no_number(scale: float) -> None:
    """They are finite, and all 0 when they are normalised: any class is as near as another."""
    bank, labels = _bank()
    large = bank * scale
    assert large.isfinite().all()
    with pytest.raises(UserError, match=r"features: row 0 holds numbers beyond 1e\+15"):
        _vote(bank, labels, large)
    for fit, protocol in ((cached_probe, LINEAR), (logistic_probe, LOGREG)):
        with pytest.raises(UserError, match="features of train: row 0 holds numbers beyond"):
            fit(large, labels, large, protocol, 3, 0)
    most = bank * 2.0**48
    assert torch.equal(_vote(most, labels, most), _vote(bank, labels, bank))
    assert cached_probe(most, labels, most, LINEAR, 3, 0)[0].isfinite().all()


def test_scores_may_be_of_any_finite_size() -> None:
    scores = torch.tensor([[1e38, -1e38, 0.0]])
    assert correct_in_top(scores, torch.tensor([0]), 1) == 1


@pytest.mark.parametrize("temperature", [1.0, 0.07, 0.012, 0.01, 1e-3, 1e-5, 1e-30])
def test_votes_do_not_overflow(temperature: float) -> None:
    bank, labels = _bank(300)
    exp, softmax = (
        _vote(bank, labels, bank[:90], temperature=temperature, weights=weights)
        for weights in ("exp", "softmax")
    )
    assert exp.isfinite().all()
    assert torch.equal(exp.argmax(dim=1), softmax.argmax(dim=1))


LINEAR = Linear(kind="cached", poolings=["cls"], lr=[0.1], epochs=2, batch_size=10)
LOGREG = LogReg(kind="logreg", poolings=["cls"], c=[1.0], max_iterations=20, tolerance=1e-6)


@pytest.mark.parametrize(("fit", "protocol"), [(cached_probe, LINEAR), (logistic_probe, LOGREG)])
@pytest.mark.parametrize("spoilt", ["train", "val"])
def test_classifiers_on_features_that_are_not_finite(
    fit: Callable[..., Any], protocol: Any, spoilt: str
) -> None:
    features, labels = _bank()
    rows = {"train": features, "val": features.clone()}
    rows[spoilt][4] = float("nan")
    with pytest.raises(UserError, match=f"features of {spoilt}: row 4"):
        fit(rows["train"], labels, rows["val"], protocol, 3, 0)


def _fit(lrs: Sequence[float]) -> tuple[Tensor, float]:
    features, labels = _bank()
    protocol = LINEAR.model_copy(update={"lr": list(lrs), "epochs": 30})
    scores, lr = cached_probe(features, labels, features, protocol, 3, 0)
    return scores, lr


def test_a_learning_rate_that_diverges_is_not_chosen() -> None:
    assert _fit([1e38, 0.1])[1] == 0.1
    with pytest.raises(UserError, match="not finite"):
        _fit([1e38])


def test_scores_that_are_not_finite_count_for_nothing() -> None:
    scores = torch.zeros(4, 3)
    scores[2, 1] = float("nan")
    with pytest.raises(UserError, match="row 2"):
        correct_in_top(scores, torch.zeros(4, dtype=torch.int64), 1)
