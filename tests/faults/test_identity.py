"""Changes after which a killed run goes on or starts anew, and what is said of its checkpoint."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from steps.artifacts import read_manifest, verify
from steps.artifacts.identity import code_of
from steps.artifacts.scratch import progress
from tests.faults.test_resume import kill_at
from tests.processes import REPOSITORY, command, environment
from tests.scenery import Scenery


class Checkout:
    """A copy of the code that a test may edit, and a pretraining that was killed."""

    def __init__(self, scenery: Scenery) -> None:
        self.scenery, self.root = scenery, scenery.root
        self.code = scenery.root / "code"
        for name in ("steps", "workflow"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / name, self.code / name, ignore=ignored)
        self.data = scenery.images(train=64)
        self.recipe = scenery.recipe("mae", epochs=10, workers=0)  # 80 steps
        self.paths = [self.code]

    def arguments(self, out: str) -> list[str]:
        return self.scenery.pretrain_arguments(self.recipe, self.data, self.root / out)

    def run(self, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(module, *arguments),
            cwd=self.root,
            env=self.environment(),
            capture_output=True,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        return environment(PYTHONPATH=":".join(map(str, self.paths)))

    def pretrain(self, out: str) -> str:
        done = self.run("steps.pretrain", *self.arguments(out))
        assert done.returncode == 0, done.stderr
        return done.stderr

    def kill(self, out: str) -> Path:
        """Kill a pretraining in the middle; its scratch folder."""
        kill_at(self.scenery, self.arguments(out), 20, env=self.environment())
        (folder,) = self.root.glob(".scratch/*")
        assert progress(folder)["step"] > 0
        return folder

    def edit(self, module: str, old: str, new: str) -> None:
        file = self.code / "steps" / module
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))

    def library(self, name: str, version: str) -> None:
        """Another version of a library, as far as its metadata say."""
        folder = self.root / "libraries" / f"{name}-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        self.paths.append(folder.parent)


@pytest.fixture
def checkout(scenery: Scenery) -> Checkout:
    return Checkout(scenery)


@pytest.mark.slow
def test_comments_and_docstrings_stop_no_run(checkout: Checkout) -> None:
    checkout.pretrain("whole")
    checkout.kill("resumed")
    checkout.edit("reporting/markdown.py", '"""', '"""Edited.\n\nAnd longer. ')
    checkout.edit("data/loader.py", '"""', '"""Edited.\n\nAnd longer. ')
    checkout.edit("data/views.py", "\ndef ", "\n# A comment.\ndef ")
    checkout.edit("reporting/tables.py", "\nfrom ", "\nimport this\nfrom ")  # of another step
    assert "starts anew" not in checkout.pretrain("resumed")
    whole, resumed = (verify(checkout.root / name) for name in ("whole", "resumed"))
    assert resumed.digest == whole.digest
    metrics = [(checkout.root / name / "metrics.jsonl") for name in ("whole", "resumed")]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    assert "code_changed" not in resumed.facts
    assert not list(checkout.root.glob(".scratch/*"))
    # Of the whole run: at least what the steps took, those of the killed process included.
    assert resumed.wall_seconds > resumed.facts["device_seconds"] > 0
    assert whole.wall_seconds > whole.facts["device_seconds"] > 0


@pytest.mark.slow
def test_another_library_starts_anew_and_names_the_checkpoint(checkout: Checkout) -> None:
    checkout.pretrain("whole")
    old = checkout.kill("out")
    checkout.library("torchvision", "9.9")
    said = checkout.pretrain("out")
    (line,) = [line for line in said.splitlines() if "starts anew" in line]
    began = "warning: mae on vit_test, noise, seed 0: starts anew and leaves the checkpoint"
    assert line.startswith(began)
    assert f"in {old.relative_to(checkout.root)} behind, since code (torchvision " in line
    assert " to 9.9) changed" in line
    assert f"python -m workflow.scratch --take-up {old.relative_to(checkout.root)}" in line
    assert verify(checkout.root / "out").digest == verify(checkout.root / "whole").digest
    assert old.is_dir()
    # The result is there, so nothing takes it up any more.
    listed = checkout.run("workflow.scratch").stdout
    assert "pretrain mae on vit_test, noise, seed 0: step " in listed
    assert "out was made since (--sweep removes it)" in listed
    assert checkout.run("workflow.scratch", "--sweep").stdout.startswith(
        "removed .scratch/pretrain"
    )
    assert not old.exists()


@pytest.mark.slow
def test_a_checkpoint_of_other_code_is_taken_up_on_request(checkout: Checkout) -> None:
    checkout.pretrain("whole")
    old = checkout.kill("out")
    checkout.edit("engine/loop.py", "import math\n", "import math\nimport math as mathematics\n")
    name = old.relative_to(checkout.root)
    step = progress(old)["step"]
    assert f"of other code (steps.engine.loop changed): --take-up {name}" in (
        checkout.run("workflow.scratch").stdout
    )
    done = checkout.run("workflow.scratch", "--take-up", name)
    assert done.returncode == 0, done.stderr
    assert f"the next run goes on at step {step}" in done.stdout
    again = checkout.run("workflow.scratch", "--take-up", name)
    assert again.returncode == 2
    assert again.stderr.startswith(f"error: {name}: no such scratch folder")
    assert "starts anew" not in checkout.pretrain("out")
    resumed = verify(checkout.root / "out")
    assert resumed.digest == verify(checkout.root / "whole").digest
    assert resumed.facts["code_changed"] == [{"step": step, "changed": ["steps.engine.loop"]}]


@pytest.mark.long
@pytest.mark.slow
def test_a_checkpoint_of_other_params_is_not(checkout: Checkout) -> None:
    old = checkout.kill("out").relative_to(checkout.root)
    recipe = checkout.recipe.read_text()
    checkout.recipe.write_text(recipe.replace("mask_ratio: 0.75", "mask_ratio: 0.5"))
    listed = checkout.run("workflow.scratch").stdout
    assert "params of recipe (method.mask_ratio) changed (--sweep removes it)" in listed
    done = checkout.run("workflow.scratch", "--take-up", old)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {old}: a checkpoint of other params, inputs or seed: params of")
    checkpoint = checkout.root / old / "checkpoint.pt"
    done = checkout.run("steps.pretrain", *checkout.arguments("out"), "--checkpoint", checkpoint)
    assert done.returncode == 2
    assert "params of recipe (method.mask_ratio) differ" in done.stderr.splitlines()[-1]
    said = checkout.pretrain("out")
    assert "since params of recipe (method.mask_ratio) changed" in said
    assert "--take-up" not in said
    # How devices share the work is no other run.
    checkout.recipe.write_text(recipe.replace("max_batch_per_device: 8", "max_batch_per_device: 4"))
    shutil.rmtree(checkout.root / "out")
    assert "starts anew" not in checkout.pretrain("out")


def test_a_step_is_its_imports() -> None:
    """The key holds the modules that a process of the step has imported, or may import later."""
    probe = (
        "import importlib, json, sys; importlib.import_module('steps.{node}');"
        "print(json.dumps([name for name in sys.modules if name.split('.')[0] == 'steps']))"
    )
    for node in ("pretrain", "finetune"):
        done = subprocess.run(
            [*command("x")[:1], "-c", probe.format(node=node)],
            cwd=REPOSITORY,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        code = code_of(node)
        assert set(json.loads(done.stdout)) <= set(code.modules)
        assert not any(name.startswith("steps.reporting") for name in code.modules)
        assert {"torch", "torchvision", "timm", "numpy"} <= set(code.libraries)
    assert "onedl-mmdetection" not in code_of("pretrain").libraries
    # Imported where it is used, so that a mistake in params shows before mmdet is loaded.
    assert {"onedl-mmcv", "onedl-mmdetection"} <= set(code_of("detect").libraries)


def test_only_an_untrained_row_takes_no_time(scenery: Scenery) -> None:
    recipe, data = scenery.params / "recipes/test/random.yaml", scenery.images()
    out = scenery.root / "out"
    subprocess.run(
        command("steps.pretrain", *scenery.pretrain_arguments(recipe, data, out)),
        cwd=scenery.root,
        env=environment(),
        check=True,
    )
    manifest = read_manifest(out)
    assert manifest.facts["device_seconds"] == 0
    assert manifest.wall_seconds > 0
    assert manifest.sources == {"recipe": str(recipe), "backbone": str(scenery.backbone)}
