"""Make a tokenizer: train it, or read it from official weights.

    python -m steps.tokenizer --tokenizer params/tokenizers/small/dalle.yaml \\
        --data results/data/shapes --seed 0 --out DIR

Like pretraining it runs under torchrun too, and a killed run goes on where it was. The result is a
folder that ``steps.tokenizers.load_tokenizer`` reads.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from steps.artifacts import identify, publish
from steps.artifacts.digest import digest_file
from steps.artifacts.named import check_named
from steps.artifacts.places import check_places
from steps.command import place, run_step
from steps.data.loader import DatasetFacts, EvaluationViews, TrainingViews, dataset_facts
from steps.engine.checkpoint import scratch
from steps.engine.devices import launch
from steps.engine.loop import Outcome, fit
from steps.engine.monitor import METRICS, TIMING
from steps.engine.seeds import seeded
from steps.models.normalisation import PIXELS
from steps.models.teacher import load_teacher
from steps.params.load import load, option
from steps.params.numbers import Seed
from steps.params.tokenizers.recipe import TokenizerRecipe
from steps.params.training import Training
from steps.tokenizers import Tokenizer, build_tokenizer, build_training, save_tokenizer
from steps.tokenizers.measure import Judge, measure, warn_if_collapsed
from steps.tokenizers.official import official_files, read_official


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="its params")
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset")
    parser.add_argument("--teacher", type=Path, help="the backbone that the params name, frozen")
    parser.add_argument("--seed", type=option(Seed), required=True)
    parser.add_argument("--checkpoint", type=Path, help="continue from this file of the same run")
    parser.add_argument("--out", type=place, required=True)
    arguments = parser.parse_args()
    check_places(arguments, "tokenizer")
    recipe = load(arguments.tokenizer, TokenizerRecipe)
    teacher = None if recipe.teacher is None else recipe.teacher.resolved()
    check_named("teacher", arguments.teacher, teacher, node="pretrain", where=arguments.tokenizer)
    facts = dataset_facts(arguments.data).normalised_by(*map(list, PIXELS))
    if recipe.training is None:
        read(recipe, facts, arguments, started)
    else:
        train(recipe, recipe.training, facts, arguments, started)


def read(
    recipe: TokenizerRecipe, facts: DatasetFacts, arguments: argparse.Namespace, started: float
) -> None:
    """Read official weights."""
    files = official_files(recipe)
    tokenizer = build_tokenizer(recipe.tokenizer)
    read_official(tokenizer, recipe.tokenizer.name, files)
    outcome = Outcome(epochs=0, images_seen=0, flops=0, device_seconds=0)
    with _publishing(recipe, arguments) as draft:
        draft.seconds_before = time.monotonic() - started
        draft.facts["official"] = {part: digest_file(path) for part, path in files.items()}
        _fill(draft, recipe, facts, arguments, tokenizer.eval(), outcome)


def train(
    recipe: TokenizerRecipe,
    training: Training,
    facts: DatasetFacts,
    arguments: argparse.Namespace,
    started: float,
) -> None:
    """Train, and publish from the first process."""
    teacher = None
    if arguments.teacher is not None:
        teacher = load_teacher(arguments.teacher, mean=facts.mean, std=facts.std)
    with seeded(arguments.seed, "init"):
        method = build_training(recipe.tokenizer, teacher)
    fabric = launch(training.precision, training.deterministic, training.strategy)
    identity = identify(
        "tokenizer",
        f"tokenizer {arguments.tokenizer.stem}, {facts.name}, seed {arguments.seed}",
        params={"recipe": recipe},
        files={"recipe": arguments.tokenizer},
        inputs=_inputs(arguments),
        seed=arguments.seed,
        out=arguments.out,
    )
    size = recipe.tokenizer.image_size
    with scratch(identity, started, owner=fabric.global_rank == 0) as place:
        fabric.barrier()
        outcome = fit(
            fabric,
            method,
            TrainingViews(arguments.data, training.views, size, arguments.seed),
            facts,
            training,
            depth=0,
            seed=arguments.seed,
            scratch=place,
            where=str(arguments.tokenizer),
            title=f"tokenizer {arguments.tokenizer.stem} seed {arguments.seed}",
            resume=place.load(arguments.checkpoint),
        )
        if fabric.global_rank == 0:
            method.eval()
            with _publishing(recipe, arguments) as draft:
                draft.seconds_before = place.seconds
                draft.facts.update(place.taken_up)
                for name in (METRICS, TIMING):
                    shutil.copyfile(place.folder / name, draft.path / name)
                draft.logs.add(TIMING)
                _fill(draft, recipe, facts, arguments, method.trained(), outcome, method.judge)


def _fill(
    draft: Any,
    recipe: TokenizerRecipe,
    facts: DatasetFacts,
    arguments: argparse.Namespace,
    tokenizer: Tokenizer,
    outcome: Outcome,
    judge: Judge | None = None,
) -> None:
    """Weights, and what the validation images say of them."""
    params, name = recipe.tokenizer, arguments.tokenizer.stem
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


def _publishing(recipe: TokenizerRecipe, arguments: argparse.Namespace) -> Any:
    return publish(
        arguments.out,
        node="tokenizer",
        params={"tokenizer": recipe.resolved()},
        inputs=_inputs(arguments),
        sources={"tokenizer": arguments.tokenizer},
        seed=arguments.seed,
    )


if __name__ == "__main__":
    run_step(main)
