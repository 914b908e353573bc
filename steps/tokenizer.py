"""Make a tokenizer: train it, or read it from official weights.

    python -m steps.tokenizer --tokenizer params/tokenizers/small/dalle.yaml \\
        --data results/data/shapes --seed 0 --out DIR

``--budget-tflops 12`` gives its length, as in pretraining.

Like pretraining it runs under torchrun too, and a killed run goes on where it was. The result is a
folder that ``steps.tokenizers.load_tokenizer`` reads.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steps.artifacts import identify, publish
from steps.artifacts.manifest import check_named, digest_file
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.core.seeds import seeded
from steps.data.loader import DatasetFacts, EvaluationViews, TrainingViews, dataset_facts
from steps.engine.budget import check_length, facts_within, named_teacher, own_share, within_budget
from steps.engine.checkpoint import scratch
from steps.engine.devices import launch
from steps.engine.loop import Outcome, fit
from steps.engine.watch import METRICS, TIMING
from steps.models.teacher import PIXELS, load_teacher
from steps.params.base import Params, Seed
from steps.params.budget import Budget, add_options, asked_for
from steps.params.load import load, option
from steps.params.recipe import ScaledRecipe, Training
from steps.params.tokenizers import TokenizerRecipe
from steps.tokenizers import Tokenizer, build_tokenizer, build_training, save_tokenizer
from steps.tokenizers.measure import Judge, measure, warn_if_collapsed
from steps.tokenizers.official import official_files, read_official


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="its params")
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset")
    parser.add_argument("--teacher", type=Path, help="the backbone that the params name, frozen")
    add_options(parser)
    parser.add_argument("--seed", type=option(Seed), required=True)
    parser.add_argument("--checkpoint", type=Path, help="continue from this file of the same run")
    parser.add_argument("--out", type=place, required=True)
    arguments = parser.parse_args()
    check_places(arguments, "tokenizer")
    recipe = load(arguments.tokenizer, TokenizerRecipe)
    budget = asked_for(arguments)
    teacher = named_teacher(recipe.teacher, arguments.teacher, budget)
    check_named("teacher", arguments.teacher, teacher, node="pretrain", where=arguments.tokenizer)
    facts = dataset_facts(arguments.data).normalised_by(*map(list, PIXELS))
    if recipe.training is None:
        if budget is not None:
            raise UserError(
                str(arguments.tokenizer),
                f"is read from official weights, which take nothing of {budget}",
                remedy="leave the budget out",
            )
        read(recipe, facts, arguments, started)
    else:
        if budget is not None:
            check_length(arguments.tokenizer, recipe.training, None)
        train(recipe, recipe.training, facts, budget, arguments, started)


def read(
    recipe: TokenizerRecipe, facts: DatasetFacts, arguments: argparse.Namespace, started: float
) -> None:
    """Read official weights."""
    files = official_files(recipe)
    tokenizer = build_tokenizer(recipe.tokenizer)
    read_official(tokenizer, recipe.tokenizer.name, files)
    outcome = Outcome(epochs=0, images_seen=0, flops=0, device_seconds=0)
    with _publishing({"tokenizer": recipe}, arguments) as draft:
        draft.seconds_before = time.monotonic() - started
        draft.facts["official"] = {part: digest_file(path) for part, path in files.items()}
        name = str(arguments.tokenizer.stem)
        _fill(draft, recipe, name, facts, arguments, tokenizer.eval(), outcome)


def train(
    recipe: TokenizerRecipe,
    training: Training,
    facts: DatasetFacts,
    budget: Budget | None,
    arguments: argparse.Namespace,
    started: float,
) -> None:
    """Train, and publish from the first process."""
    teacher = None
    if arguments.teacher is not None:
        teacher = load_teacher(arguments.teacher, mean=facts.mean, std=facts.std)
    with seeded(arguments.seed, "init"):
        method = build_training(recipe.tokenizer, teacher)
    size = recipe.tokenizer.image_size
    views = TrainingViews(arguments.data, training.views, size, arguments.seed)
    asked: dict[str, Params] = {"tokenizer": recipe}
    name, about, flops = str(arguments.tokenizer.stem), {}, None
    if budget is not None:
        asked["budget"], name = budget, ScaledRecipe(name, budget=budget).name
        behind = {role: path for role, path in _inputs(arguments).items() if role != "data"}
        own, where = own_share(budget, behind), str(arguments.tokenizer)
        training, flops = within_budget(training, budget, own, method, views, facts, where)
        about = facts_within(training, behind.values())
    fabric = launch(training.precision, training.deterministic, training.strategy)
    identity = identify(
        "tokenizer",
        f"tokenizer {name}, {facts.name}, seed {arguments.seed}",
        # Checkpoints of before have it under this role.
        params={"recipe": recipe, **({} if budget is None else {"budget": budget})},
        files={"recipe": arguments.tokenizer},
        inputs=_inputs(arguments),
        seed=arguments.seed,
        out=arguments.out,
    )
    with scratch(identity, started, owner=fabric.global_rank == 0) as place:
        fabric.barrier()
        outcome = fit(
            fabric,
            method,
            views,
            facts,
            training,
            depth=0,
            seed=arguments.seed,
            scratch=place,
            where=str(arguments.tokenizer),
            title=f"tokenizer {name} seed {arguments.seed}",
            flops=flops,
            resume=place.load(arguments.checkpoint),
        )
        if fabric.global_rank == 0:
            method.eval()
            with _publishing(asked, arguments) as draft:
                draft.seconds_before = place.seconds
                draft.facts.update(place.taken_up, **about)
                for log in (METRICS, TIMING):
                    shutil.copyfile(place.folder / log, draft.path / log)
                draft.logs.add(TIMING)
                tokenizer = method.trained()
                _fill(draft, recipe, name, facts, arguments, tokenizer, outcome, method.judge)


def _fill(
    draft: Any,
    recipe: TokenizerRecipe,
    name: str,
    facts: DatasetFacts,
    arguments: argparse.Namespace,
    tokenizer: Tokenizer,
    outcome: Outcome,
    judge: Judge | None = None,
) -> None:
    """Weights, and what the validation images say of them."""
    params = recipe.tokenizer
    views = EvaluationViews(arguments.data, "val", params.image_size, 1.0)
    measured = measure(tokenizer, views, judge)
    warn_if_collapsed(measured, tokenizer.vocab_size, f"tokenizer {name}")
    save_tokenizer(tokenizer, params, draft.path)
    draft.facts.update(
        tokenizer=name,
        kind=params.name,
        vocab_size=tokenizer.vocab_size,
        token_pixels=tokenizer.token_pixels,
        pretrain_dataset=facts.name,
        measured=measured,
        **{**vars(outcome), "collapsed": measured["collapsed"]},
    )


def _inputs(arguments: argparse.Namespace) -> dict[str, Path]:
    """The input artifacts by role."""
    paths = {"data": arguments.data, "teacher": arguments.teacher}
    return {role: path for role, path in paths.items() if path is not None}


def _publishing(asked: Mapping[str, Params], arguments: argparse.Namespace) -> Any:
    return publish(
        arguments.out,
        node="tokenizer",
        params={role: each.resolved() for role, each in asked.items()},
        inputs=_inputs(arguments),
        sources={"tokenizer": arguments.tokenizer},
        seed=arguments.seed,
    )


if __name__ == "__main__":
    run_step(main)
