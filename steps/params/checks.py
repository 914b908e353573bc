"""Checks of a plan, before any work: its sets, backbones, recipes and protocols fit together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from steps.command import UserError
from steps.params.backbone import Backbone, check_in_chans
from steps.params.channels import (
    check_protocol,
    check_tokenizer,
    check_training,
    in_words,
)
from steps.params.dag import Pretraining, Tokenizer
from steps.params.fit import check_backbone
from steps.params.loggers import check_installed
from steps.params.methods.clip import CLIPParams
from steps.params.plan import ROOT, Plan
from steps.params.protocols import TOLD, Finetune, Probe, check_target
from steps.params.recipe import Training
from steps.params.sets import RGB
from steps.params.shapes import ShapesDataset
from steps.params.tasks import TASKS, Need, Task
from steps.params.views import View


def load_plan(name: str, root: Path = ROOT) -> Plan:
    """The plan of an experiment, checked.

    Args:
        name: ``<root>/experiments/<name>.yaml``.
        root: the params folder.

    Raises:
        UserError: naming the file and the key at fault.
    """
    plan = Plan(name, root)
    _check_loggers(plan)
    _check_imported(plan)
    _check_init(plan)
    _check_objects(plan)
    _check_drawn(plan)
    _check_tokens_read(plan)
    _check_classes(plan)
    _check_targets(plan)
    _check_sizes(plan)
    _check_text(plan)
    _check_channels(plan)
    return plan


def _needing(plan: Plan, *needs: Need) -> list[Task]:
    """The tasks of a plan with one of these needs."""
    tasks = (TASKS[name] for name in plan.experiment.tasks)
    return [task for task in tasks if {*needs} & {*task.needs}]


def _check_loggers(plan: Plan) -> None:
    """The loggers that a training names are installed."""
    for node in plan.needs:
        params = plan.params(node)
        if params.training is not None:
            where = f"{plan.node_file(node)}: training.loggers"
            check_installed(where, params.training.loggers)


def _check_imported(plan: Plan) -> None:
    """A checkpoint may not have the name of a recipe: a teacher of that name has its folder."""
    for index, name in enumerate(plan.experiment.names):
        if name in plan.experiment.imported and plan.recipe_file(name).is_file():
            raise UserError(
                f"{plan.file}: methods[{index}].imported.name",
                f"'{name}' is the name of a recipe, {plan.recipe_file(name)}",
                remedy=f"call it {name}_official, for example",
            )


def _check_init(plan: Plan) -> None:
    """A recipe may start from a row of the experiment that has the same backbone, and whose own
    pretraining takes nothing of the budget."""
    for node in plan.needs:
        if not isinstance(node, Pretraining) or (name := _starts_from(plan, node.recipe)) is None:
            continue
        where = f"{plan.recipe_file(node.recipe)}: init.row"
        if plan.experiment.budget is not None and plan.recipe_file(name).is_file():
            raise UserError(
                where,
                f"{name} is trained here, and a budget counts nothing for the weights of init",
                allowed="an imported row",
                remedy=f"leave out the budget of {plan.file}, or name an imported row",
            )
        if name not in plan.experiment.names:
            others = [other for other in plan.experiment.names if other != node.recipe]
            raise UserError(
                where,
                f"'{name}' is no row of {plan.file}",
                allowed=", ".join(others) or "a row among its methods",
                remedy=f"add the row to methods, such as imported: {{name: {name}, ...}}, or name "
                "another one",
            )
        if not plan.experiment.has_row(name, node.backbone):
            raise UserError(
                where,
                f"{name} is on backbone {plan.experiment.imported[name].backbone}, and "
                f"{node.recipe} on {node.backbone}",
                allowed="a row on the same backbone",
                remedy=f"leave {node.backbone} out of backbones, or start from another row",
            )
        way = [node.recipe]
        while (other := _starts_from(plan, way[-1])) is not None:
            if other in way:
                raise UserError(
                    where,
                    f"a circle: {', which starts from '.join([*way, other])}",
                    allowed="a row that does not lead back to itself",
                    remedy="start from an imported row, or from a recipe without init",
                )
            way.append(other)


def _starts_from(plan: Plan, row: str) -> str | None:
    """The row that a row starts from, if any."""
    recipe = plan.recipe_of(row)
    return None if recipe is None or recipe.init is None else recipe.init.row


# --- What tasks and methods need of sets and backbones


def _check_objects(plan: Plan) -> None:
    """Tasks on objects need boxes, and some of them masks."""
    for task in _needing(plan, "boxes", "pixels"):
        name = getattr(plan.experiment, task.reads)
        dataset, file = plan.datasets[name], plan.dataset_file(name)
        where = f"{plan.file}: {task.reads}"
        by_pixel = "pixels" in task.needs
        if by_pixel and dataset.has_pixel_classes:
            continue
        if not dataset.has_boxes:
            other = "a set of format masks, coco with masks" if by_pixel else "a set of format coco"
            raise UserError(
                where,
                f"{file} has no {'masks' if by_pixel else 'boxes'}, which {task.name} needs",
                allowed=f"{other}, or shapes of kind detection",
            )
        for protocol in plan.experiment.tasks[task.name]:
            always = by_pixel or "masks" in task.needs
            needs_masks = getattr(plan.protocols[protocol], "masks", always) is True
            if needs_masks and not dataset.has_masks:
                raise UserError(
                    where,
                    f"{file} says masks: false, and {task.name} needs masks "
                    f"({plan.protocol_file(protocol)})",
                    allowed="a set with masks; or, to detect, a protocol with masks: auto",
                    remedy=f"use a set with masks, or leave the task {task.name} out",
                )


_DRAWN: dict[Need, tuple[Callable[[ShapesDataset], bool], str, str]] = {
    "factors": (
        lambda drawn: drawn.is_independent,
        "recorded, independent factors",
        "cues whose probabilities are 0, such as shapes_independent",
    ),
    "conflicts": (
        lambda drawn: drawn.conflicts,
        "cues that conflict",
        "conflicts: true, such as shapes_conflicts",
    ),
}
"""Needs that only drawn images meet: a test of the set, the need in words, sets that meet it."""


def _check_drawn(plan: Plan) -> None:
    """Tasks on cues need images of which the cues are known."""
    for need, (holds, words, allowed) in _DRAWN.items():
        for task in _needing(plan, need):
            name = getattr(plan.experiment, task.reads)
            dataset = plan.datasets[name]
            if not isinstance(dataset, ShapesDataset) or not holds(dataset):
                raise UserError(
                    f"{plan.file}: {task.reads}",
                    f"{plan.dataset_file(name)} has no {words}, which {task.name} needs",
                    allowed=f"a set of format shapes with {allowed}",
                    remedy=f"name such a set, or leave the task {task.name} out",
                )


def _check_tokens_read(plan: Plan) -> None:
    """Tasks, methods and teachers that need tokens require a vision transformer."""
    for task in _needing(plan, "tokens"):
        for name in plan.experiment.backbones:
            if plan.backbones[name].is_resnet:
                raise UserError(
                    f"{plan.file}: tasks",
                    f"{task.name} reads tokens, and backbone {name} is a ResNet",
                    allowed="vision transformers, such as vit_s16",
                    remedy=f"leave {task.name} out, or train the ResNet in its own experiment",
                )
    for task in _needing(plan, "class_token"):
        for name in plan.experiment.backbones:
            if plan.backbones[name].model_args.get("class_token") is False:
                raise UserError(
                    f"{plan.file}: tasks",
                    f"{task.name} looks from the class token, which backbone {name} is without",
                    allowed="backbones with a class token",
                    remedy=f"leave {task.name} out, or measure {name} in its own experiment",
                )
    for node, behind in plan.needs.items():
        if isinstance(node, Pretraining):
            recipe, backbone = plan.recipes[node.recipe], plan.backbones[node.backbone]
            check_backbone(plan.recipe_file(node.recipe), recipe, backbone, node.backbone)
        for teacher in behind:
            if isinstance(teacher, Pretraining) and plan.backbones[teacher.backbone].is_resnet:
                raise UserError(
                    f"{plan.node_file(node)}: teacher.backbone",
                    f"{teacher.backbone} is a ResNet, and a teacher gives tokens",
                    allowed="a vision transformer, such as vit_s16",
                )


def _check_classes(plan: Plan) -> None:
    """Tasks and methods that decide between classes need labels, and two classes where params list
    them."""
    deciding = [
        (_key(plan), dataset, task.name)
        for task in _needing(plan, "classes", "targets")
        for dataset in plan.experiment.sets_of(task.name)
        if "classes" in task.needs or plan.datasets[dataset].target in (None, "class")
    ]
    deciding += [
        ("dataset", plan.experiment.dataset, f"recipe {name}")
        for name, recipe in plan.recipes.items()
        if recipe.method.name == "supervised"
    ]
    for key, dataset, name in deciding:
        classes = getattr(plan.datasets[dataset], "classes", None)
        if not plan.datasets[dataset].has_labels:
            target = plan.datasets[dataset].target
            found = f"no labels, which {name} needs"
            if target is not None:
                found = f"{TOLD[target]}, and {name} needs one class per image"
            raise UserError(
                f"{plan.file}: {key}",
                f"{dataset} has {found}",
                allowed="a classification set",
                remedy=f"{_other(key, dataset, 'labels')}, or leave {name} out",
            )
        if classes is not None and len(classes) < 2:
            raise UserError(
                f"{plan.file}: {key}",
                f"{dataset} has one class, and {name} decides between classes",
                remedy=f"{_other(key, dataset, 'two classes or more')}, or leave {name} out",
            )


def _check_targets(plan: Plan) -> None:
    """Protocols made for one class per image measure no set of another kind."""
    for task in _needing(plan, "targets"):
        for name in plan.experiment.tasks[task.name]:
            for dataset in plan.experiment.sets_of(task.name):
                target = plan.datasets[dataset].target
                check_target(plan.protocol_file(name), plan.protocols[name], target, dataset)


def _key(plan: Plan) -> str:
    """The key that names the sets of tasks which read no set of their own."""
    return "dataset" if plan.experiment.evaluate_on is None else "evaluate_on"


def _other(key: str, dataset: str, wanted: str) -> str:
    """The remedy for a set that lacks what a task needs."""
    instead = f"use a set with {wanted}"
    return instead if key == "dataset" else f"take {dataset} out of evaluate_on, {instead}"


def _check_text(plan: Plan) -> None:
    """Tasks on text need methods with a text tower, and some need captions."""
    experiment = plan.experiment
    tasks = [task.name for task in _needing(plan, "text")]
    if tasks and not plan.methods_of(tasks[0]):
        raise UserError(
            f"{plan.file}: tasks",
            f"{tasks[0]} needs a text tower, and no recipe of {experiment.recipes} has one",
            remedy="add a method that has one, such as clip, or leave the task out",
        )
    needs = [
        ("dataset", experiment.dataset, f"recipe {name}")
        for name, recipe in plan.recipes.items()
        if isinstance(recipe.method, CLIPParams) and recipe.method.prompts is None
    ]
    needs += [
        (_key(plan), dataset, task.name)
        for task in _needing(plan, "captions")
        for dataset in experiment.sets_of(task.name)
    ]
    for key, dataset, name in needs:
        if not plan.datasets[dataset].has_captions:
            otherwise = "; a recipe can also make captions of class names (method.prompts)"
            if key == "evaluate_on":
                otherwise = f", or leave {name} out"
            raise UserError(
                f"{plan.file}: {key}",
                f"{dataset} has no captions, which {name} needs",
                remedy=f"{_other(key, dataset, 'captions')}{otherwise}",
            )


# --- Channels and bits of images


def _check_channels(plan: Plan) -> None:
    """Every network sees the channels that it is trained on, in views that they can have."""
    experiment = plan.experiment
    name = experiment.dataset
    form = plan.datasets[name].form
    channels = form[0]
    for task, protocol in experiment.evaluations():
        for other in experiment.sets_of(task):
            found = plan.datasets[other].form
            if found[0] != channels:
                key = TASKS[task].reads
                raise UserError(
                    f"{plan.file}: {_key(plan) if key == 'dataset' else key}",
                    f"{other} has {in_words(found)}, and networks are trained on {name}, which has "
                    f"{in_words(form)}",
                    allowed=f"a set of {channels} channels",
                    remedy=f"name such a set, or leave the task {task} out",
                )
            where = str(plan.protocol_file(protocol))
            check_protocol(where, plan.protocols[protocol], found, other)
    for node in plan.needs:
        if isinstance(node, Tokenizer):
            file = str(plan.tokenizer_file(node.name))
            check_tokenizer(file, plan.tokenizers[node.name], form, name)
            continue
        if (training := plan.recipes[node.recipe].training) is not None:
            check_training(str(plan.recipe_file(node.recipe)), training, form, name)
        check_in_chans(plan.backbone_file(node.backbone), plan.backbones[node.backbone], channels)
    if channels != RGB[0] and experiment.imported:
        row = next(iter(experiment.imported))
        raise UserError(
            f"{plan.file}: methods",
            f"{row} is an official checkpoint for three channels, and {name} has {in_words(form)}",
            allowed="rows that are trained here",
            remedy="leave it out, or start from its weights by a recipe with init (artifact, timm "
            "or transformers), whose first layer is then spread over the channels",
        )


# --- Image sizes, patches, blocks and heads fit each other


def _check_sizes(plan: Plan) -> None:
    """Every view must divide into the patches of every network that reads it."""
    for node in plan.needs:
        if isinstance(node, Tokenizer):
            _check_tokenizer(plan, node)
        elif (training := plan.recipes[node.recipe].training) is not None:
            backbone = plan.backbones[node.backbone]
            _check_views(plan.recipe_file(node.recipe), training, backbone, node.backbone)
            _check_tokens(plan, node, training)
    for protocol, params in plan.protocols.items():
        file = plan.protocol_file(protocol)
        for name in plan.experiment.backbones:
            if isinstance(params, Finetune):
                _check_views(file, params.training, plan.backbones[name], name)
            elif isinstance(params, Probe):
                _check_probe(file, params, plan.backbones[name], name)


def _check_views(path: Path, training: Training, backbone: Backbone, name: str) -> None:
    phases = {"views": training.views}
    if training.final_phase is not None:
        phases["final_phase.views"] = training.final_phase.views
    for key, views in phases.items():
        for index, view in enumerate(views):
            _check_view(f"{path}: training.{key}[{index}].size", view, backbone, name)


def _check_view(where: str, view: View, backbone: Backbone, name: str) -> None:
    size = view.size or backbone.image_size
    if backbone.patch_size is not None and size % backbone.patch_size:
        raise UserError(
            where,
            f"{size} px does not divide into the {backbone.patch_size} px "
            f"patches of backbone {name}",
            allowed=f"a multiple of {backbone.patch_size}",
        )


def _check_probe(path: Path, probe: Probe, backbone: Backbone, name: str) -> None:
    """A probe may only read what the backbone has."""
    _check_view(f"{path}: view.size", probe.view, backbone, name)
    if backbone.is_resnet and (probe.blocks, probe.poolings) != ([1], ["cls"]):
        raise UserError(
            f"{path}: poolings",
            f"backbone {name} is a ResNet, which gives one vector per image",
            allowed="blocks [1] and poolings [cls]",
        )
    if backbone.depth is not None and max(probe.blocks) > backbone.depth:
        raise UserError(
            f"{path}: blocks",
            f"{max(probe.blocks)}, but backbone {name} has {backbone.depth} blocks",
            allowed=f"1 to {backbone.depth}",
        )


def _check_tokens(plan: Plan, node: Pretraining, training: Training) -> None:
    """A tokenizer must give one token per patch."""
    name, backbone = plan.recipes[node.recipe].tokenizer, plan.backbones[node.backbone]
    if name is None or backbone.patch_size is None:
        return
    pixels = plan.tokenizers[name].tokenizer.token_pixels
    for index, view in enumerate(training.views):
        size = view.size or backbone.image_size
        second = size if view.second is None else view.second.size or size
        patches = size // backbone.patch_size
        if second != patches * pixels:
            raise UserError(
                f"{plan.recipe_file(node.recipe)}: training.views[{index}].second.size",
                f"{second} px, of which tokenizer {name} makes {second // pixels} tokens a "
                f"side, and backbone {node.backbone} has {patches} patches",
                allowed=f"{patches * pixels}",
            )


def _check_tokenizer(plan: Plan, node: Tokenizer) -> None:
    """A tokenizer and its teacher must see the same patches, and the teacher must have the
    projection that the tokenizer takes."""
    params = plan.tokenizers[node.name].tokenizer
    for other in plan.needs[node]:
        if isinstance(other, Pretraining):
            if getattr(params, "projected", False) and not plan.recipes[other.recipe].method.text:
                raise UserError(
                    f"{plan.tokenizer_file(node.name)}: tokenizer.projected",
                    f"true, and its teacher {other.recipe} has no space shared with text",
                    allowed="false, or a teacher with a text tower, such as clip",
                )
            patch_size = plan.backbones[other.backbone].patch_size
            if patch_size != params.token_pixels:
                raise UserError(
                    f"{plan.tokenizer_file(node.name)}: teacher.backbone",
                    f"{other.backbone} has patches of {patch_size} px, the tokenizer of "
                    f"{params.token_pixels} px",
                    allowed=f"a backbone with patches of {params.token_pixels} px",
                )
