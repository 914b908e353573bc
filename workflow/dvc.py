"""Write dvc.yaml: the nodes of an experiment as stages, for `dvc repro`.

    python -m workflow.dvc quickstart

Commands and files are those of workflow/Snakefile; tests/pipeline/test_engines.py compares both. A
stage is named after its result, so that experiments share stages. Stages depend on the values in
params files, not on comments.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from steps.command import UserError, run_step
from steps.params.checks import load_plan
from steps.params.dag import Node, Tokenizer
from steps.params.paths import RESULTS, Paths, backbone, data, lengths
from steps.params.plan import ROOT, Plan
from workflow.made import check_names, check_starts, notices

FILE = Path("dvc.yaml")
PAGE = (
    *("README.md", "results.csv", "records.jsonl", "curves.csv", "report.json", "pictures.json"),
    *("decisions.parquet", "images.parquet", "pictures", "ranking.png", "curves.png"),
)
"""Files of a report. Git has them all, so DVC keeps none."""
_INPUTS = ("data", "knn", "backbone", "features", "teacher", "tokenizer", "init")


@dataclass(frozen=True)
class Stage:
    """A node: a step with its options, which name its inputs and outputs."""

    step: str
    options: Mapping[str, object]
    """Options as in the command. A Path is a params file, a string under ``_INPUTS`` an
    artifact."""
    further_deps: Sequence[str] = ()
    further_params: Sequence[Path] = ()
    """Params files that it reads and that are no options."""
    decisions: str | None = None
    """Decisions that it writes beside its record."""
    committed: Sequence[str] = ()
    """Outputs that git keeps, instead of ``--out``."""

    @property
    def params(self) -> list[str]:
        """Params files of the stage."""
        named = [value for value in self.options.values() if isinstance(value, Path)]
        return [str(path) for path in (*named, *self.further_params)]

    @property
    def inputs(self) -> dict[str, str]:
        """Artifacts that it reads, by role."""
        found = {role: self.options.get(f"--{role}") for role in _INPUTS}
        return {role: value for role, value in found.items() if isinstance(value, str)}

    @property
    def results(self) -> list[str]:
        """Artifacts and records that it writes."""
        if self.committed:
            return []
        made = [self.options.get("--out"), self.decisions, self.options.get("--pictures")]
        return [str(each) for each in made if each is not None]

    @property
    def name(self) -> str:
        """Step and path of the result, in characters that DVC allows in a name."""
        path = str(self.options["--out"]).removesuffix(".json").removeprefix(f"{RESULTS}/")
        top, *words = path.removesuffix("/backbone").removesuffix("/tokenizer").split("/")
        if top not in ("pretrained", "data", f"{self.step}s"):
            words = [top, *words]
        if self.step in words:
            words.remove(self.step)
        return re.sub(r"[^\w-]", "_", "-".join([self.step, *words]))

    @property
    def command(self) -> str:
        """Command line of the stage."""
        words = [str(word) for pair in self.options.items() for word in pair]
        return shlex.join(["python", "-m", f"steps.{self.step}", *words])

    def described(self) -> dict[str, Any]:
        """The stage in dvc.yaml's form."""
        outs: list[object] = [path for path in self.results if not path.endswith(".json")]
        fields = {
            "cmd": self.command,
            "deps": [*self.inputs.values(), *self.further_deps],
            "params": [{path: None} for path in self.params],
            "outs": [*outs, *({path: {"cache": False}} for path in self.committed)],
            "metrics": [path for path in self.results if path.endswith(".json")],
        }
        return {key: value for key, value in fields.items() if value}


class Stages:
    """Stages of a plan, in the order of the DAG."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.paths = Paths(plan.experiment)
        self.data = data(self.paths.dataset)

    def all(self) -> Iterator[Stage]:
        """Every stage."""
        plan, experiment = self.plan, self.plan.experiment
        for name in plan.dataset_names():
            yield Stage("prepare", {"--dataset": plan.dataset_file(name), "--out": data(name)})
        if experiment.budget is not None:
            # Stages run in the order of the file: before every pretraining.
            yield self._budget()
        for node in plan.needs:
            for seed in experiment.seeds:
                yield self._trained(node, seed)
        for network, name, seed in plan.rows():
            if name in experiment.imported:
                yield self._imported(network, name, seed)
            if name in plan.kept:
                yield self._kept(network, name, seed)
        for row, dataset in plan.extractions():
            yield self._task(self.paths.row(*row), "features", experiment.features, dataset)
        for row, task, protocol, dataset in plan.evaluations():
            yield self._task(self.paths.row(*row), task, protocol, dataset)
        drawn = [self._drawn(node) for node in plan.drawn()]
        yield from drawn
        yield self._page([stage.results[0] for stage in drawn])

    def _budget(self) -> Stage:
        plan = self.plan
        files = [plan.node_file(node) for node in plan.needs]
        files += [plan.backbone_file(name) for name in plan.backbones]
        options = {"--experiment": plan.file, "--data": self.data, "--out": lengths(plan.name)}
        return Stage("budget", options, further_params=list(dict.fromkeys(files)))

    def _trained(self, node: Node, seed: int) -> Stage:
        plan = self.plan
        behind = {f"--{other.role}": self.paths.artifact(other, seed) for other in plan.needs[node]}
        ends = {"--seed": seed, "--out": self.paths.artifact(node, seed)}
        if isinstance(node, Tokenizer):
            file = plan.tokenizer_file(node.name)
            given = _pairs(plan.tokenizer_options(node.name))
            options = {"--tokenizer": file, **given, "--data": self.data, **behind, **ends}
            return Stage("tokenizer", options)
        options = {
            "--recipe": plan.recipe_file(node.recipe),
            **_pairs(plan.recipe_options(node.recipe)),
            "--backbone": plan.backbone_file(node.backbone),
            "--data": self.data,
        }
        if (watched := plan.knn_set(node)) is not None:
            options["--knn"] = data(watched)
        start = self.paths.init(plan.recipes[node.recipe], node.backbone, seed)
        behind |= {f"--{role}": path for role, path in start.items()}
        return Stage("pretrain", {**options, **behind, **ends})

    def _imported(self, network: str, name: str, seed: int) -> Stage:
        options: dict[str, object] = {
            "--name": name,
            **_pairs(self.plan.experiment.imported[name].options),
            "--backbone": self.plan.backbone_file(network),
            "--seed": seed,
            "--out": backbone(self.paths.imported(network, name, seed)),
        }
        return Stage("import", options)

    def _kept(self, network: str, name: str, seed: int) -> Stage:
        kept = self.plan.kept[name]
        options: dict[str, object] = {
            "--backbone": backbone(self.paths.pretrained(network, kept.recipe, seed)),
            "--epoch": f"{kept.epoch:g}",
            "--out": backbone(self.paths.pretrained(network, name, seed)),
        }
        return Stage("kept", options)

    def _task(self, row: str, task: str, protocol: str, dataset: str) -> Stage:
        made = self.paths.outputs(row, task, protocol, dataset)
        decisions = made.pop("decisions", None)
        paths = self.paths.inputs(row, task, dataset) | made
        options = {f"--{role}": path for role, path in paths.items()}
        file = self.plan.protocol_file(protocol)
        return Stage(task, {"--protocol": file, **options}, decisions=decisions)

    def _drawn(self, node: Node) -> Stage:
        seed = self.plan.experiment.seeds[0]
        artifact, out = self.paths.artifact(node, seed), self.paths.drawn(node, seed)
        ends = {"--data": self.data, "--out": out}
        if isinstance(node, Tokenizer):
            return Stage("diagnose", {"--tokenizer": artifact, **ends})
        tokenizers = {
            f"--{other.role}": self.paths.artifact(other, seed)
            for other in self.plan.needs[node]
            if isinstance(other, Tokenizer)
        }
        return Stage("diagnose", {**tokenizers, "--backbone": artifact, **ends})

    def _page(self, drawn: Sequence[str]) -> Stage:
        plan, folder = self.plan, f"reports/{self.plan.name}"
        records = [
            path
            for row, *each in plan.evaluations()
            for role, path in self.paths.outputs(self.paths.row(*row), *each).items()
            if role != "pictures"
        ]
        backbones = [backbone(self.paths.row(*row)) for row in plan.rows()]
        return Stage(
            "report",
            {"--experiment": plan.file, "--results": RESULTS, "--out": folder},
            further_deps=[*backbones, *records, *drawn],
            committed=[f"{folder}/{name}" for name in PAGE],
        )


def _pairs(words: Sequence[str]) -> dict[str, object]:
    """Options with their values, from a flat list."""
    return dict(zip(words[::2], words[1::2], strict=True))


def dvc_yaml(plan: Plan) -> str:
    """Content of dvc.yaml.

    Raises:
        UserError: two stages would have one name.
    """
    stages: dict[str, Stage] = {}
    for stage in Stages(plan).all():
        if stage.name in stages:
            raise UserError(
                str(plan.file),
                f"two stages of dvc.yaml would be called {stage.name}",
                remedy="rename a recipe, protocol or dataset: only letters, digits, - and _ count",
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
        # DVC allows only these characters in names of artifacts.
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
    text = yaml.safe_dump(_literal(content), sort_keys=False, width=10**6, allow_unicode=True)
    asked = [] if plan.root == ROOT else ["--params", str(plan.root)]
    command = shlex.join(["python", "-m", "workflow.dvc", plan.name, *asked])
    return (
        f"# The nodes of {plan.file}, as workflow/Snakefile has them.\n# Made by: {command}\n{text}"
    )


def _literal(content: Any) -> Any:
    """Values with ${} escaped, which DVC would otherwise substitute."""
    if isinstance(content, dict):
        return {_literal(key): _literal(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_literal(value) for value in content]
    return content.replace("${", "\\${") if isinstance(content, str) else content


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workflow.dvc", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("experiment", help="params/experiments/<experiment>.yaml")
    parser.add_argument("--params", type=Path, default=ROOT, help="the params folder")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    options = parser.parse_args()
    plan = load_plan(options.experiment, options.params)
    check_names(plan)
    check_starts(plan)
    for line in notices(plan):
        print(f"note: {line}", file=sys.stderr)
    content = dvc_yaml(plan)
    if options.check:
        check(content, options.experiment)
        return
    with tempfile.NamedTemporaryFile("wb", dir=".", prefix=".dvc.yaml.", delete=False) as draft:
        draft.write(content.encode())
    Path(draft.name).chmod(0o644)
    Path(draft.name).replace(FILE)


def check(content: str, experiment: str) -> None:
    """Compare dvc.yaml with its experiment.

    Raises:
        UserError: the file is missing or differs.
    """
    found = FILE.read_bytes().decode("utf-8", "replace") if FILE.is_file() else ""
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
