"""Write dvc.yaml: the nodes of an experiment as stages, for `dvc repro`.

    python -m workflow.dvc quickstart

The commands and files are those of workflow/Snakefile; tests/pipeline/test_engines.py holds the two
equal. A stage's name says what its result is made of, so that stages that experiments share are the
same stage. Stages depend on the values in params files: a comment changes nothing.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from steps.command import UserError, run_step
from steps.params.chain import Node, Pretraining, Tokenizer
from steps.params.paths import RESULTS, Paths, backbone, data
from steps.params.plan import ROOT, Plan, experiment_file
from steps.params.tasks import FEATURE_TASKS
from workflow.made import check_names, notices

FILE = Path("dvc.yaml")
PAGE = (
    *("README.md", "results.csv", "records.jsonl", "curves.csv", "report.json", "pictures.json"),
    *("pictures", "ranking.png", "curves.png"),
)
"""What the report writes; all of it is committed, so DVC keeps none of it."""


@dataclass(frozen=True)
class Stage:
    """A node with its command: files in, files out."""

    step: str
    options: Sequence[object]
    deps: Sequence[str] = ()
    params: Sequence[Path] = ()
    outs: Sequence[str] = ()
    metrics: Sequence[str] = ()
    committed: Sequence[str] = field(default=())
    """Outputs that git keeps."""

    @property
    def name(self) -> str:
        """The step and the path of its result, in the characters that DVC allows in a name."""
        result = (*self.metrics, *self.outs, *self.committed)[0]
        path = result.removesuffix(".json").removeprefix(f"{RESULTS}/")
        path = path.removesuffix("/backbone").removesuffix("/tokenizer").removesuffix("/README.md")
        top, *words = path.split("/")
        if top not in ("pretrained", "data", f"{self.step}s"):
            words = [top, *words]
        if self.step in words:
            words.remove(self.step)
        return re.sub(r"[^\w-]", "_", "-".join([self.step, *words]))

    def described(self) -> dict[str, Any]:
        """As dvc.yaml has it."""
        command = shlex.join(["python", "-m", f"steps.{self.step}", *map(str, self.options)])
        outs = [*self.outs, *({path: {"cache": False}} for path in self.committed)]
        fields = {
            "cmd": command,
            "deps": list(self.deps),
            "params": [{str(path): None} for path in self.params],
            "outs": outs,
            "metrics": list(self.metrics),
        }
        return {key: value for key, value in fields.items() if value}


class Stages:
    """The stages of a plan, in the order of the DAG."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.paths = Paths(plan.experiment)

    def all(self) -> Iterator[Stage]:
        """Every stage."""
        for name in self.plan.dataset_names():
            file, out = self.plan.dataset_file(name), data(name)
            options = ("--dataset", file, "--out", out)
            yield Stage("prepare", options, params=[file], outs=[out])
        for node in self.plan.needs:
            for seed in self.plan.experiment.seeds:
                if isinstance(node, Tokenizer):
                    yield self._tokenizer(node, seed)
                else:
                    yield self._pretrain(node, seed)
        for row in self.plan.rows():
            if row[1] in self.plan.experiment.imported:
                yield self._import(*row)
        if any(task in self.plan.tasks() for task in FEATURE_TASKS):
            for row in self.plan.rows():
                yield self._features(self.paths.row(*row))
        for task, protocol in self.plan.experiment.evaluations():
            for row in self.plan.rows(task):
                yield self._task(self.paths.row(*row), task, protocol)
        drawn = list(self._drawn())
        yield from drawn
        yield self._page([stage.outs[0] for stage in drawn])

    def _pretrain(self, node: Pretraining, seed: int) -> Stage:
        recipe, network = self.plan.recipe_file(node.recipe), self.plan.backbone_file(node.backbone)
        behind, options = self._behind(node, seed)
        dataset, out = data(self.paths.dataset), self._artifact(node, seed)
        return Stage(
            "pretrain",
            [
                *("--recipe", recipe, *self.plan.recipe_options(node.recipe)),
                *("--backbone", network, "--data", dataset, *options),
                *("--seed", seed, "--out", out),
            ],
            deps=[dataset, *behind],
            params=[recipe, network],
            outs=[out],
        )

    def _tokenizer(self, node: Tokenizer, seed: int) -> Stage:
        file, dataset = self.plan.tokenizer_file(node.name), data(self.paths.dataset)
        behind, options = self._behind(node, seed)
        out = self._artifact(node, seed)
        return Stage(
            "tokenizer",
            ["--tokenizer", file, "--data", dataset, *options, "--seed", seed, "--out", out],
            deps=[dataset, *behind],
            params=[file],
            outs=[out],
        )

    def _import(self, network: str, name: str, seed: int) -> Stage:
        file = self.plan.backbone_file(network)
        out = backbone(self.paths.imported(network, name, seed))
        options = self.plan.experiment.imported[name].options
        given = ["--name", name, *options, "--backbone", file, "--seed", seed, "--out", out]
        return Stage("import", given, params=[file], outs=[out])

    def _features(self, row: str) -> Stage:
        out, file = self.paths.features(row), self.plan.protocol_file(self.plan.experiment.features)
        network, dataset = backbone(row), data(self.paths.dataset)
        options = ("--protocol", file, "--backbone", network, "--data", dataset, "--out", out)
        return Stage("features", options, deps=[network, dataset], params=[file], outs=[out])

    def _task(self, row: str, task: str, protocol: str) -> Stage:
        file, network = self.plan.protocol_file(protocol), backbone(row)
        options: list[object] = ["--protocol", file, "--backbone", network]
        deps = [network]
        if task in FEATURE_TASKS:
            deps.append(self.paths.features(row))
            options += ["--features", deps[-1]]
        if task != "knn":
            deps.append(data(self.paths.evaluated_on(task)))
            options += ["--data", deps[-1]]
        out, pictures = (
            self.paths.record(row, task, protocol),
            self.paths.pictures(row, task, protocol),
        )
        options += ["--out", out]
        if pictures is not None:
            options += ["--pictures", pictures]
        outs = [] if pictures is None else [pictures]
        return Stage(task, options, deps=deps, params=[file], outs=outs, metrics=[out])

    def _drawn(self) -> Iterator[Stage]:
        """Pictures for the page, of the first seed."""
        seed, dataset = self.plan.experiment.seeds[0], data(self.paths.dataset)
        tokenizers = []
        for node in self.plan.drawn():
            behind = [other for other in self.plan.needs[node] if isinstance(other, Tokenizer)]
            tokenizers += [other for other in behind if other not in tokenizers]
            row = self.paths.pretrained(node.backbone, node.recipe, seed)
            deps, out = [backbone(row)], self.paths.diagnosis(row)
            options = ["--backbone", backbone(row), "--data", dataset, "--out", out]
            for other in behind:
                deps.append(self._artifact(other, seed))
                options = ["--tokenizer", deps[-1], *options]
            yield Stage("diagnose", options, deps=[*deps, dataset], outs=[out])
        for other in tokenizers:
            artifact = self._artifact(other, seed)
            out = self.paths.tokenizer_diagnosis(other.name, seed)
            options = ["--tokenizer", artifact, "--data", dataset, "--out", out]
            yield Stage("diagnose", options, deps=[artifact, dataset], outs=[out])

    def _page(self, drawn: Iterable[str]) -> Stage:
        plan, folder = self.plan, f"reports/{self.plan.name}"
        file = experiment_file(plan.name, plan.root)
        records = [
            self.paths.record(self.paths.row(*row), task, protocol)
            for task, protocol in plan.experiment.evaluations()
            for row in plan.rows(task)
        ]
        return Stage(
            "report",
            ["--experiment", file, "--results", RESULTS, "--out", folder],
            deps=[*(backbone(self.paths.row(*row)) for row in plan.rows()), *records, *drawn],
            params=[file],
            committed=[f"{folder}/{name}" for name in PAGE],
        )

    def _artifact(self, node: Node, seed: int) -> str:
        if isinstance(node, Tokenizer):
            return self.paths.tokenizer(node.name, seed)
        return backbone(self.paths.pretrained(node.backbone, node.recipe, seed))

    def _behind(self, node: Node, seed: int) -> tuple[list[str], list[str]]:
        """The artifacts that a node stands on, and the options that give them."""
        found = {other.role: self._artifact(other, seed) for other in self.plan.needs[node]}
        return list(found.values()), [
            word for role, path in found.items() for word in (f"--{role}", path)
        ]


def dvc_yaml(plan: Plan) -> str:
    """The content of dvc.yaml.

    Raises:
        UserError: two stages would have one name.
    """
    file = experiment_file(plan.name, plan.root)
    stages: dict[str, Stage] = {}
    for stage in Stages(plan).all():
        if stage.name in stages:
            raise UserError(
                str(file),
                f"two stages of dvc.yaml would be called {stage.name}",
                remedy="call a recipe, protocol or dataset otherwise: names may differ in letters, "
                "digits, - and _ alone",
            )
        stages[stage.name] = stage
    content: dict[str, Any] = {
        "stages": {name: stage.described() for name, stage in stages.items()},
        "plots": [
            {
                "Pretraining loss": {
                    "template": "linear",
                    "x": "step",
                    "y": {f"reports/{plan.name}/curves.csv": "loss"},
                }
            }
        ],
    }
    artifacts = {
        # DVC's names of artifacts have no more characters than these.
        re.sub("[^a-z0-9]+", "-", f"backbone-{network}-{recipe}".lower()): {
            "path": backbone(Paths(plan.experiment).pretrained(network, recipe, seed)),
            "type": "model",
            "desc": f"{recipe} on {network}: timm.create_model('local-dir:…', pretrained=True)",
            "labels": ["timm"],
        }
        for network, recipe, seed in plan.rows()
        if recipe in plan.recipes and plan.recipes[recipe].training is not None
        if seed == plan.experiment.seeds[0]
    }
    if artifacts:
        content["artifacts"] = artifacts
    text = yaml.safe_dump(content, sort_keys=False, width=10**6, allow_unicode=True)
    # DVC fills in what stands in ${}; a name of ours that has it means it as it is.
    text = text.replace("${", "\\${")
    asked = [] if plan.root == ROOT else ["--params", str(plan.root)]
    command = shlex.join(["python", "-m", "workflow.dvc", plan.name, *asked])
    return f"# The nodes of {file}, as workflow/Snakefile has them.\n# Made by: {command}\n{text}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workflow.dvc", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("experiment", help="params/experiments/<experiment>.yaml")
    parser.add_argument("--params", type=Path, default=ROOT, help="the params folder")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args()
    plan = Plan(options.experiment, options.params)
    check_names(plan)
    for line in notices(plan):
        print(f"note: {line}", file=sys.stderr)
    content = dvc_yaml(plan)
    if options.check:
        check(content, options.experiment)
        return
    with tempfile.NamedTemporaryFile("w", dir=".", prefix=".dvc.yaml.", delete=False) as draft:
        draft.write(content)
    Path(draft.name).chmod(0o644)
    Path(draft.name).replace(FILE)


def check(content: str, experiment: str) -> None:
    """Hold dvc.yaml to what the experiment gives.

    Raises:
        UserError: it is missing or differs.
    """
    found = FILE.read_text() if FILE.is_file() else ""
    if found != content:
        lines = zip(found.splitlines(), content.splitlines(), strict=False)
        number = next((index for index, (a, b) in enumerate(lines, 1) if a != b), None)
        raise UserError(
            str(FILE),
            "missing"
            if not found
            else f"is not what experiment {experiment} gives"
            + (f", first in line {number}" if number else ""),
            remedy=f"python -m workflow.dvc {experiment}",
        )


if __name__ == "__main__":
    run_step(main)
