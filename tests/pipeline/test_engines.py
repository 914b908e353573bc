"""Snakemake and DVC hold the same DAG: the same commands, with the same files in and out."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import engines
from tests.engines import Node
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE, RECIPES, TOKENIZERS, Scenery


@pytest.fixture(
    scope="module",
    params=[
        "as it is",
        "with a chain",
        "with text",
        "with protocols",
        "with finetuning",
        "with imports",
        "with scaling",
    ],
)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, or a folder whose experiment is of another kind."""
    if request.param == "as it is":
        return REPOSITORY
    folder = tmp_path_factory.mktemp("engines") / request.param.rpartition(" ")[2]
    folder.mkdir()
    shutil.copytree(REPOSITORY / "params", folder / "params")
    shutil.copy(REPOSITORY / "dvc.yaml", folder)
    file = folder / "params/experiments/quickstart.yaml"
    experiment = yaml.safe_load(file.read_text())
    if request.param == "with a chain":
        _chain(Scenery(folder), experiment)
    elif request.param == "with text":
        _text(experiment)
    elif request.param == "with imports":
        _imports(experiment)
    elif request.param == "with scaling":
        _scaling(experiment)
    else:
        _few_tasks(experiment, request.param)
    file.write_text(yaml.safe_dump(experiment))
    engines.run(folder, "dvc", "init", "--no-scm", "--quiet")
    return folder


def _chain(scenery: Scenery, experiment: dict[str, Any]) -> None:
    """Rows that stand on another row, on a backbone that is no row, and on tokenizers."""
    large = {"recipe": "dino", "backbone": "vit_large"}
    scenery.write("backbones/vit_large.yaml", BACKBONE)
    scenery.write("recipes/test/dino_distilled.yaml", {**RECIPES["dino"], "teacher": large})
    scenery.write(
        "tokenizers/test/vqkd.yaml",
        {**TOKENIZERS["vqkd"], "teacher": {"recipe": "dino", "backbone": "vit_test"}},
    )
    experiment.update(
        regime="test",
        methods=["random", "dino", "dino_distilled", "beit", "beit2"],
        backbones=["vit_test"],
        seeds=[0, 1],
        pictures=["dino", "beit", "beit2"],
        chain=experiment["chain"]
        | {
            "rows": ["random", "dino", "dino_distilled", "beit", "beit2"],
            "plain": ["random", "dino"],
            "teachers": [large],
            "students": [
                {"recipe": "dino_distilled", "backbone": "vit_test", "teacher": large},
            ],
            "tokenized": [
                {"recipe": "beit", "backbone": "vit_test", "tokenizer": "dalle"},
                {"recipe": "beit2", "backbone": "vit_test", "tokenizer": "vqkd"},
            ],
            "drawn": [],
            "drawn_tokens": [
                {"recipe": "beit", "backbone": "vit_test", "tokenizer": "dalle"},
                {"recipe": "beit2", "backbone": "vit_test", "tokenizer": "vqkd"},
            ],
            "drawn_tokenizers": ["dalle", "vqkd"],
            "tokenizers": ["dalle"],
            "distilled_tokenizers": [
                {"tokenizer": "vqkd", "teacher": {"recipe": "dino", "backbone": "vit_test"}},
            ],
        },
    )


def _text(experiment: dict[str, Any]) -> None:
    """Tasks that one of two methods alone has rows of."""
    experiment |= {"methods": ["mae", "clip"], "text_methods": ["clip"], "seeds": [0, 1]}
    experiment["pictures"] = ["mae"]
    experiment["chain"]["plain"] = experiment["chain"]["rows"] = experiment["methods"]
    experiment["tasks"] |= {"zeroshot": ["zeroshot_shapes"], "retrieval": ["retrieval"]}


def _imports(experiment: dict[str, Any]) -> None:
    """Official checkpoints beside a row of our own."""
    official = [
        {"name": "mae_official", "format": "mae", "checkpoint": "official/mae.pth", "epochs": 800},
        {
            "name": "dino_official",
            "format": "dino",
            "checkpoint": "a dino.pth",
            "network": "student",
        },
    ]
    for each in official:
        each["backbone"] = "vit_pico"
    experiment["methods"] = ["random", *({"imported": each} for each in official)]
    experiment |= {"seeds": [0, 1], "pictures": ["random"]}
    options = [
        "--format mae --official official/mae.pth --epochs 800",
        "--format dino --official 'a dino.pth' --network student",
    ]
    experiment["chain"] |= {
        "rows": ["random", "mae_official", "dino_official"],
        "plain": ["random"],
        "drawn": [],
        "imported": [
            {"name": each["name"], "backbone": "vit_pico", "options": words}
            for each, words in zip(official, options, strict=True)
        ],
    }


def _scaling(experiment: dict[str, Any]) -> None:
    """A method at two lengths, on two shares of the images, beside one as it is."""
    experiment |= {"methods": ["random", "mae"], "seeds": [0, 1], "pictures": []}
    experiment["scaling"] = {"methods": ["mae"], "lengths": [0.5, 2], "data_shares": [0.25, 1]}
    grown = {
        "mae-x0.5-d25": "--length 0.5 --data-share 0.25",
        "mae-x0.5-d100": "--length 0.5 --data-share 1",
        "mae-x2-d25": "--length 2 --data-share 0.25",
        "mae-x2-d100": "--length 2 --data-share 1",
    }
    experiment["chain"] |= {
        "rows": ["random", *grown],
        "plain": ["random"],
        "grown": [
            {"name": name, "recipe": "mae", "options": words} for name, words in grown.items()
        ],
        "drawn": [],
    }


def _few_tasks(experiment: dict[str, Any], kind: str) -> None:
    """One task: by several protocols on frozen features, or without these."""
    del experiment["detection_dataset"]
    experiment["chain"]["datasets"] = ["shapes"]
    experiment["tasks"] = {task: [] for task in experiment["tasks"]}
    if kind == "with protocols":
        experiment["tasks"]["linear"] = ["linear", "logreg", "linear_mae"]
    else:
        experiment["tasks"]["finetune"] = ["finetune_small"]
        experiment["chain"]["features"] = []


@pytest.fixture(scope="module")
def snakemake_nodes(project: Path) -> dict[str, Node]:
    return engines.snakemake_nodes(project)


@pytest.fixture(scope="module")
def dvc_nodes(project: Path) -> dict[str, Node]:
    return engines.dvc_nodes(project)


def test_same_commands(
    project: Path, snakemake_nodes: dict[str, Node], dvc_nodes: dict[str, Node]
) -> None:
    # Two sets and the page; eight nodes a row; MAE is drawn. With a chain: ten rows, and twice a
    # teacher that is none and two tokenizers; two methods and both tokenizers are drawn. With text:
    # four rows, two of which have two nodes more. With protocols: one set, and five nodes a row.
    # With finetuning: two nodes a row. With imports: six rows, as many nodes as ever.
    # With scaling: ten rows.
    counts = {
        REPOSITORY.name: 3 + 4 * 8 + 1,
        "chain": 3 + 10 * 8 + 2 * 3 + 4,
        "text": 3 + 4 * 8 + 2 * 2 + 1,
        "protocols": 2 + 4 * 5 + 1,
        "finetuning": 2 + 4 * 2 + 1,
        "imports": 3 + 6 * 8,
        "scaling": 3 + 10 * 8,
    }
    assert len(dvc_nodes) == counts[project.name]
    assert snakemake_nodes.keys() == dvc_nodes.keys()


def test_same_files(snakemake_nodes: dict[str, Node], dvc_nodes: dict[str, Node]) -> None:
    everything = {output for node in dvc_nodes.values() for output in node.outputs}
    for command, theirs in dvc_nodes.items():
        node = snakemake_nodes[command]
        assert node.outputs == theirs.outputs, command
        if "steps.report" not in command:
            assert node.inputs == theirs.inputs, command
            continue
        # DVC's templates cannot list the files of all rows: the page depends on their folder, in
        # which there are features, pictures, tokenizers and teachers too.
        (folder,) = theirs.inputs
        inside = {path for path in everything if path.startswith(f"{folder}/")}
        others = re.compile(
            r"/features$|/(layout|detect)/[^./]+$|/tokenizers/\w+/seed\d+$|/vit_large/"
        )
        assert node.inputs == {path for path in inside if not others.search(path)}


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
