"""Make a tokenizer: train it, or read it from official weights.

    python -m steps.tokenizer --tokenizer params/tokenizers/small/dalle.yaml \\
        --data results/data/shapes --seed 0 --out DIR

``--budget-tflops 12`` gives the length of the run, as in pretraining.

As in pretraining, torchrun trains on all processes, and a killed run continues. The result is a
folder that ``steps.tokenizers.load_tokenizer`` reads.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from steps.artifacts import Draft
from steps.artifacts.manifest import check_named, digest_file
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.core.seeds import seeded
from steps.data.loader import DatasetFacts, EvaluationViews, TrainingViews, dataset_facts
from steps.engine.budget import check_length, named_teacher
from steps.engine.devices import launch
from steps.engine.loop import Outcome
from steps.engine.run import Run
from steps.models.teacher import Teacher, load_teacher, pixels_of
from steps.params.base import Params, Seed
from steps.params.budget import Budget, add_options, asked_for
from steps.params.channels import check_tokenizer
from steps.params.load import load, option
from steps.params.loggers import check_installed
from steps.params.recipe import ScaledRecipe, Training
from steps.params.tokenizers import TokenizerRecipe
from steps.tokenizers import (
    Tokenizer,
    TokenizerTraining,
    build_tokenizer,
    build_training,
    save_tokenizer,
)
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
    facts = dataset_facts(arguments.data)
    facts = facts.normalised_by(*map(list, pixels_of(facts.channels)))
    form = (facts.channels, facts.bits)
    check_tokenizer(str(arguments.tokenizer), recipe, form, facts.name)
    params: dict[str, Params] = {"tokenizer": recipe}
    run = Run(
        "tokenizer",
        params=params if budget is None else {**params, "budget": budget},
        files={"tokenizer": arguments.tokenizer},
        inputs={"data": arguments.data, "teacher": arguments.teacher},
        seed=arguments.seed,
        out=arguments.out,
        started=started,
    )
    if recipe.training is None:
        if budget is not None:
            raise UserError(
                str(arguments.tokenizer),
                f"is read from official weights, which take nothing of {budget}",
                remedy="leave the budget out",
            )
        read(run, recipe, facts)
    else:
        check_installed(f"{run.where}: training.loggers", recipe.training.loggers)
        if budget is not None:
            check_length(arguments.tokenizer, recipe.training, None)
        train(run, recipe, recipe.training, facts, budget, arguments.checkpoint)


def read(run: Run, recipe: TokenizerRecipe, facts: DatasetFacts) -> None:
    """Read official weights."""
    files = official_files(recipe)
    tokenizer = build_tokenizer(recipe.tokenizer)
    read_official(tokenizer, recipe.tokenizer.name, files)
    outcome = Outcome(epochs=0, images_seen=0, flops=0, device_seconds=0)
    with run.publish() as draft:
        draft.seconds_before = time.monotonic() - run.started
        draft.facts["official"] = {part: digest_file(path) for part, path in files.items()}
        draft.facts.update(vars(outcome))
        fill(draft, recipe, Path(run.where).stem, facts, run.given["data"], tokenizer.eval())


def build(
    recipe: TokenizerRecipe,
    training: Training,
    facts: DatasetFacts,
    data: Path,
    seed: int,
    teacher: Teacher | None,
) -> tuple[TokenizerTraining, TrainingViews]:
    """The training of a tokenizer, and its images.

    Args:
        recipe: it trains.
        training: the recipe's.
        facts: of the prepared set, normalised to pixels in 0 to 1.
        data: the prepared set.
        seed: of the run.
        teacher: the one that the recipe names, for images normalised as ``facts`` says.
    """
    with seeded(seed, "init"):
        method = build_training(recipe.tokenizer, teacher, facts.channels)
    return method, TrainingViews(data, training.views, recipe.tokenizer.image_size, seed)


def train(
    run: Run,
    recipe: TokenizerRecipe,
    training: Training,
    facts: DatasetFacts,
    budget: Budget | None,
    checkpoint: Path | None,
) -> None:
    """Train, and publish from the first process."""
    teacher, data = None, run.given["data"]
    if "teacher" in run.given:
        teacher = load_teacher(run.given["teacher"], mean=facts.mean, std=facts.std)
    method, views = build(recipe, training, facts, data, run.seed, teacher)
    name = Path(run.where).stem
    if budget is not None:
        name = ScaledRecipe(name, budget=budget).name
    training, flops, spent = run.within(budget, training, method, views, facts)
    fabric = launch(training.precision, training.deterministic, training.strategy)
    with run.train(
        fabric,
        method,
        views,
        facts,
        training,
        run.identity(f"tokenizer {name}, {facts.name}, seed {run.seed}"),
        depth=0,
        title=f"tokenizer {name} seed {run.seed}",
        checkpoint=checkpoint,
        about=spent,
        flops=flops,
    ) as draft:
        if draft is not None:
            method.eval()
            fill(draft, recipe, name, facts, data, method.trained(), method.judge)


def fill(
    draft: Draft,
    recipe: TokenizerRecipe,
    name: str,
    facts: DatasetFacts,
    data: Path,
    tokenizer: Tokenizer,
    judge: Judge | None = None,
) -> None:
    """Add the weights, and measures of the tokenizer on the validation images of ``data``."""
    params = recipe.tokenizer
    views = EvaluationViews(data, "val", params.image_size, 1.0)
    measured = measure(tokenizer, views, judge)
    warn_if_collapsed(measured, tokenizer.vocab_size, f"tokenizer {name}")
    save_tokenizer(tokenizer, params, draft.path, facts.channels)
    draft.facts.update(
        tokenizer=name,
        kind=params.name,
        vocab_size=tokenizer.vocab_size,
        token_pixels=tokenizer.token_pixels,
        pretrain_dataset=facts.name,
        measured=measured,
        collapsed=measured["collapsed"],
    )


if __name__ == "__main__":
    run_step(main)
