"""Params and names are data, never commands: what both engines make of those of a stranger."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from steps.command import UserError
from steps.params.checks import load_plan
from steps.params.tasks import Resources
from tests import engines
from tests.engines import BIN
from tests.faults.builders_params import NAMES
from tests.processes import REPOSITORY
from tests.scenery import Scenery
from workflow import dvc
from workflow.dvc import Stages, dvc_yaml

EVIL = "a $(touch P1) `touch P2` 'q' \"d\" ;touch P3; && touch P4 | touch P5 {x} {{y}} ${item} %s ü"
"""What a value may be that is not a name."""
FOLDERS = ("my params", "p $(touch P6) `touch P7`", 'it\'s {params} ${item} "x" ü;touch P8')
"""Where params may lie."""
RULES = sorted((REPOSITORY / "workflow/rules").glob("*.smk"))


def project(root: Path, folder: str = "params") -> Scenery:
    """Params of a small experiment with an official checkpoint, in a folder of any name."""
    scenery = Scenery(root)
    scenery.params = root / folder
    (root / "params").rename(scenery.params)
    shapes = yaml.safe_load((REPOSITORY / "params/datasets/shapes.yaml").read_text())
    scenery.write("datasets/shapes.yaml", {**shapes, "train": 96, "val": 32})
    scenery.write("protocols/features.yaml", {"poolings": ["cls"], "crop_fraction": 1.0})
    knn = {"k": [5], "headline_k": 5, "temperature": 0.07, "pooling": "cls"}
    scenery.write("protocols/knn.yaml", knn)
    checkpoint = {"name": "official", "format": "mae", "backbone": "vit_test", "epochs": 800}
    checkpoint |= {"checkpoint": f"{EVIL}.pth", "source": EVIL, "trained_on": EVIL}
    experiment = {
        "title": EVIL,
        "question": EVIL,
        "dataset": "shapes",
        "regime": "test",
        "methods": ["mae", "beit", {"imported": checkpoint}],
        "backbones": ["vit_test"],
        "seeds": [0],
        "tasks": {"knn": ["knn"]},
        "scaling": {"methods": ["mae"], "lengths": [0.5, 1], "data_shares": [0.25]},
    }
    scenery.write("experiments/quickstart.yaml", experiment)
    return scenery


def run(root: Path, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "DVC_NO_ANALYTICS": "1",
        "OMP_NUM_THREADS": "1",
        **changes,
    }
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)


def snakemake(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    profile = str(REPOSITORY / "workflow/profiles/default")
    return run(
        root,
        *("snakemake", "--cores", "1", "--snakefile", str(REPOSITORY / "workflow/Snakefile")),
        *("--profile", profile, *arguments),
    )


def touched(root: Path) -> list[str]:
    """Files that a command in a name or a value would have made."""
    return [path.name for path in root.rglob("P[0-9]*")]


def shells(text: str) -> Iterator[tuple[str, str]]:
    """Each rule of a Snakefile with its shell command; empty where it has none."""
    for block in re.split(r"^(?: {4})?rule\b ?", text, flags=re.M)[1:]:
        name = block.partition(":")[0]
        found = re.search(r"^( *)shell:\n((?:\1    .*\n?)+)", block, flags=re.M)
        yield name, ast.literal_eval(f"({found[2]})") if found else ""


def unquoted(command: str, text: str) -> list[str]:
    """Interpolations that a shell would read as more than a word.

    What is marked ``:u`` has to be made of words by ``words``, which quotes each of them.
    """
    wrong = []
    for _, field, form, _ in string.Formatter().parse(command):
        if field is None or form == "q":
            continue
        name = field.removeprefix("params.")
        made = re.search(rf"^ +{name}=(.*),$", text, flags=re.M)
        by_words = made is not None and re.search(r"\bwords\(|^(?:read|made)$", made[1])
        if form != "u" or not by_words:
            wrong.append(field)
    return wrong


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_every_interpolation_of_a_rule_is_quoted(path: Path) -> None:
    text = path.read_text()
    for name, command in shells(text):
        rule = f"rule {name}:" if name else "rule:"
        assert command or "output:" not in text.partition(rule)[2].partition("rule ")[0]
        assert not unquoted(command, text), name
    assert not re.search(r"^    (run|script|notebook|wrapper|cwl):", text, flags=re.M)
    assert not re.search(r"\bshell\(|os\.system|subprocess", text)


def test_all_rules_are_read_and_words_are_quoted() -> None:
    found = [name for path in RULES for name, command in shells(path.read_text()) if command]
    assert len(found) == 11, "tasks have one"
    paths = (REPOSITORY / "workflow/rules/paths.smk").read_text()
    read, made = (
        re.search(rf"^def {name}\(.*?\n\n", paths, flags=re.M | re.S) for name in ("read", "made")
    )
    assert read is not None
    assert made is not None
    assert "return words(" in read[0]
    assert "return read(" in made[0]
    assert re.search(
        r'^def words\(options\):\n    """.*?"""\n    return shlex\.join\(', paths, re.M
    )


def test_a_rule_that_forgets_is_found() -> None:
    command = '"cp {input:q} {output} {params.b:u}"'
    rule = f'rule a:\n    output:\n        "x",\n    shell:\n        {command}\n'
    ((name, command),) = shells(rule)
    assert name == "a"
    assert unquoted(command, rule) == ["output", "params.b"]
    assert unquoted(command, rule + "        b=lambda wildcards: words(X),\n") == ["output"]


def test_no_text_of_params_reaches_a_scheduler() -> None:
    """Resources are whole numbers: no string of a params file stands in a job's request."""
    fields = Resources.model_json_schema()["properties"]
    assert set(Resources().asked()) <= set(fields)
    for name, field in fields.items():
        kinds = {each["type"] for each in field.get("anyOf", [field])}
        assert kinds <= {"integer", "null"}, name


@pytest.mark.parametrize("value", ["1; touch P1", "$(touch P1)", [1], 1.5, True, -1, "'--x'"])
@pytest.mark.parametrize("key", ["threads", "gpu", "mem_mb", "runtime"])
def test_resources_that_are_no_numbers(key: str, value: Any, tmp_path: Path) -> None:
    scenery = project(tmp_path)
    scenery.write("resources/test.yaml", {"default": {key: value}})
    with pytest.raises(UserError, match=f"default.{key}"):
        load_plan("quickstart", scenery.params)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_command_of_dvc_yaml_is_words(folder: str, tmp_path: Path) -> None:
    """A shell reads from each command what the step is to be told, and nothing more."""
    scenery = project(tmp_path, folder)
    plan = load_plan("quickstart", scenery.params)
    content = yaml.safe_load(dvc_yaml(plan))
    for stage in Stages(plan).all():
        written = content["stages"][stage.name]["cmd"].replace("\\${", "${")
        expected = [str(word) for pair in stage.options.items() for word in pair]
        assert shlex.split(written)[3:] == expected
        assert re.fullmatch(r"[\w-]+", stage.name)


@pytest.mark.parametrize("what", NAMES)
def test_dvc_yaml_is_not_written_for_such_names(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenery = project(tmp_path)
    file = scenery.params / "experiments/quickstart.yaml"
    experiment = yaml.safe_load(file.read_text())
    scenery.write("experiments/quickstart.yaml", {**experiment, "dataset": NAMES[what]})
    name = NAMES[what]
    asked = [["quickstart"]]
    if name and not name.startswith("-") and "\0" not in name:
        asked.append([name])
    for arguments in asked:
        monkeypatch.setattr("sys.argv", ["workflow.dvc", *arguments])
        with pytest.raises(UserError) as caught:
            dvc.main()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "dvc.yaml").exists()


@pytest.mark.parametrize("folder", ["-x", "a\nb", "a\tb", "a\x1b[0m", "a\u202eb"])
def test_a_folder_that_cannot_be_told_in_a_line(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="params"):
        load_plan("quickstart", Path(folder))


@pytest.mark.long
def test_params_in_a_folder_with_a_space(tmp_path: Path) -> None:
    project(tmp_path, "my params")
    made = snakemake(tmp_path, "results/data/shapes", "--config", "params=my params")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "results/data/shapes/manifest.json").is_file()


@pytest.mark.long
def test_both_engines_run_the_same_commands_and_none_of_a_value(tmp_path: Path) -> None:
    folder = FOLDERS[-1]
    project(tmp_path, folder)
    done = run(tmp_path, sys.executable, "-m", "workflow.dvc", "quickstart", "--params", folder)
    assert done.returncode == 0, done.stderr
    run(tmp_path, "dvc", "init", "--no-scm", "--quiet")
    plan = snakemake(
        tmp_path, "report", "--dry-run", "--printshellcmds", "--quiet", "host", "--config",
        f"params={folder}",
    )  # fmt: skip
    assert plan.returncode == 0, plan.stderr
    # A command of Snakemake stands in a line of its own, as bash gets it.
    printed = re.findall(r"^Shell command: (.*)$", plan.stdout + plan.stderr, flags=re.M)
    commands = [re.sub(r" 2>>? .*$", "", each) for each in printed if each != "None"]
    words = {tuple(shlex.split(each)) for each in commands}
    assert words == {tuple(shlex.split(each)) for each in engines.dvc_nodes(tmp_path)}
    assert len(words) == 15

    target = ("results/data/shapes", "results/imported/vit_test/official/seed0/backbone")
    made = snakemake(tmp_path, *target, "--keep-going", "--config", f"params={folder}")
    assert (tmp_path / "results/data/shapes/manifest.json").is_file(), made.stderr
    log = (tmp_path / "logs/imported/vit_test/official/seed0/backbone.log").read_text()
    assert f"data/{EVIL}.pth: no such file" in log
    assert made.returncode == 1
    shutil.rmtree(tmp_path / "results")
    made = run(
        tmp_path, "dvc", "repro", "prepare-shapes", "import-imported-vit_test-official-seed0"
    )
    assert (tmp_path / "results/data/shapes/manifest.json").is_file(), made.stderr
    assert f"data/{EVIL}.pth: no such file" in made.stdout + made.stderr
    assert not touched(tmp_path)


@pytest.mark.long
def test_a_data_root_of_any_name(tmp_path: Path) -> None:
    project(tmp_path)
    root = "da ta $(touch P9) 'q' \"d\" ;touch P8 {x} ü"
    made = snakemake(
        tmp_path, "results/imported/vit_test/official/seed0/backbone",
        "--config", f"data_root={root}",
    )  # fmt: skip
    assert made.returncode == 1
    log = (tmp_path / "logs/imported/vit_test/official/seed0/backbone.log").read_text()
    assert f"{root}/{EVIL}.pth: no such file" in log
    assert not touched(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", ["sh$(touch P1)apes", "my set", "../evil"])
def test_snakemake_refuses_such_a_dataset(name: str, tmp_path: Path) -> None:
    scenery = project(tmp_path)
    file = scenery.params / "experiments/quickstart.yaml"
    experiment = yaml.safe_load(file.read_text())
    scenery.write("experiments/quickstart.yaml", {**experiment, "dataset": name})
    shutil.copy(scenery.params / "datasets/shapes.yaml", scenery.params / f"datasets/{name}.yaml")
    done = snakemake(tmp_path, f"results/data/{name}")
    _one_line(done, "dataset: 'dataset' is")
    assert not touched(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("params=5", "--config params: 5 (int)"),
        ("data_root=5", "--config data_root: 5 (int)"),
        ("experiment=" + "a" * 300, "experiment: 'aaaa"),
        ("experiment=[1,2]", "--config experiment: ['1', '2'] (list)"),
        ("experiment=$(touch P1)", "experiment: '$(touch P1)'"),
        ("experment=quickstart", "unknown key 'experment'"),
    ],
)
def test_settings_of_snakemake_that_are_wrong(setting: str, said: str, tmp_path: Path) -> None:
    project(tmp_path)
    _one_line(snakemake(tmp_path, "report", "--config", setting), said)
    assert not touched(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: " + b"[" * 5000, "nested deeper"),
        (b"title: caf\xe9", "not text in UTF-8"),
        (b"", "nothing"),
    ],
)
def test_a_file_that_is_no_params_through_both_engines(
    content: bytes, said: str, tmp_path: Path
) -> None:
    scenery = project(tmp_path)
    (scenery.params / "recipes/test/mae.yaml").write_bytes(content)
    _one_line(snakemake(tmp_path, "report"), said)
    _one_line(run(tmp_path, sys.executable, "-m", "workflow.dvc", "quickstart"), said)


def _one_line(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert said in errors[0]


def test_a_locale_that_is_not_utf_8(tmp_path: Path) -> None:
    scenery = project(tmp_path)
    text = (scenery.params / "experiments/quickstart.yaml").read_text()
    assert "\\xFC" in text or "ü" in text
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = (sys.executable, "-m", "workflow.dvc", "quickstart")
    file = scenery.params / "experiments/quickstart.yaml"
    content = yaml.safe_load(text)
    file.write_bytes(yaml.safe_dump(content, allow_unicode=True).encode())
    done = run(tmp_path, *command, **ascii_only)
    assert done.returncode == 0, done.stderr
    assert "ü" in (tmp_path / "dvc.yaml").read_bytes().decode("utf-8")
    assert run(tmp_path, *command, "--check", **ascii_only).returncode == 0
