"""The pages say what the code does: their links, commands, params and estimates hold."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from benchmarks import estimate
from steps import report
from steps.models.backbones import create_backbone, save_backbone
from steps.params.backbone import Backbone
from steps.params.checks import load_plan
from steps.params.dataset import Dataset
from steps.params.recipe import Recipe
from tests.pages import DOCS, TEXT, Block, block_run_by, blocks
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE

IMAGENET = TEXT["docs/imagenet.md"]
OPTIONS = json.loads((REPOSITORY / "tests/proof.json").read_text())["commands"]
"""The options of every step."""
COMMANDS = [block for block in blocks() if block.language in ("", "python")]
PARAMS = [block for block in blocks() if block.language == "yaml"]


def shown(block: Block) -> str:
    return f"{block.page}: {block.content[:40]}"


# --- Every page


@pytest.mark.parametrize("page", TEXT)
def test_links_lead_somewhere(page: str) -> None:
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([\w-]+))?\)", TEXT[page]):
        target = ((REPOSITORY / page).parent / link).resolve() if link else REPOSITORY / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            names = [re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings]
            assert anchor in names, f"{link}#{anchor}"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_it_opens_with_what_it_lets_one_do(page: Path) -> None:
    title, opening = page.read_text(encoding="utf-8").split("\n\n")[:2]
    assert title.startswith("# ")
    assert opening.startswith("This page lets you ")


@pytest.mark.parametrize("page", TEXT)
def test_paths_exist(page: str) -> None:
    found = re.findall(r"`((?:steps|params|workflow|tests|benchmarks|docs)/[\w/.]+)`", TEXT[page])
    for path in found:
        if not path.endswith("/mine.yaml"):
            assert (REPOSITORY / path).exists(), path


# --- Commands and params


@pytest.mark.parametrize("block", COMMANDS, ids=shown)
def test_commands_name_their_test_or_need(block: Block) -> None:
    assert block.test is not None or re.match("needs: .", block.mark), block.content
    named = [block.test] if block.test else re.findall(r"([\w/]+\.py)::(\w+)", block.mark)
    for file, name in named:
        tree = ast.parse((REPOSITORY / "tests" / file).read_text(encoding="utf-8"))
        assert name in [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("page", TEXT)
def test_commands_exist(page: str) -> None:
    text = TEXT[page].replace("\\\n", " ")
    for step, rest in re.findall(r"-m steps\.([a-z]+)([^`\n#]*)", text):
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in OPTIONS[step], f"steps.{step} {option}"
    for module in re.findall(r"-m ((?:workflow|benchmarks|tests)\.\w+)", text):
        assert (REPOSITORY / f"{module.replace('.', '/')}.py").exists(), module
    for experiment in re.findall(r"experiment=(\w+)", text):
        if experiment not in ("NAME", "mine"):
            assert (REPOSITORY / f"params/experiments/{experiment}.yaml").exists(), experiment
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
        assert target in targets, target


@pytest.mark.parametrize("block", PARAMS, ids=shown)
def test_params_are_valid(block: Block, tmp_path: Path) -> None:
    content: dict[str, Any] = yaml.safe_load(block.content)
    if "format" in content:
        TypeAdapter[Any](Dataset).validate_python(content)
        return
    if "training" in content:
        recipe = yaml.safe_load((REPOSITORY / "params/recipes/imagenet/mae.yaml").read_text())
        training = {**recipe["training"], **content["training"]}
        Recipe.model_validate({**recipe, "training": training})
        return
    shapes = yaml.safe_load((REPOSITORY / "params/datasets/shapes.yaml").read_text())
    if "cues" in content:
        TypeAdapter[Any](Dataset).validate_python(shapes | content)
        return
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    file = tmp_path / "params/experiments/quickstart.yaml"
    experiment = {**yaml.safe_load(file.read_text()), "pictures": [], **content}
    if any("imported" in each for each in experiment["methods"]):
        experiment |= {"backbones": ["vit_b16"], "regime": "imagenet"}
        experiment["tasks"] = {"knn": ["knn"], "linear": ["linear"]}
        del experiment["detection_dataset"]
    if "evaluate_on" in content:  # a user's own sets
        unlabelled = {"format": "images", "train": "t", "val": {"share": 0.1}}
        labelled = {"format": "folder", "train": "t", "val": "v"}
        own = dict.fromkeys(content["evaluate_on"], labelled)
        for name, described in {content["dataset"]: unlabelled, **own}.items():
            (tmp_path / f"params/datasets/{name}.yaml").write_text(yaml.safe_dump(described))
    file.write_text(yaml.safe_dump(experiment))
    load_plan("quickstart", tmp_path / "params")


def test_a_backbone_is_a_timm_model(tmp_path: Path) -> None:
    backbone = Backbone.model_validate(BACKBONE)
    save_backbone(
        create_backbone(backbone), backbone, tmp_path, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)
    )
    block = block_run_by("unit/test_docs.py::test_a_backbone_is_a_timm_model")
    names: dict[str, Any] = {}
    exec(block.content.replace("BACKBONE", str(tmp_path)), names)
    assert names["backbone"].num_classes == 0
    assert tuple(names["transform"].transforms[-1].mean) == pytest.approx((0.5, 0.4, 0.3))


def test_the_explained_cell(capsys: pytest.CaptureFixture[str]) -> None:
    block = block_run_by("unit/test_docs.py::test_the_explained_cell")
    arguments = block.content.split("steps.report ")[1].split()
    report.main([arguments[0], str(REPOSITORY / arguments[1])])
    assert capsys.readouterr().out.startswith("mae-6tflops / vit_pico / linear / seed 0")


# --- What ImageNet needs


@pytest.mark.parametrize("table", ["pretraining", "downstream"])
def test_estimates_are_those_of_the_recipes(table: str) -> None:
    block = re.search(
        rf"<!-- from benchmarks.estimate: {table} -->\n(.*?)<!-- end -->", IMAGENET, re.S
    )
    assert block is not None
    assert block.group(1) == getattr(estimate, table)(), "run python -m benchmarks.estimate"


def test_the_formula_is_that_of_a_published_count() -> None:
    # DeiT-B at 224 px: 17.5 G multiply-adds (Swin, arXiv:2103.14030, table 1).
    assert estimate.VIT_B.forward(197) / 2 == pytest.approx(17.5e9, rel=0.01)


def test_every_trained_recipe_of_the_experiment_is_estimated() -> None:
    plan = load_plan("imagenet", REPOSITORY / "params")
    trained = {name for name, recipe in plan.recipes.items() if recipe.training is not None}
    assert set(estimate.PASSES) == trained


def test_files_that_experiments_need_are_named() -> None:
    for name in ("imagenet", "imagenet_large"):
        plan = load_plan(name, REPOSITORY / "params")
        files = [each.checkpoint for each in plan.experiment.imported.values()]
        for tokenizer in plan.tokenizers.values():
            files += (tokenizer.official or {}).values()
        for file in files:
            assert f"`{file}`" in IMAGENET
