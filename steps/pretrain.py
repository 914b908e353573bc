"""Pretrain a backbone by a recipe.

    python -m steps.pretrain --recipe params/recipes/small/mae.yaml \\
        --backbone params/backbones/vit_pico.yaml --data results/data/shapes --seed 0 --out DIR

``--init PATH`` gives a recipe of continued pretraining the weights to start from: a backbone
artifact, a file of a timm model, or a folder of transformers.

``--budget-tflops 36`` replaces the recipe's epochs: the run takes 36 TFLOPs, teacher and tokenizer
included.

Under torchrun it trains on all processes, at the same global batch. Given the same command again, a
killed run continues. The result is a folder that
``timm.create_model("local-dir:DIR", pretrained=True)`` loads.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.artifacts.identity import subject
from steps.artifacts.manifest import check_named
from steps.artifacts.publish import check_places
from steps.command import UserError, place, run_step
from steps.core.seeds import seeded
from steps.data.loader import DatasetFacts, TrainingViews, check_two_classes, dataset_facts
from steps.data.subsets import training_rows
from steps.data.text import TOKENIZER, Captions
from steps.engine.budget import named_teacher, named_within, scaled
from steps.engine.devices import launch
from steps.engine.loop import Outcome
from steps.engine.monitor import METRICS
from steps.engine.run import Run
from steps.evaluation.online import knn_watch
from steps.methods import (
    Method,
    MethodContext,
    backbone_for,
    build_method,
    initialise_untrained,
    start_from,
)
from steps.models.backbones import (
    Transformer,
    create_backbone,
    depth,
    save_backbone,
    with_channels,
)
from steps.models.teacher import Teacher, load_teacher
from steps.official.fit import Fitted
from steps.official.initial import initial_weights
from steps.params.backbone import Backbone, check_in_chans
from steps.params.base import Params, Seed
from steps.params.budget import Budget, add_options, asked_for
from steps.params.channels import check_training, in_words
from steps.params.fit import check_backbone
from steps.params.load import load, option
from steps.params.loggers import check_installed
from steps.params.methods.clip import CLIPParams
from steps.params.recipe import Recipe, Training
from steps.params.views import sides
from steps.tokenizers import FixedTokenizer, load_tokenizer


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a prepared dataset")
    parser.add_argument(
        "--knn",
        type=Path,
        help="labelled set that training.knn measures on; default: --data",
    )
    parser.add_argument("--teacher", type=Path, help="the backbone that the recipe names, frozen")
    parser.add_argument("--tokenizer", type=Path, help="the tokenizer that the recipe names")
    parser.add_argument(
        "--init", type=Path, help="weights to start from, for a recipe that names an init"
    )
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
    recipe, name = scaled(arguments.recipe, recipe, budget, arguments.length, arguments.data_share)
    supervised = recipe.method.name == "supervised"
    facts = dataset_facts(arguments.data, labels=supervised)
    if supervised:
        check_two_classes(arguments.data, facts.num_classes)
    params: dict[str, Params] = {"recipe": recipe, "backbone": backbone}
    check_channels(recipe, facts, arguments)
    check_in_chans(arguments.backbone, backbone, facts.channels)
    scale, backbone = backbone.scale, backbone_for(recipe.method, backbone)
    backbone = with_channels(backbone, facts.channels)
    init = initial_weights(
        recipe.init, arguments.init, backbone, arguments.recipe, arguments.backbone
    )
    roles = ("data", "knn", "teacher", "tokenizer")
    inputs = {role: getattr(arguments, role) for role in roles}
    run = Run(
        "pretrain",
        params=params if budget is None else {**params, "budget": budget},
        files={"recipe": arguments.recipe, "backbone": arguments.backbone},
        inputs=inputs if init is None else {**inputs, "init": init.weights.artifact},
        seed=arguments.seed,
        out=arguments.out,
        started=started,
    )
    about = {
        "method": recipe.method.name,
        "recipe": name,
        "kind": recipe.method.kind,
        "backbone": arguments.backbone.stem,
        "scale": scale,
        "pretrain_dataset": facts.name,
        **({} if facts.is_rgb else {"channels": facts.channels, "bits": facts.bits}),
    }
    if recipe.training is None:
        initialise(run, recipe, backbone, facts, about)
    else:
        pretrain(run, recipe, recipe.training, backbone, facts, about, budget, init, arguments)


def check_inputs(recipe: Recipe, budget: Budget | None, arguments: argparse.Namespace) -> None:
    """Check that teacher and tokenizer are those that the recipe names, within the budget, that
    ``--knn`` has a use, and that loggers are installed."""
    where: Path = arguments.recipe
    if arguments.knn is not None and (recipe.training is None or recipe.training.knn is None):
        raise UserError(
            "--knn",
            f"{arguments.knn}, but {where} has no training.knn",
            remedy="leave the option out, or give the recipe training.knn",
        )
    if recipe.training is not None:
        check_installed(f"{where}: training.loggers", recipe.training.loggers)
    teacher = named_teacher(recipe.teacher, arguments.teacher, budget)
    check_named("teacher", arguments.teacher, teacher, node="pretrain", where=where)
    tokenizer = None
    if recipe.tokenizer is not None:
        tokenizer = {"tokenizer": named_within(recipe.tokenizer, arguments.tokenizer, budget)}
    check_named("tokenizer", arguments.tokenizer, tokenizer, node="tokenizer", where=where)


def check_channels(recipe: Recipe, facts: DatasetFacts, arguments: argparse.Namespace) -> None:
    """Check that the recipe suits the channels of the images, and that ``--knn`` has as many.

    Raises:
        UserError: naming the key of the recipe or the set.
    """
    form = (facts.channels, facts.bits)
    if recipe.training is not None:
        check_training(str(arguments.recipe), recipe.training, form, facts.name)
    if arguments.knn is not None:
        other = dataset_facts(arguments.knn)
        if other.channels != facts.channels:
            raise UserError(
                f"--knn {arguments.knn}",
                f"images of {in_words((other.channels, other.bits))}, and {facts.name} has "
                f"{in_words(form)}",
                allowed=f"a set of {facts.channels} channels",
            )


def captions_for(recipe: Recipe, data: Path, seed: int, where: str) -> Captions | None:
    """Captions for a method that takes them, else None; ``where`` names the recipe in errors."""
    params = recipe.method
    if not isinstance(params, CLIPParams):
        return None
    context_length = params.text_tower.context_length
    return Captions(data, params.vocabulary, context_length, params.prompts, seed, where)


@dataclass(frozen=True)
class Built:
    """The parts of a run before its first step."""

    model: Transformer
    """The backbone, a part of the method."""
    method: Method
    views: TrainingViews
    facts: DatasetFacts
    """Facts of the images in use."""
    captions: Captions | None


def build(
    recipe: Recipe,
    training: Training,
    backbone: Backbone,
    facts: DatasetFacts,
    data: Path,
    *,
    seed: int,
    where: str,
    teacher: Teacher | None,
    tokenizer: FixedTokenizer | None,
) -> Built:
    """The method of a recipe on a backbone, and its images.

    Args:
        recipe: it trains.
        training: the recipe's.
        backbone: as the method needs it, for the channels of the images.
        facts: of the prepared set, with the normalisation of the method's inputs.
        data: the prepared set.
        seed: of the run.
        where: the params file that errors name.
        teacher, tokenizer: those that the recipe names, for images normalised as ``facts`` says.
    """
    size = backbone.image_size
    captions = captions_for(recipe, data, seed, where)
    context = MethodContext(
        views=sum(view.count for view in training.views),
        sides=sides(training.views, size),
        num_classes=facts.num_classes,
        vocabulary=captions.tokenizer.size if captions is not None else 0,
        teacher=teacher,
        tokenizer=tokenizer,
    )
    with seeded(seed, "init"):
        model = create_backbone(backbone)
        method = build_method(recipe.method, model, context)
    views = TrainingViews(data, training.views, size, seed, captions)
    if recipe.data_share < 1:
        views = views.only(training_rows(len(views), recipe.data_share, seed))
    return Built(model, method, views, facts.of(len(views)), captions)


def pretrain(
    run: Run,
    recipe: Recipe,
    training: Training,
    backbone: Backbone,
    facts: DatasetFacts,
    about: Mapping[str, Any],
    budget: Budget | None,
    init: Fitted | None,
    arguments: argparse.Namespace,
) -> None:
    """Train, and publish from the first process; ``about`` are facts for the manifest."""
    facts = as_inputs(facts, training, init)
    seed, seen = run.seed, {"mean": facts.mean, "std": facts.std}
    built = build(
        recipe,
        training,
        backbone,
        facts,
        arguments.data,
        seed=seed,
        where=run.where,
        teacher=load_teacher(arguments.teacher, **seen) if arguments.teacher else None,
        tokenizer=load_tokenizer(arguments.tokenizer, **seen) if arguments.tokenizer else None,
    )
    model, method, views, captions = built.model, built.method, built.views, built.captions
    facts = built.facts
    new = [] if init is None else start_from(method, model, init.tensors)
    is_scaled = (arguments.length, arguments.data_share) != (None, None)
    options = {"length": training.length, "data_share": recipe.data_share} if is_scaled else {}
    training, flops, spent = run.within(budget, training, method, views, facts)
    fabric = launch(training.precision, training.deterministic, training.strategy)
    further = digests_besides(run, captions, init)
    identity = run.identity(subject(about, seed), further=further, options=options)
    watched = arguments.knn or arguments.data
    knn = knn_watch(watched, training.knn, backbone.image_size, facts, at_start=init is not None)
    if init is not None:
        spent = {**spent, **started(init, new, spent, facts, quiet=fabric.global_rank > 0)}

    def save(folder: Path) -> None:
        exported, norm = method.export_backbone(), {"mean": facts.mean, "std": facts.std}
        save_backbone(exported, backbone, folder, **norm, heads=method.heads())
        if captions is not None:
            captions.tokenizer.save(folder / TOKENIZER)

    with run.train(
        fabric,
        method,
        views,
        facts,
        training,
        identity,
        depth=depth(model),
        title=f"{about['recipe']} {arguments.backbone.stem} seed {seed}",
        checkpoint=arguments.checkpoint,
        about={**about, **spent},
        knn=knn,
        flops=flops,
        save=save,
    ) as draft:
        if draft is not None:
            save(draft.path)


def as_inputs(facts: DatasetFacts, training: Training, init: Fitted | None) -> DatasetFacts:
    """Facts of the set with the normalisation of the method's inputs: the recipe's, that of the
    weights to start from, or the set's own."""
    if training.normalise is not None:
        return facts.normalised_by(training.normalise.mean, training.normalise.std)
    if init is not None and init.weights.normalisation is not None and facts.is_rgb:
        # Other inputs than the weights were trained on would spoil them before the first step.
        return facts.normalised_by(*init.weights.normalisation)
    return facts


def digests_besides(run: Run, captions: Captions | None, init: Fitted | None) -> dict[str, str]:
    """Digests of what params name by a file that can change, and which is no input artifact."""
    found = {} if captions is None else {"vocabulary": captions.tokenizer.digest}
    if init is not None and "init" not in run.given:
        found["init"] = init.weights.digest
    return found


def started(
    init: Fitted,
    new: Sequence[str],
    spent: Mapping[str, Any],
    facts: DatasetFacts,
    *,
    quiet: bool,
) -> dict[str, Any]:
    """Log the weights that a run starts from; facts about them for its manifest.

    Args:
        init: the weights.
        new: parts of the method that they lack.
        spent: facts of the run's budget, which counts nothing for the weights.
        facts: of the set.
        quiet: log nothing, as in other processes than the first.
    """
    if not quiet:
        source, digest = init.weights.source, init.weights.digest
        logging.info("starts from %s (sha256 %s)", source, digest[:12])
        said = [*init.changes, f"new: {', '.join(new) or 'nothing'}"]
        if not facts.is_rgb:
            said.append("normalised by the recipe or the dataset, whose images are no photographs")
        elif init.weights.normalisation is None:
            said.append("normalised by the recipe or the dataset, since they do not say")
        logging.info("of these weights: %s", "; ".join(said))
    elsewhere = [*spent.get("elsewhere", ()), init.weights.name]
    return {"init": {**init.facts, "new": list(new)}, "elsewhere": elsewhere}


def initialise(
    run: Run, recipe: Recipe, backbone: Backbone, facts: DatasetFacts, about: Mapping[str, Any]
) -> None:
    """Publish a backbone that is not trained."""
    with seeded(run.seed, "init"):
        model = create_backbone(backbone)
        initialise_untrained(recipe.method, model)
    outcome = Outcome(epochs=0, images_seen=0, flops=0, device_seconds=0)
    with run.publish() as draft:
        draft.seconds_before = time.monotonic() - run.started
        save_backbone(model, backbone, draft.path, mean=facts.mean, std=facts.std)
        (draft.path / METRICS).touch()
        draft.facts.update(about, **vars(outcome))


if __name__ == "__main__":
    run_step(main)
