"""Params files, numbers and settings that are wrong: one line each, in every command."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.base import Params
from steps.params.checks import load_plan
from steps.params.experiment import Experiment
from steps.params.load import load, read_yaml
from steps.params.plan import AnyDataset
from steps.params.recipe import Recipe, Scaling
from steps.params.tasks import PROTOCOLS, TASKS, ResourceTable
from steps.params.tokenizers import TokenizerRecipe
from tests.faults.builders_params import FILES, GOOD_NAMES, NAMES, NOT_FINITE
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE, RECIPES, Scenery
from workflow.settings import check_settings

MODELS: dict[str, Any] = {
    "experiments": Experiment,
    "datasets": AnyDataset,
    "backbones": Backbone,
    "recipes": Recipe,
    "tokenizers": TokenizerRecipe,
    "resources": ResourceTable,
}
EXPERIMENT: dict[str, Any] = {
    "title": "Test",
    "question": "?",
    "dataset": "noise",
    "regime": "test",
    "methods": ["mae"],
    "backbones": ["vit_test"],
    "seeds": [0],
    "tasks": {"knn": ["knn"]},
}


def line(call: Callable[[], object]) -> str:
    """The one line that a mistake ends in."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 3000
    return message


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_params(what: str, tmp_path: Path) -> None:
    make, said = FILES[what]
    path = tmp_path / "a.yaml"
    make(path)
    for model in (Recipe, Experiment, ResourceTable):
        message = line(lambda model=model: load(path, model))
        assert message.startswith(str(path))
        assert said in message
        assert "remedy: " in message


@pytest.mark.parametrize("where", ["a" * 300 + ".yaml", "file.yaml/a.yaml", "a\0b.yaml"])
def test_a_path_that_can_be_none(where: str, tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("a: 1")
    assert "not readable" in line(lambda: read_yaml(tmp_path / where))


def test_a_file_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    path = tmp_path / "a.yaml"
    path.write_text("a: 1")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "not readable (Permission denied)" in line(lambda: read_yaml(path))


def test_what_is_fine_stays_fine(tmp_path: Path) -> None:
    """A byte order mark, anchors, merges, 1e-4, and text of every language."""
    path = tmp_path / "a.yaml"
    text = "a: &a {b: 1e-4, c: [1, 2]}\nd: {<<: *a, c: 3}\ntitle: Größe 大小 😀\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    content = read_yaml(path)
    assert content["a"] == {"b": 1e-4, "c": [1, 2]}
    assert content["d"] == {"b": 1e-4, "c": 3}
    assert content["title"] == "Größe 大小 😀"


def _numbers(content: Any, keys: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where numbers stand in params."""
    if isinstance(content, dict):
        return [found for key, each in content.items() for found in _numbers(each, (*keys, key))]
    if isinstance(content, list):
        pairs = enumerate(content)
        return [found for index, each in pairs for found in _numbers(each, (*keys, index))]
    return [keys] if isinstance(content, int | float) and not isinstance(content, bool) else []


def _committed() -> list[Path]:
    files = sorted((REPOSITORY / "params").rglob("*.yaml"))
    return [*files[::4], *(REPOSITORY / "params/experiments").glob("*.yaml")]


def _model(path: Path) -> Any:
    kind = path.relative_to(REPOSITORY / "params").parts[0]
    if kind != "protocols":
        return MODELS[kind]
    fitting = [model for model in PROTOCOLS.values() if _reads(path, model)]
    return fitting[0]


def _reads(path: Path, model: Any) -> bool:
    try:
        load(path, model)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("path", _committed(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_number_that_is_not_finite_or_no_number_of_a_computer(path: Path, tmp_path: Path) -> None:
    """Every number of every kind of params file, each in turn."""
    model, content = _model(path), read_yaml(path)
    wrong = tmp_path / path.name
    values = (*map(float, ("inf", "-inf", "nan")), 10**30, -(10**400), True)
    for index, keys in enumerate(_numbers(content)):
        group = content
        for key in keys[:-1]:
            group = group[key]
        before, value = group[keys[-1]], values[index % len(values)]
        group[keys[-1]] = value
        try:
            with pytest.raises(UserError) as caught:
                load(_written(wrong, content), model)
        finally:
            group[keys[-1]] = before
        message = str(caught.value)
        assert "\n" not in message
        assert str(wrong) in message
        named = [key for key in keys if isinstance(key, str)][-1]
        assert named in message or "(top)" in message, (keys, message)
    assert _reads(_written(wrong, content), model)


def _written(path: Path, content: Any) -> Path:
    text = yaml.safe_dump(content, sort_keys=False)
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", NOT_FINITE)
@pytest.mark.parametrize("key", ["epochs", "checkpoint_seconds", "log_every"])
def test_a_recipe_with_a_number_that_is_not_finite(number: str, key: str, scenery: Scenery) -> None:
    text = yaml.safe_dump(RECIPES["mae"])
    text = re.sub(rf"^  {key}: .*$", f"  {key}: {number}", text, flags=re.M)
    path = scenery.params / "recipes/test/a.yaml"
    path.write_text(text)
    message = line(lambda: load(path, Recipe))
    assert message.startswith(f"{path}: training.{key}: ")
    assert "a finite number" in message


def test_numbers_of_arguments_that_no_model_names(scenery: Scenery) -> None:
    """``model_args`` goes to timm: its numbers are held to the same, and it reads no weights."""
    for value in (float("inf"), float("nan"), 10**20, [1, [float("nan")]], {"a": float("inf")}):
        content = {**BACKBONE, "model_args": {"embed_dim": 24, "x": value}}
        path = scenery.write("backbones/a.yaml", content)
        assert "model_args.x" in line(lambda path=path: load(path, Backbone))
    for key in ("pretrained", "pretrained_cfg", "checkpoint_path", "cache_dir"):
        content = {**BACKBONE, "model_args": {key: "evil.pth"}}
        path = scenery.write("backbones/a.yaml", content)
        assert f"model_args.{key}" in line(lambda path=path: load(path, Backbone))
    for name in ("hf-hub:evil/model", "local-dir:/tmp/evil", "vit $(touch P1)"):
        path = scenery.write("backbones/a.yaml", {**BACKBONE, "architecture": name})
        assert "architecture" in line(lambda path=path: load(path, Backbone))


def _params_models() -> list[type[Params]]:
    importlib.import_module("steps.params.plan")
    found, waiting = [], [Params]
    while waiting:
        waiting += (below := waiting.pop().__subclasses__())
        found += below
    return [model for model in found if model.__module__.startswith("steps.")]


def test_every_model_refuses_infinity_by_its_base() -> None:
    models = _params_models()
    assert len(models) > 60
    for model in models:
        assert model.model_config["allow_inf_nan"] is False, model
        assert model.model_config["extra"] == "forbid", model
        for name, field in model.model_fields.items():
            if field.annotation is float:
                with pytest.raises(ValidationError, match=r"finite|greater|less|missing|valid"):
                    model.model_validate({name: float("inf")})


NAMED = [
    *("dataset", "detection_dataset", "decode_dataset", "bias_dataset", "regime", "features"),
    *("methods", "backbones", "tasks", "pictures"),
]


@pytest.mark.parametrize("what", NAMES)
def test_a_name_in_an_experiment(what: str) -> None:
    name = NAMES[what]
    for key in NAMED:
        wrong: Any = {"tasks": {"knn": [name]}}.get(key, name)
        if key in ("methods", "backbones", "pictures"):
            wrong = [name]
        _refused(Experiment, {**EXPERIMENT, key: wrong}, key)
    imported = {"name": name, "format": "mae", "checkpoint": "a.pth", "backbone": "vit_test"}
    for key in ("name", "backbone", "network"):
        method = {"imported": {**imported, "name": "official", key: name}}
        _refused(Experiment, {**EXPERIMENT, "methods": [method]}, key)
    study = {"methods": [name], "lengths": [1]}
    _refused(Experiment, {**EXPERIMENT, "scaling": study}, "scaling")
    _refused(Recipe, {**RECIPES["beit"], "tokenizer": name}, "tokenizer")
    for key in ("recipe", "backbone"):
        teacher = {"recipe": "dino", "backbone": "vit_test", key: name}
        _refused(Recipe, {**RECIPES["dino"], "teacher": teacher}, key)


def _refused(model: Any, content: dict[str, Any], key: str) -> None:
    from steps.params.load import validate

    message = line(lambda: validate(content, model, "a.yaml"))
    assert key in message
    assert "a name has only letters" in message or "the character U+" in message


@pytest.mark.parametrize("what", NAMES)
def test_a_name_of_an_experiment(what: str, scenery: Scenery) -> None:
    message = line(lambda: load_plan(NAMES[what], scenery.params))
    assert message.startswith("experiment: ")
    assert "a name has only letters" in message


@pytest.mark.parametrize("name", GOOD_NAMES)
def test_a_name_that_is_fine(name: str) -> None:
    lists = {key: [name] for key in ("methods", "backbones", "pictures")}
    content = {**EXPERIMENT, **lists, "dataset": name, "regime": name, "tasks": {"knn": [name]}}
    assert Experiment.model_validate(content).names == [name]


def test_committed_names_are_fine() -> None:
    for path in (REPOSITORY / "params").rglob("*.yaml"):
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", path.stem), path
    for path in (REPOSITORY / "params/experiments").glob("*.yaml"):
        load_plan(path.stem, REPOSITORY / "params")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trained_on", "a\nb"), ("trained_on", ""), ("trained_on", "--out"),
        ("source", "-x"), ("source", "a\x1b[31m"), ("source", "a\u202eb"), ("source", " "),
        ("checkpoint", "../a.pth"), ("checkpoint", "/a.pth"), ("checkpoint", "-a.pth"),
        ("checkpoint", "a/../../b.pth"), ("checkpoint", ""), ("checkpoint", "a\0.pth"),
        ("epochs", 10**30), ("epochs", 1e30), ("epochs", True), ("epochs", float("inf")),
    ],
)  # fmt: skip
def test_what_a_command_is_told_of_a_checkpoint(key: str, value: Any, scenery: Scenery) -> None:
    imported = {"name": "official", "format": "mae", "checkpoint": "a.pth", "backbone": "vit_test"}
    method = {"imported": {**imported, key: value}}
    path = scenery.write("experiments/a.yaml", {**EXPERIMENT, "methods": [method]})
    assert key in line(lambda: load(path, Experiment))


def test_titles_and_scales_are_lines(scenery: Scenery) -> None:
    for title in ("a\nb", "", "   ", "a\u202eb", "a\x07b", "x" * 300):
        path = scenery.write("experiments/a.yaml", {**EXPERIMENT, "title": title})
        assert "title" in line(lambda path=path: load(path, Experiment))
        path = scenery.write("backbones/a.yaml", {**BACKBONE, "scale": title})
        assert "scale" in line(lambda path=path: load(path, Backbone))
    path = scenery.write("backbones/a.yaml", {**BACKBONE, "scale": "ViT-B/16 <größer> $x$"})
    assert load(path, Backbone).scale == "ViT-B/16 <größer> $x$"


def test_a_study_of_unbounded_length() -> None:
    for length in (1e30, float("inf"), 1e6):
        with pytest.raises(ValidationError):
            Scaling(methods=["mae"], lengths=[length])


@pytest.mark.parametrize("text", ["rand-x5", "rand-m", "rand-m9-mstdinf", "augmix-m3", "rand m9"])
def test_rand_augment_is_timms_notation(text: str, scenery: Scenery) -> None:
    view = {"area": [0.2, 1.0], "rand_augment": text}
    recipe = {**RECIPES["supervised"], "training": {**RECIPES["supervised"]["training"]}}
    recipe["training"]["views"] = [view]
    path = scenery.write("recipes/test/a.yaml", recipe)
    assert "rand_augment" in line(lambda: load(path, Recipe))


@pytest.mark.parametrize(
    "config",
    [
        {"experiment": 1}, {"experiment": True}, {"experiment": [1, 2]}, {"experiment": None},
        {"experiment": 1.5}, {"experiment": {"a": 1}}, {"experiment": ""}, {"params": 5},
        {"params": []}, {"params": "a\0b"}, {"data_root": 5}, {"data_root": float("nan")},
        {"experiment": "x\x1b[0m"}, {"experment": "quickstart"}, {"": "a"}, {"seed": 0},
    ],
)  # fmt: skip
def test_settings_of_snakemake(config: dict[str, Any]) -> None:
    message = line(lambda: check_settings(config, ("experiment", "params", "data_root")))
    assert message.startswith("--config")
    assert "allowed: " in message


def test_settings_that_are_fine() -> None:
    config = {"experiment": "quickstart", "params": "my params", "data_root": "/a b/ü $(x)"}
    check_settings(config, ("experiment", "params", "data_root"))


PROTOCOL_STEPS = [
    *("detect", "features", "finetune", "geometry", "knn", "layout", "linear"),
    *("retrieval", "segment", "zeroshot", "decode", "bias"),
]
STEPS: dict[str, list[str]] = {
    "prepare": ["--dataset"],
    "pretrain": ["--recipe", "--backbone"],
    "tokenizer": ["--tokenizer"],
    "import": ["--backbone"],
    "report": ["--experiment"],
    **{step: ["--protocol"] for step in PROTOCOL_STEPS},
}
FURTHER = {
    "prepare": ["--out", "out"],
    "pretrain": ["--recipe", "r.yaml", "--backbone", "b.yaml", "--data", "d", "--seed", "0"],
    "tokenizer": ["--data", "d", "--seed", "0"],
    "import": ["--name", "a", "--format", "mae", "--official", "a.pth", "--seed", "0"],
    "report": ["--results", ".", "--out", "out"],
}


@pytest.mark.parametrize("what", ["5,000 brackets", "Latin-1", "a folder", "nothing", "a device"])
@pytest.mark.parametrize(("step", "option"), [(s, o) for s, each in STEPS.items() for o in each])
def test_every_step_names_a_file_that_is_no_params(
    step: str, option: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, said = FILES[what]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPES["mae"]))
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(BACKBONE))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.pth").touch()
    wrong = tmp_path / "wrong.yaml"
    make(wrong)
    options = [*FURTHER.get(step, ["--backbone", "b"]), *_inputs(step)]
    if option in options:
        place = options.index(option)
        options[place : place + 2] = []
    arguments = [*options, option, str(wrong)]
    if "--out" not in arguments:
        arguments += ["--out", "out"]
    monkeypatch.setattr("sys.argv", [f"steps.{step}", *arguments])
    message = line(importlib.import_module(f"steps.{step}").main)
    assert str(wrong) in message
    assert said in message
    assert not (tmp_path / "out").exists()


def _inputs(step: str) -> list[str]:
    """Further options that a task needs; no file of theirs is there."""
    if step not in PROTOCOL_STEPS:
        return []
    task = TASKS.get(step)
    needs = ["features", "data"] if task and task.features else ["data"]
    pictures = ["pictures"] if task and task.draws else []
    return [word for name in (*needs, *pictures) for word in (f"--{name}", name)]


def test_a_damaged_manifest_is_none_to_the_plan(tmp_path: Path) -> None:
    from workflow.made import manifest_of

    for content in (b"[" * 100_000, b"{}", b'{"params": 5, "facts": {}}', b"\xff", b"null", b""):
        (tmp_path / "manifest.json").write_bytes(content)
        assert manifest_of(tmp_path) is None
        record = tmp_path / "record.json"
        record.write_bytes(b'{"manifest": ' + content + b"}")
        assert manifest_of(record) is None


SEEDS = ("-1", "1.5", str(2**31), str(2**70), "x", "")
OPTIONS: dict[tuple[str, str], tuple[str, ...]] = {
    ("pretrain", "--seed"): SEEDS,
    ("tokenizer", "--seed"): SEEDS,
    ("diagnose", "--images"): ("0", "-3", "x", "1e3"),
    ("import", "--seed"): SEEDS,
    ("import", "--epochs"): ("nan", "inf", "-5", "1e400", "x"),
    ("import", "--heads"): ("0", "-2", "1.5"),
    ("import", "--image-size"): ("0", "-32", "x"),
    ("import", "--name"): ("", "a/b", "..", "$(touch P1)", "a\nb", "a.json", "a" * 65),
    ("import", "--trained-on"): ("", " ", "a\nb", "a\x1b[31mb", "a\u202eb", "x" * 300),
}
NEEDED = {
    "pretrain": ["--recipe", "r", "--backbone", "b", "--data", "d", "--out", "out"],
    "tokenizer": ["--tokenizer", "t", "--data", "d", "--out", "out"],
    "diagnose": ["--backbone", "b", "--data", "d", "--out", "out"],
    "import": ["--format", "mae", "--checkpoint", "c", "--out", "out"],
}


@pytest.mark.parametrize(("step", "option"), OPTIONS)
def test_options_are_held_to_what_params_may_be(
    step: str,
    option: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in OPTIONS[step, option]:
        monkeypatch.setattr("sys.argv", [f"steps.{step}", *NEEDED[step], f"{option}={value}"])
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(f"steps.{step}").main()
        assert ended.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"error: argument {option}: " in last, value
        assert last.isprintable()
    assert not list(tmp_path.iterdir())
