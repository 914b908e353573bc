"""Pretrain a backbone by a recipe.

    python -m steps.pretrain --recipe params/recipes/small/mae.yaml \\
        --backbone params/backbones/vit_pico.yaml --data results/data/shapes --seed 0 --out DIR

``--budget-tflops 36`` gives the length of the run in the place of the recipe's epochs: as long as
it takes 36 TFLOPs, teacher and tokenizer included.

Under torchrun it trains on all processes, at the same global batch. A killed run goes on where it
was when the same command is given again. The result is a folder that
``timm.create_model("local-dir:DIR", pretrained=True)`` loads.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steps.artifacts import identify, publish
from steps.artifacts.identity import subject
from steps.artifacts.manifest import check_named
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.core.seeds import seeded
from steps.data.loader import DatasetFacts, TrainingViews, check_two_classes, dataset_facts
from steps.data.shards import training_rows
from steps.data.text import TOKENIZER, Captions
from steps.engine.budget import (
    check_length,
    facts_within,
    named_teacher,
    named_within,
    own_share,
    within_budget,
)
from steps.engine.checkpoint import scratch
from steps.engine.devices import launch
from steps.engine.loop import Outcome, fit
from steps.engine.watch import METRICS, TIMING
from steps.evaluation.online import KNNWatch
from steps.methods import MethodContext, backbone_for, build_method, initialise_untrained
from steps.models.backbones import create_backbone, depth, save_backbone
from steps.models.teacher import load_teacher
from steps.params.backbone import Backbone
from steps.params.base import Params, Seed
from steps.params.budget import Budget, add_options, asked_for
from steps.params.load import load, option
from steps.params.methods import CLIPParams
from steps.params.recipe import Recipe, ScaledRecipe, Scaling, Training, check_backbone
from steps.params.views import sides
from steps.tokenizers import load_tokenizer


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset")
    parser.add_argument("--teacher", type=Path, help="the backbone that the recipe names, frozen")
    parser.add_argument("--tokenizer", type=Path, help="the tokenizer that the recipe names")
    parser.add_argument("--length", type=float, help="factor on the recipe's epochs")
    parser.add_argument("--data-share", type=float, help="share of the training images, up to 1")
    add_options(parser)
    parser.add_argument("--seed", type=option(Seed), required=True)
    parser.add_argument("--checkpoint", type=Path, help="continue from this file of the same run")
    parser.add_argument("--out", type=place, required=True)
    arguments = parser.parse_args()
    check_places(arguments, "pretrain")
    recipe = load(arguments.recipe, Recipe)
    backbone = load(arguments.backbone, Backbone)
    check_backbone(arguments.recipe, recipe, backbone, arguments.backbone.stem)
    budget = asked_for(arguments)
    check_inputs(recipe, budget, arguments)
    recipe, name = scaled(recipe, budget, arguments)
    supervised = recipe.method.name == "supervised"
    facts = dataset_facts(arguments.data, labels=supervised)
    if supervised:
        check_two_classes(arguments.data, facts.num_classes)
    pretrain(recipe, name, backbone, facts, budget, arguments, started)


def scaled(
    recipe: Recipe, budget: Budget | None, arguments: argparse.Namespace
) -> tuple[Recipe, str]:
    """The recipe as the options change it, and how tables call the row.

    Raises:
        UserError: it trains nothing, or an option is out of its range.
    """
    given, name = (arguments.length, arguments.data_share), str(arguments.recipe.stem)
    if given == (None, None) and budget is None:
        return recipe, name
    training = recipe.training
    if budget is not None:
        check_length(arguments.recipe, training, arguments.length)
    own = (1.0 if training is None else training.length, recipe.data_share)
    length, share = (
        default if value is None else value for value, default in zip(given, own, strict=True)
    )
    try:
        # Checked as the same two keys of a recipe are.
        Scaling(methods=[name], lengths=[length], data_shares=[share])
        return recipe.scaled(length, share), ScaledRecipe(name, length, share, budget).name
    except ValidationError as error:
        raise UserError(
            "--length, --data-share",
            f"{length:g} and {share:g}",
            allowed="a length above 0, a share above 0 and at most 1, of at most six digits",
        ) from error
    except ValueError as error:
        raise UserError(f"{arguments.recipe}: training", str(error)) from error


def check_inputs(recipe: Recipe, budget: Budget | None, arguments: argparse.Namespace) -> None:
    """Teacher and tokenizer are those that the recipe names, within the budget."""
    where: Path = arguments.recipe
    teacher = named_teacher(recipe.teacher, arguments.teacher, budget)
    check_named("teacher", arguments.teacher, teacher, node="pretrain", where=where)
    tokenizer = None
    if recipe.tokenizer is not None:
        tokenizer = {"tokenizer": named_within(recipe.tokenizer, arguments.tokenizer, budget)}
    check_named("tokenizer", arguments.tokenizer, tokenizer, node="tokenizer", where=where)


def method_context(
    training: Training,
    size: int,
    facts: DatasetFacts,
    arguments: argparse.Namespace,
    captions: Captions | None = None,
) -> MethodContext:
    """What the method may need besides its params and its backbone."""
    seen = {"mean": facts.mean, "std": facts.std}
    return MethodContext(
        views=sum(view.count for view in training.views),
        sides=sides(training.views, size),
        num_classes=facts.num_classes,
        vocabulary=captions.tokenizer.size if captions is not None else 0,
        teacher=load_teacher(arguments.teacher, **seen) if arguments.teacher else None,
        tokenizer=load_tokenizer(arguments.tokenizer, **seen) if arguments.tokenizer else None,
    )


def captions_for(recipe: Recipe, data: Path, seed: int, where: str) -> Captions | None:
    """The captions that the method takes, if it takes any; ``where`` names its file in errors."""
    params = recipe.method
    if not isinstance(params, CLIPParams):
        return None
    context_length = params.text_tower.context_length
    return Captions(data, params.vocabulary, context_length, params.prompts, seed, where)


def pretrain(
    recipe: Recipe,
    name: str,
    backbone: Backbone,
    facts: DatasetFacts,
    budget: Budget | None,
    arguments: argparse.Namespace,
    started: float,
) -> None:
    """Train (or only initialise) and publish from the first process. ``name``: of the row."""
    asked: dict[str, Params] = {"recipe": recipe, "backbone": backbone}
    if budget is not None:
        asked["budget"] = budget
    params = {role: each.resolved() for role, each in asked.items()}
    about: dict[str, Any] = {
        "method": recipe.method.name,
        "recipe": name,
        "kind": recipe.method.kind,
        "backbone": arguments.backbone.stem,
        "scale": backbone.scale,
        "pretrain_dataset": facts.name,
    }
    training = recipe.training
    if training is not None and training.normalise is not None:
        facts = facts.normalised_by(training.normalise.mean, training.normalise.std)
    backbone = backbone_for(recipe.method, backbone)
    captions = captions_for(recipe, arguments.data, arguments.seed, str(arguments.recipe))
    size, context = backbone.image_size, None
    if training is not None:
        context = method_context(training, size, facts, arguments, captions)
    with seeded(arguments.seed, "init"):
        model = create_backbone(backbone)
        method = None if context is None else build_method(recipe.method, model, context)
        if method is None:
            initialise_untrained(recipe.method, model)
    outcome = Outcome(epochs=0, images_seen=0, flops=0, device_seconds=0)
    if method is None or training is None:
        with _publishing(params, arguments) as draft:
            draft.seconds_before = time.monotonic() - started
            save_backbone(model, backbone, draft.path, mean=facts.mean, std=facts.std)
            (draft.path / METRICS).touch()
            draft.facts.update(about, **vars(outcome))
        return
    views = TrainingViews(arguments.data, training.views, size, arguments.seed, captions)
    if recipe.data_share < 1:
        views = views.only(training_rows(len(views), recipe.data_share, arguments.seed))
    facts, flops, length = facts.of(len(views)), None, training.length
    if budget is not None:
        behind = _behind(arguments)
        own = own_share(budget, behind)
        where = str(arguments.recipe)
        training, flops = within_budget(training, budget, own, method, views, facts, where)
        about |= facts_within(training, behind.values())
    fabric = launch(training.precision, training.deterministic, training.strategy)
    is_scaled = (arguments.length, arguments.data_share) != (None, None)
    identity = identify(
        "pretrain",
        subject(about, arguments.seed),
        params=asked,
        files={"recipe": arguments.recipe, "backbone": arguments.backbone},
        inputs=_inputs(arguments),
        seed=arguments.seed,
        out=arguments.out,
        # A vocabulary's params may name a file, which can change.
        further={} if captions is None else {"vocabulary": captions.tokenizer.digest},
        options={"length": length, "data_share": recipe.data_share} if is_scaled else {},
    )
    watch = None
    if training.knn is not None:
        watch = KNNWatch(arguments.data, training.knn, size, facts.mean, facts.std)
    with scratch(identity, started, owner=fabric.global_rank == 0) as place:
        fabric.barrier()
        resume = place.load(arguments.checkpoint)
        outcome = fit(
            fabric,
            method,
            views,
            facts,
            training,
            depth=depth(model),
            seed=arguments.seed,
            scratch=place,
            where=str(arguments.recipe),
            title=f"{name} {arguments.backbone.stem} seed {arguments.seed}",
            knn=watch,
            flops=flops,
            resume=resume,
        )
        if fabric.global_rank == 0:
            with _publishing(params, arguments) as draft:
                draft.seconds_before = place.seconds
                trained = method.export_backbone().cpu()
                save_backbone(
                    trained,
                    backbone,
                    draft.path,
                    mean=facts.mean,
                    std=facts.std,
                    heads=method.heads(),
                )
                if captions is not None:
                    captions.tokenizer.save(draft.path / TOKENIZER)
                for log in (METRICS, TIMING):
                    shutil.copyfile(place.folder / log, draft.path / log)
                draft.logs.add(TIMING)
                draft.facts.update(about, **vars(outcome), **place.taken_up)


def _inputs(arguments: argparse.Namespace) -> dict[str, Path]:
    """The input artifacts by role."""
    return {"data": arguments.data, **_behind(arguments)}


def _behind(arguments: argparse.Namespace) -> dict[str, Path]:
    """The teacher and the tokenizer, those that there are, by role."""
    paths = {"teacher": arguments.teacher, "tokenizer": arguments.tokenizer}
    return {role: path for role, path in paths.items() if path is not None}


def _publishing(params: dict[str, Any], arguments: argparse.Namespace) -> Any:
    return publish(
        arguments.out,
        node="pretrain",
        params=params,
        inputs=_inputs(arguments),
        sources={"recipe": arguments.recipe, "backbone": arguments.backbone},
        seed=arguments.seed,
    )


if __name__ == "__main__":
    run_step(main)
