"""Compare an experiment's plan with existing results before an engine starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.artifacts.manifest import MANIFEST
from steps.command import UserError
from steps.params.dag import Node, Tokenizer
from steps.params.paths import RESULTS, Paths, backbone, data
from steps.params.plan import Plan
from workflow.scratch import scratch_folders


@dataclass(frozen=True)
class Asked:
    """A result in a plan, with its params by role as its manifest will have them."""

    path: Path
    params: dict[str, Any]
    sources: dict[str, Path]


def asked(plan: Plan) -> Iterator[Asked]:
    """Every result of a plan that params files define, inputs first."""
    paths = Paths(plan.experiment)
    for name, dataset in plan.datasets.items():
        yield Asked(Path(data(name)), dataset.resolved(), {"dataset": plan.dataset_file(name)})
    for node in plan.needs:
        for seed in plan.experiment.seeds:
            if isinstance(node, Tokenizer):
                params = {"tokenizer": plan.tokenizers[node.name].resolved(), **_within(plan, node)}
                sources = {"tokenizer": plan.tokenizer_file(node.name)}
                yield Asked(Path(paths.tokenizer(node.name, seed)), params, sources)
                continue
            row = paths.pretrained(node.backbone, node.recipe, seed)
            recipe, network = plan.recipes[node.recipe], plan.backbones[node.backbone]
            params = {
                "recipe": recipe.resolved(),
                "backbone": network.resolved(),
                **_within(plan, node),
            }
            sources = {
                "recipe": plan.recipe_file(node.recipe),
                "backbone": plan.backbone_file(node.backbone),
            }
            yield Asked(Path(backbone(row)), params, sources)
    for each, dataset in plan.extractions():
        features = paths.features(paths.row(*each), dataset)
        yield _by_protocol(plan, features, plan.experiment.features)
    for each, task, protocol, dataset in plan.evaluations():
        record = paths.record(paths.row(*each), task, protocol, dataset)
        yield _by_protocol(plan, record, protocol)


def _within(plan: Plan, node: Node) -> dict[str, Any]:
    """Budget of a pretraining or a tokenizer in a manifest's form; empty without one."""
    budget = plan.budget_of(node)
    return {} if budget is None else {"budget": budget.resolved()}


def _by_protocol(plan: Plan, path: str, protocol: str) -> Asked:
    params = plan.protocols[protocol].resolved()
    return Asked(Path(path), params, {"protocol": plan.protocol_file(protocol)})


_GROUPS = ("params", "facts")
"""Mappings in every manifest."""


def manifest_of(path: Path) -> dict[str, Any] | None:
    """Manifest of an artifact or a record file; None if there is none."""
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_bytes())["manifest"]
        else:
            found = json.loads((path / MANIFEST).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = isinstance(found, dict) and all(isinstance(found.get(key), dict) for key in _GROUPS)
    return found if whole else None


def check_names(plan: Plan) -> None:
    """Refuse results that other params files made under the same name.

    An edited params file is still the same file; engines make its results again.

    Raises:
        UserError: naming both files.
    """
    for each in asked(plan):
        made = manifest_of(each.path)
        if made is None or made["params"] == each.params:
            continue
        for role, file in each.sources.items():
            other = Path(made.get("sources", {}).get(role, file))
            if other.resolve() != file.resolve() and other.is_file():
                raise UserError(
                    str(each.path),
                    f"made by {other}, and {file} asks for other params under the same name",
                    allowed="one content per name",
                    remedy=f"rename one of the two files, or remove {each.path}",
                )
    paths, where = Paths(plan.experiment), plan.file
    for network, name, seed in plan.rows():
        if (checkpoint := plan.experiment.imported.get(name)) is None:
            continue
        artifact = Path(backbone(paths.imported(network, name, seed)))
        facts = (manifest_of(artifact) or {}).get("facts", {})
        changed = [
            f"{key} {facts['asked'].get(key)} there, {value} here"
            for key, value in checkpoint.asked.items()
            if "asked" in facts and facts["asked"].get(key) != value
        ]
        if changed:
            raise UserError(
                f"{where}: imported.name",
                f"'{name}' is another checkpoint than the one in {artifact}: {', '.join(changed)}",
                allowed="one checkpoint per name",
                remedy=f"rename it, or remove {artifact.parents[1]}",
            )


def check_starts(plan: Plan) -> None:
    """Refuse weights to start from that are neither there nor made by the plan itself.

    Raises:
        UserError: naming the recipe and the path.
    """
    paths = Paths(plan.experiment)
    made = {Path(backbone(paths.row(*row))) for row in plan.rows()}
    made |= {each.path for each in asked(plan)}
    for node in plan.needs:
        init = None if isinstance(node, Tokenizer) else plan.recipes[node.recipe].init
        if init is None or init.path is None:
            continue
        if not Path(init.path).exists() and Path(init.path) not in made:
            (key,) = (key for key, value in init.resolved().items() if value is not None)
            raise UserError(
                f"{plan.node_file(node)}: init.{key}",
                f"no {init.path}",
                allowed="a path from the folder of this command, or an absolute one",
                remedy="correct it, or put the weights there",
            )


def notices(plan: Plan) -> Iterator[str]:
    """Lines for the user about checkpoints that no engine resumes from."""
    waiting = {str(each.path) for each in asked(plan) if manifest_of(each.path) is None}
    for left in scratch_folders():
        if left.out in waiting and left.changed:
            yield (
                f"{left.subject}: starts again, since {', '.join(left.changed)} changed after the "
                f"checkpoint of step {left.step}. To continue from there: "
                f"python -m workflow.scratch --take-up {left.folder}"
            )
    old = Path(RESULTS, plan.name)
    if any(old.glob("*/*/seed*/backbone")):
        yield (
            f"{old}: results of an earlier version, under other paths; to move those that are "
            f"still valid: python -m workflow.migrate {plan.name}"
        )
