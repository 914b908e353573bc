"""Snakemake and DVC hold the same DAG: the same commands, with the same files in and out."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import engines
from tests.engines import Node
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE, RECIPES, TOKENIZERS, Scenery

EXPERIMENTS = sorted(file.stem for file in (REPOSITORY / "params/experiments").glob("*.yaml"))
GRID = {"methods": ["mae"], "lengths": [0.5, 1], "data_shares": [0.25, 1]}


def _everything(scenery: Scenery) -> None:
    """An experiment with imported rows, tokenizers, teachers that are no rows, a budget, scaling,
    weights kept along the way, and text."""
    scenery.recipe("mae", keep_epochs=[0.5])
    scenery.recipe("clip", keep_epochs=[0.25, 0.5])
    large = {"recipe": "dino", "backbone": "vit_large"}
    scenery.write("backbones/vit_large.yaml", BACKBONE)
    scenery.write("recipes/test/dino_distilled.yaml", {**RECIPES["dino"], "teacher": large})
    teacher = {"recipe": "dino", "backbone": "vit_test"}
    scenery.write("tokenizers/test/vqkd.yaml", {**TOKENIZERS["vqkd"], "teacher": teacher})
    official = {"format": "mae", "backbone": "vit_test", "epochs": 800}
    file = scenery.params / "experiments/all_methods.yaml"
    experiment: dict[str, Any] = yaml.safe_load(file.read_text())
    experiment |= {
        "regime": "test",
        "methods": [
            *("random", "mae", "clip", "dino", "dino_distilled", "beit", "beit2"),
            {"imported": {**official, "name": "mae_official", "checkpoint": "official/mae.pth"}},
            {"imported": {**official, "name": "spaced", "checkpoint": "a mae.pth"}},
        ],
        "backbones": ["vit_test", "vit_pico"],
        "seeds": [0, 1],
        "detection_dataset": "shapes_scenes",
        "pictures": ["dino", "beit", "beit2"],
        "scaling": GRID,
        "budget": {"tflops": 36, "behind": 0.5},
    }
    experiment["tasks"]["linear"] = ["linear", "logreg", "linear_mae"]
    experiment["tasks"] |= {"detect": ["mask_rcnn_small"], "layout": ["layout"]}
    experiment["tasks"] |= {"segment": ["segment"], "finetune": ["finetune_shapes"]}
    scenery.write("experiments/everything.yaml", experiment)


def _three_sets(scenery: Scenery) -> None:
    """An experiment that pretrains on images without labels and measures on three other sets."""
    photos = {"format": "images", "train": "photos", "val": {"share": 0.1}}
    scenery.write("datasets/photos.yaml", photos)
    experiment = {
        "title": "Three sets",
        "question": "Does every row meet every set?",
        "dataset": "photos",
        "evaluate_on": ["cifar10", "shapes", "cifar10_10k"],
        "detection_dataset": "shapes_scenes",
        "regime": "test",
        "methods": ["random", "mae", "dino"],
        "backbones": ["vit_test"],
        "seeds": [0, 1],
        "tasks": {
            "knn": ["knn"],
            "linear": ["linear", "linear_mae_small"],
            "finetune": ["finetune_small"],
            "geometry": ["geometry"],
            "detect": ["mask_rcnn_small"],
        },
        "pictures": ["mae"],
    }
    scenery.write("experiments/three_sets.yaml", experiment)


@pytest.fixture(scope="module", params=[*EXPERIMENTS, "everything", "three_sets"])
def experiment(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(experiment: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project's params, and dvc.yaml of the experiment."""
    folder = tmp_path_factory.mktemp("engines")
    scenery = Scenery(folder)
    shutil.copytree(REPOSITORY / "params", folder / "params", dirs_exist_ok=True)
    if experiment == "everything":
        _everything(scenery)
    if experiment == "three_sets":
        _three_sets(scenery)
    engines.run(folder, sys.executable, "-m", "workflow.dvc", experiment)
    engines.run(folder, "dvc", "init", "--no-scm", "--quiet")
    return folder


@pytest.fixture(scope="module")
def snakemake_nodes(folder: Path, experiment: str) -> dict[str, Node]:
    return engines.snakemake_nodes(folder, experiment)


@pytest.fixture(scope="module")
def dvc_nodes(folder: Path) -> dict[str, Node]:
    return engines.dvc_nodes(folder)


def test_same_commands_and_files(
    experiment: str, snakemake_nodes: dict[str, Node], dvc_nodes: dict[str, Node]
) -> None:
    assert dvc_nodes
    assert snakemake_nodes == dvc_nodes
    if experiment == "everything":
        # Held to a count by hand, since both engines could leave out the same. On each of two
        # backbones: four points of a study of scale, one of them all of the budget, and six other
        # recipes; and two checkpoints of the first backbone. Each point keeps weights once along
        # its way, and clip twice. Each has features and ten evaluations, clip and its kept weights
        # two more. There are four sets. Twice, by seed; so are two tokenizers and two teachers,
        # which are no rows within their shares of the budget. Drawn are two methods on each
        # backbone, and both tokenizers. Lengths within the budget are one node.
        rows = 2 * (4 + 4 + 6 + 2) + 2
        assert len(dvc_nodes) == 4 + 2 * (rows * 12 + 2 * 3 * 2 + 2 + 2) + 2 * 2 + 2 + 1 + 1
    if experiment == "three_sets":
        # Five prepared sets. Each of six rows is trained, and has a detection; on each of three
        # sets it has features and five evaluations. One row is drawn, and there is one page.
        assert len(dvc_nodes) == 5 + 6 * (1 + 1 + 3 * (1 + 5)) + 1 + 1
        # The recipe of mae has k-NN on its way, which needs labels.
        watched = [command for command in dvc_nodes if " --knn results/data/cifar10 " in command]
        assert sorted(re.findall(r"seed\d", " ".join(watched))) == ["seed0", "seed1"]
        assert all("/test/vit_test/mae/" in command for command in watched)


def test_dvc_plans_every_node(folder: Path, dvc_nodes: dict[str, Node]) -> None:
    # DVC looks inputs up in its cache even for a dry run, which fails where none was ever made;
    # with --force it does not.
    said = engines.run(folder, "dvc", "repro", "--dry", "--force")
    assert len(re.findall(r"^Running stage '", said, flags=re.M)) == len(dvc_nodes)


def test_a_folder_is_made_by_one_command(dvc_nodes: dict[str, Node]) -> None:
    outputs = [output for node in dvc_nodes.values() for output in node.outputs]
    assert len(set(outputs)) == len(outputs)


def test_committed_dvc_yaml_is_that_of_its_experiment() -> None:
    done = engines.run(REPOSITORY, sys.executable, "-m", "workflow.dvc", "quickstart", "--check")
    assert done == ""


def test_a_dvc_yaml_edited_by_hand_is_named(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    command = (sys.executable, "-m", "workflow.dvc", "quickstart")
    engines.run(tmp_path, *command)
    file = tmp_path / "dvc.yaml"
    file.write_text(file.read_text().replace("--seed 0", "--seed 1", 1))
    said = engines.run(tmp_path, *command, "--check", status=2)
    assert said.startswith(
        "error: dvc.yaml: is not what experiment quickstart gives, first in line"
    )
    assert said.endswith("| remedy: python -m workflow.dvc quickstart\n")
    engines.run(tmp_path, *command)
    assert engines.run(tmp_path, *command, "--check") == ""


def test_stages_of_one_name_are_refused(tmp_path: Path) -> None:
    scenery = Scenery(tmp_path)
    shutil.copytree(REPOSITORY / "params", tmp_path / "params", dirs_exist_ok=True)
    protocols = tmp_path / "params/protocols"
    for name in ("knn.2", "knn_2"):
        shutil.copy(protocols / "knn.yaml", protocols / f"{name}.yaml")
    file = tmp_path / "params/experiments/quickstart.yaml"
    experiment = yaml.safe_load(file.read_text())
    scenery.write(
        "experiments/quickstart.yaml", {**experiment, "tasks": {"knn": ["knn.2", "knn_2"]}}
    )
    said = engines.run(tmp_path, sys.executable, "-m", "workflow.dvc", "quickstart", status=2)
    assert "two stages of dvc.yaml would be called knn-shapes-small-vit_pico-random" in said
    assert not (tmp_path / "dvc.yaml").exists()


def test_no_engine_below_workflow() -> None:
    for path in (REPOSITORY / "steps").rglob("*.py"):
        found = re.findall(r"^\s*(?:import|from) (snakemake|dvc)\b", path.read_text(), re.M)
        assert not found, f"{path} imports {found}"


def test_stages_track_values_not_files() -> None:
    """A params file is never a plain dependency of either engine: a comment re-plans nothing."""
    from dvc.repo import Repo

    with Repo(str(REPOSITORY)) as repo:
        for stage in repo.index.stages:
            for dep in stage.deps:
                assert hasattr(dep, "params") or not dep.def_path.startswith("params/")
