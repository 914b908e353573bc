"""Find the lengths that a budget gives an experiment's runs, before any of them trains.

    python -m steps.budget --experiment params/experiments/quickstart.yaml \\
        --data results/data/shapes --out results/budgets/quickstart

FLOPs are counted as each run counts its own, with untrained networks in place of its teacher and
tokenizer, so that the lengths are those of the runs. Every run that the budget does not suit is
named.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from steps.artifacts import publish
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.data.loader import DatasetFacts, TrainingViews, dataset_facts
from steps.engine.budget import within_budget
from steps.methods import Method, backbone_for
from steps.models.backbones import create_backbone, with_channels
from steps.models.teacher import Renormalise, Teacher, pixels_of
from steps.params.backbone import Backbone
from steps.params.checks import load_plan
from steps.params.dag import Node, Pretraining, Tokenizer
from steps.params.plan import Plan
from steps.pretrain import build
from steps.tokenizer import build as build_for_tokenizer
from steps.tokenizers import FixedTokenizer, build_tokenizer

LENGTHS = "lengths.json"
"""File of the artifact."""


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experiment", type=Path, required=True, help="its params file")
    parser.add_argument("--data", type=Path, required=True, help="its prepared dataset")
    parser.add_argument("--out", type=place, required=True)
    arguments = parser.parse_args()
    check_places(arguments, "budget")
    file: Path = arguments.experiment
    # From the folder of the file itself, its params are above.
    plan = load_plan(file.stem, file.parent.parent if len(file.parts) > 1 else Path(".."))
    if plan.experiment.budget is None:
        raise UserError(
            str(file), "has no budget", allowed="an experiment within a budget", remedy="add one"
        )
    if (name := dataset_facts(arguments.data).name) != plan.experiment.dataset:
        raise UserError(
            f"--data {arguments.data}",
            f"'{name}', and {file} pretrains on '{plan.experiment.dataset}'",
            remedy="give that set",
        )
    lengths, refused = lengths_of(plan, arguments.data)
    if refused:
        # All of them, since one number may mend several.
        for error in refused[:-1]:
            print(f"error: {error}", file=sys.stderr)
        raise refused[-1]
    with publish(
        arguments.out,
        node="budget",
        params={"experiment": plan.experiment.resolved()},
        inputs={"data": arguments.data},
        sources={"experiment": file},
    ) as draft:
        draft.seconds_before = time.monotonic() - started
        (draft.path / LENGTHS).write_text(json.dumps(lengths, indent=1) + "\n", encoding="utf-8")


def lengths_of(plan: Plan, data: Path) -> tuple[dict[str, Any], list[UserError]]:
    """The lengths of the runs of a plan within their budgets.

    Args:
        plan: of an experiment within a budget.
        data: its prepared dataset.

    Returns:
        By run: ``length``, the factor on its recipe's epochs; ``epochs``; ``flops_per_image`` in
        each phase. And what is wrong with the others.
    """
    runs = Runs(plan, data)
    lengths: dict[str, Any] = {}
    refused = []
    for node in plan.needs:
        if plan.budget_of(node) is None:
            continue
        try:
            lengths[str(node)] = found = runs.length(node)
        except UserError as error:
            refused.append(error)
        else:
            logging.info("%s: %.4g epochs", node, found["epochs"])
    return lengths, refused


class Runs:
    """The runs of a plan before their first step, with the plan's first seed."""

    def __init__(self, plan: Plan, data: Path) -> None:
        self.plan, self.data = plan, data
        self.seed = plan.experiment.seeds[0]

    def length(self, node: Node) -> dict[str, Any]:
        """Length of a run within its budget, and FLOPs per image.

        Raises:
            UserError: as ``within_budget``.
        """
        budget, training = self.plan.budget_of(node), self.plan.params(node).training
        assert budget is not None
        assert training is not None
        # What is not trained here takes nothing, and leaves the run the whole budget.
        shared = any(self.plan.budget_of(other) for other in self.plan.needs[node])
        own = budget.amount * (1 - budget.behind) if shared else budget.amount
        where = str(self.plan.node_file(node))
        parts = self.tokenizer(node) if isinstance(node, Tokenizer) else self.pretraining(node)
        training, flops = within_budget(training, budget, own, *parts, where)
        epochs = training.length * training.epochs
        return {"length": training.length, "epochs": epochs, "flops_per_image": flops}

    def tokenizer(self, node: Tokenizer) -> tuple[Method, TrainingViews, DatasetFacts]:
        """The training of a tokenizer, its images and facts of them."""
        recipe = self.plan.tokenizers[node.name]
        assert recipe.training is not None
        facts = dataset_facts(self.data)
        facts = facts.normalised_by(*map(list, pixels_of(facts.channels)))
        teacher = self.behind(node, facts.channels)["teacher"]
        method, views = build_for_tokenizer(
            recipe, recipe.training, facts, self.data, self.seed, teacher
        )
        return method, views, facts

    def pretraining(self, node: Pretraining) -> tuple[Method, TrainingViews, DatasetFacts]:
        """The method of a pretraining, its images and facts of them."""
        recipe = self.plan.recipes[node.recipe]
        assert recipe.training is not None
        facts = dataset_facts(self.data, labels=recipe.method.name == "supervised")
        built = build(
            recipe,
            recipe.training,
            self.backbone(node, facts.channels),
            facts,
            self.data,
            seed=self.seed,
            where=str(self.plan.node_file(node)),
            **self.behind(node, facts.channels),
        )
        return built.method, built.views, built.facts

    def backbone(self, node: Pretraining, channels: int) -> Backbone:
        """The backbone of a pretraining, as its method needs it."""
        network = self.plan.backbones[node.backbone]
        return with_channels(backbone_for(self.plan.recipes[node.recipe].method, network), channels)

    def behind(self, node: Node, channels: int) -> dict[str, Any]:
        """Untrained networks in place of the teacher and the tokenizer of a run, by role."""
        # FLOPs do not depend on pixels, so that no image needs another normalisation.
        as_it_is = Renormalise(pixels_of(channels), pixels_of(channels))
        found: dict[str, Any] = {"teacher": None, "tokenizer": None}
        for other in self.plan.needs[node]:
            if isinstance(other, Tokenizer):
                params = self.plan.tokenizers[other.name].tokenizer
                found[other.role] = FixedTokenizer(build_tokenizer(params, channels), as_it_is)
            elif self.plan.recipes[other.recipe].training is None:
                network = create_backbone(self.backbone(other, channels))
                found[other.role] = Teacher(network, {}, as_it_is)
            else:
                method, *_ = self.pretraining(other)
                found[other.role] = Teacher(method.export_backbone(), method.heads(), as_it_is)
        return found


if __name__ == "__main__":
    run_step(main)
