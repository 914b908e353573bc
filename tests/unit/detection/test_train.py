"""Training a detector: pretrained weights survive the start, and a killed run its death."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import Runner

from steps.command import UserError
from steps.detection.config import schedulers
from steps.detection.train import build_detector, build_runner, train_and_evaluate
from steps.models.backbones import load_backbone
from steps.params.detection import Detection, DetectionOptimizer
from steps.params.load import validate

Small = Callable[..., Detection]


class StopInSecondEpoch(Hook):  # type: ignore[misc]
    """What a kill does: the process ends between two iterations."""

    def after_train_iter(self, runner: Runner, **_: Any) -> None:
        if runner.epoch == 1:
            raise KeyboardInterrupt


def test_the_detector_starts_from_the_pretrained_weights(
    small: Small, backbone: Path, scenes: Path, tmp_path: Path
) -> None:
    runner, _ = build_runner(
        small(), backbone=backbone, data=scenes, seed=0, scratch=tmp_path / "scratch"
    )
    # The runner does this before the first iteration, to everything that has such a method.
    runner._init_model_weights()
    vit = load_backbone(backbone).state_dict()
    found = runner.model.backbone.state_dict()
    assert torch.equal(found["blocks.3.mlp.fc2.weight"], vit["blocks.3.mlp.fc2.weight"])
    assert torch.equal(found["proj.weight"], vit["patch_embed.proj.weight"])
    assert torch.equal(found["pos_embed"], vit["pos_embed"][:, 1:])


@pytest.mark.parametrize("kind", ["backbone", "beit_backbone"])
def test_a_frozen_backbone_keeps_its_weights_while_the_heads_learn(
    small: Small, kind: str, scenes: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    artifact = request.getfixturevalue(kind)
    params = small(backbone={"window_size": None, "relative_positions": False, "frozen": True})
    outcome = train_and_evaluate(
        params, backbone=artifact, data=scenes, seed=0, scratch=tmp_path / "scratch"
    )
    fresh = build_detector(params, backbone=artifact, classes=2, seed=0).state_dict()
    learnt = {
        name.partition(".")[0]
        for name, tensor in outcome.model.state_dict().items()
        if not torch.equal(tensor.cpu(), fresh[name])
    }
    assert learnt == {"neck", "rpn_head", "roi_head"}


def test_runs_that_start_in_the_same_second_share_nothing(
    small: Small, scenes: Path, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmengine.runner.runner.time.time", lambda: 1e9)
    runners = []
    for name in ("first", "second"):
        scratch = tmp_path / name
        scratch.mkdir()
        runner, _ = build_runner(small(), backbone=backbone, data=scenes, seed=0, scratch=scratch)
        shutil.rmtree(scratch)
        runners.append(runner)
    first, second = runners
    assert first.timestamp == second.timestamp
    assert first.visualizer is not second.visualizer
    assert first.message_hub is not second.message_hub
    assert first.logger is not second.logger


def test_new_parts_are_initialised_from_the_seed(small: Small, backbone: Path) -> None:
    def weight(seed: int) -> torch.Tensor:
        model = build_detector(small(), backbone=backbone, classes=2, seed=seed)
        return model.get_parameter("roi_head.bbox_head.fc_cls.weight")

    assert torch.equal(weight(0), weight(0))
    assert not torch.equal(weight(0), weight(1))


def test_a_run_stopped_after_an_epoch_ends_with_the_same_weights(
    small: Small, backbone: Path, scenes: Path, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"backbone": backbone, "data": scenes, "seed": 3}
    whole = train_and_evaluate(small(), scratch=tmp_path / "whole", **common)

    scratch = tmp_path / "stopped"
    runner, _ = build_runner(small(), scratch=scratch, **common)
    runner.register_hook(StopInSecondEpoch())
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    torch.rand(5)  # a resumed process does not continue where the generators were
    resumed = train_and_evaluate(small(), scratch=scratch, **common)

    assert not whole.facts["resumed"]
    assert resumed.facts["resumed"]
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.metrics == whole.metrics
    assert resumed.facts["epoch_losses"] == whole.facts["epoch_losses"]


def test_a_run_stopped_before_its_evaluation_is_only_measured(
    small: Small, backbone: Path, scenes: Path, tmp_path: Path
) -> None:
    common: dict[str, Any] = {"backbone": backbone, "data": scenes, "seed": 0}
    params = small(epochs=1)
    first = train_and_evaluate(params, scratch=tmp_path, **common)
    again = train_and_evaluate(params, scratch=tmp_path, **common)
    assert again.metrics == first.metrics
    assert len(again.facts["epoch_losses"]) == 1


def test_workers_do_not_change_what_is_learnt(
    small: Small, backbone: Path, scenes: Path, tmp_path: Path
) -> None:
    losses = [
        train_and_evaluate(
            small(workers=workers),
            backbone=backbone,
            data=scenes,
            seed=0,
            scratch=tmp_path / str(workers),
        ).facts["epoch_losses"]
        for workers in (0, 1)
    ]
    assert losses[0] == losses[1]


def test_batches_that_do_not_divide_over_processes(
    small: Small, backbone: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match=r"batch_size: 4 .* a multiple of 3"):
        build_runner(small(), backbone=backbone, data=scenes, seed=0, scratch=tmp_path)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        # Shares of the peak at iterations 1 (warm-up), 10, 50, 90 of 100.
        ({"name": "step", "milestones": [0.4, 0.8]}, [0.1, 1.0, 0.1, 0.01]),
        ({"name": "cosine"}, [0.1, 1.0, 0.586824, 0.030154]),
    ],
)
def test_schedule(
    small_values: dict[str, Any], decay: dict[str, Any], expected: list[float]
) -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = OptimWrapper(torch.optim.SGD([weight], lr=2.0))
    params = validate(
        {**small_values["optimizer"], "warmup_iterations": 10, "warmup_factor": 0.1}
        | {"decay": decay},
        DetectionOptimizer,
        "small.yaml",
    )
    built = [
        PARAM_SCHEDULERS.build({**config, "optimizer": optimizer})
        for config in schedulers(params, 100)
    ]
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in built:
            scheduler.step()
    assert [rates[at] / 2.0 for at in (0, 10, 50, 90)] == pytest.approx(expected, abs=1e-4)
