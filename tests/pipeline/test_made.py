"""One name, one content: what is refused and said before an engine starts, and old results."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from steps.artifacts import publish, write_records
from steps.artifacts.records import Record
from steps.command import UserError
from steps.params.checks import load_plan
from steps.params.load import read_yaml
from steps.params.paths import Paths
from steps.params.plan import Plan
from tests import engines
from tests.project import tiny
from tests.scenery import RECIPES, Scenery
from workflow.made import check_names, check_starts, notices
from workflow.migrate import migrate

OFFICIAL = {"name": "mae_official", "format": "mae", "checkpoint": "a.pth", "backbone": "vit_test"}


@pytest.fixture
def plan(scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """The plan of a tiny experiment, in its own working folder."""
    tiny(scenery)
    monkeypatch.chdir(scenery.root)
    return load_plan("quickstart", Path("params"))


def _publish(path: str | Path, node: str, params: Any, **given: Any) -> None:
    facts = given.pop("facts", {})
    inputs = {role: Path(each) for role, each in given.pop("inputs", {}).items()}
    with publish(Path(path), node=node, params=params, inputs=inputs, **given) as draft:
        (draft.path / "content").write_text(json.dumps([str(path), params]))
        draft.facts.update(facts)


def _pretrained(plan: Plan, recipe: str, root: Path | str, **changes: Any) -> None:
    """A backbone as steps.pretrain leaves it, of a params folder."""
    row = Paths(plan.experiment).pretrained("vit_test", recipe, 0)
    params = plan.resolved(recipe=recipe, backbone="vit_test")
    sources = {"recipe": Path(root) / f"recipes/test/{recipe}.yaml"}
    _publish(f"{row}/backbone", "pretrain", {**params, **changes}, sources=sources)


def test_other_params_under_one_name_are_refused(plan: Plan, scenery: Scenery) -> None:
    shutil.copytree("params", "others")
    _pretrained(plan, "mae", "others", backbone={})
    with pytest.raises(UserError) as caught:
        check_names(plan)
    assert "mae/seed0/backbone: made by others/recipes/test/mae.yaml, and params/recipes/test/" in (
        str(caught.value)
    )
    _pretrained(plan, "mae", "others")  # the same content
    check_names(plan)
    _pretrained(plan, "mae", scenery.params.resolve(), backbone={})  # an edit
    check_names(plan)


def test_another_checkpoint_under_one_name_is_refused(plan: Plan, scenery: Scenery) -> None:
    file = scenery.params / "experiments/quickstart.yaml"
    experiment = {**read_yaml(file), "methods": [{"imported": OFFICIAL}], "pictures": []}
    scenery.write("experiments/quickstart.yaml", experiment)
    plan = load_plan("quickstart", Path("params"))
    asked = plan.experiment.imported["mae_official"].asked
    artifact = "results/imported/vit_test/mae_official/seed0/backbone"
    _publish(artifact, "pretrain", {}, facts={"asked": asked})
    check_names(plan)
    _publish(artifact, "pretrain", {}, facts={"asked": {**asked, "official": "b.pth"}})
    with pytest.raises(UserError, match=r"official b\.pth there, a\.pth here .* rename it"):
        check_names(plan)


def _old_results(plan: Plan) -> None:
    """Results of the layout of before, without weights."""
    paths = Paths(plan.experiment)
    _publish("results/data/shapes", "prepare", plan.datasets["shapes"].resolved())
    for recipe in ("random", "mae"):
        new, old = paths.pretrained("vit_test", recipe, 0), Path(f"results/quickstart/{recipe}")
        params = plan.resolved(recipe=recipe, backbone="vit_test")
        facts = dict.fromkeys(("method", "kind", "scale", "pretrain_dataset"), "x")
        facts |= {"recipe": recipe, "backbone": "vit_test"}
        numbers = dict.fromkeys(("epochs", "images_seen", "flops", "device_seconds"), 0)
        data = {"data": "results/data/shapes"}
        old = Path(f"results/quickstart/vit_test/{recipe}/seed0")
        _publish(
            old / "backbone", "pretrain", params, inputs=data, seed=0, facts={**facts, **numbers}
        )
        assert not Path(new).exists()
        inputs = {"backbone": old / "backbone"}
        features = plan.resolved(protocol="features")["protocol"]
        _publish(old / "features", "features", features, inputs={**inputs, **data})
        measured = {"task": "knn", "protocol": "knn", "metric": "top1", "value": 1.0, "unit": "%"}
        write_records(
            old / "knn/knn.json",
            [Record.of_backbone(old / "backbone", **measured, n=1, dataset="shapes")],
            node="knn",
            params=plan.resolved(protocol="knn")["protocol"],
            inputs={**inputs, "features": old / "features"},
            started=0.0,
        )


def test_old_results_are_taken_over(
    plan: Plan, scenery: Scenery, capsys: pytest.CaptureFixture[str]
) -> None:
    _old_results(plan)
    (line,) = notices(plan)
    assert line.startswith("results/quickstart: results of an earlier version")
    assert line.endswith("python -m workflow.migrate quickstart")
    # MAE's were made by other params than its recipe has today.
    file = scenery.params / "recipes/test/mae.yaml"
    file.write_text(file.read_text().replace("mask_ratio: 0.75", "mask_ratio: 0.5"))
    migrate(load_plan("quickstart", Path("params")))
    said = dict(
        line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if ": " in line
    )
    row = "results/pretrained/shapes/test/vit_test/random/seed0"
    for name in ("backbone", "features/shapes/features"):
        assert said[f"{row}/{name}"] == "moved"
        assert Path(row, name).exists()
    # An earlier version kept no decisions beside its records: an engine would make both again.
    assert said[f"{row}/knn/shapes/features/knn.json"].startswith(
        "measured before decisions were kept: python -m steps.knn --protocol"
    )
    mae = row.replace("random", "mae")
    assert said[f"{mae}/backbone"].startswith(
        "made by other params: python -m steps.pretrain --rec"
    )
    assert said[f"{mae}/knn/shapes/features/knn.json"].startswith(
        f"its backbone {mae}/backbone is not there: python -m steps.knn --protocol"
    )
    assert not Path(mae).exists()
    assert [path.name for path in Path("results/quickstart/vit_test/random").rglob("*.*")] == [
        "knn.json"
    ]
    assert Path("results/quickstart/vit_test/mae/seed0/backbone/content").is_file()


@pytest.mark.parametrize("content", [(), ("notes.txt",), ("a/b/c.json",)])
def test_a_folder_of_an_unknown_layout_is_named(content: tuple[str, ...], plan: Plan) -> None:
    for name in content:
        Path("old", name).parent.mkdir(parents=True, exist_ok=True)
        Path("old", name).touch()
    with pytest.raises(UserError) as caught:
        migrate(plan, Path("old"))
    found = f"holds {content[0].split('/')[0]}" if content else "no such folder"
    assert str(caught.value).startswith(f"old: {found} | allowed: results of an earlier version: <")


def test_dvc_says_it_too(plan: Plan, scenery: Scenery) -> None:
    _old_results(plan)
    said = engines.run(scenery.root, sys.executable, "-m", "workflow.dvc", "quickstart")
    assert said.startswith("note: results/quickstart: results of an earlier version")


@pytest.mark.parametrize(("file", "moved"), [("a.pth", True), ("b.pth", False)])
def test_an_old_checkpoint_is_taken_over_if_it_is_the_one_named(
    file: str, moved: bool, plan: Plan, scenery: Scenery
) -> None:
    experiment = read_yaml(scenery.params / "experiments/quickstart.yaml")
    experiment |= {"methods": [{"imported": OFFICIAL}], "pictures": []}
    scenery.write("experiments/quickstart.yaml", experiment)
    params = {"format": "mae", "official": {file: "0" * 64}}
    facts = {"recipe": "mae_official"}
    _publish(
        "results/quickstart/vit_test/mae_official/seed0/backbone", "pretrain", params, facts=facts
    )
    migrate(load_plan("quickstart", Path("params")))
    assert Path("results/imported/vit_test/mae_official/seed0/backbone").is_dir() == moved


def test_weights_to_start_from_are_there_or_made(plan: Plan, scenery: Scenery) -> None:
    check_starts(plan)
    experiment = read_yaml(scenery.params / "experiments/quickstart.yaml")
    experiment["methods"].append("continued")
    scenery.write("experiments/quickstart.yaml", experiment)

    def check(init: dict[str, str]) -> None:
        scenery.write("recipes/test/continued.yaml", {**RECIPES["mae"], "init": init})
        check_starts(load_plan("quickstart", Path("params")))

    check({"artifact": "results/pretrained/shapes/test/vit_test/mae/seed0/backbone"})
    check({"row": "mae"})
    check({"timm": "vit_tiny_patch16_224"})
    for key, path in (("artifact", "results/nothing"), ("timm", "vit.pth")):
        with pytest.raises(UserError) as caught:
            check({key: path})
        message = str(caught.value)
        assert message.startswith(
            f"params/recipes/test/continued.yaml: init.{key}: no {path} | all"
        )
    Path("vit.pth").touch()
    check({"timm": "vit.pth"})
