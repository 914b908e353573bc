"""An experiment on a user's sets: regime, backbone, methods and tasks, each with its reason."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.channels import check_training, in_words
from steps.params.detection import Detection
from steps.params.load import Loader, load
from steps.params.protocols import Finetune, Segment
from steps.params.recipe import Recipe, Training
from steps.params.sets import RGB
from workflow.own_sets import OwnSet, images_of, own_set, stored_side
from workflow.readings import Reading

# --- The sets of an experiment

_MANY_MORE = 10
"""Labelled images per image with boxes above which they are no crops of those, and are better to
pretrain on."""


@dataclass(frozen=True)
class OwnSets:
    """A user's sets by their role in an experiment."""

    images: OwnSet
    """For pretraining, and for tasks on labels unless ``labels`` is given."""
    labels: OwnSet | None = None
    """Labelled images that are only evaluated on."""
    boxes: OwnSet | None = None

    def named(self, name: str) -> dict[str, OwnSet]:
        """The sets by the names of their params files."""
        own = {name: self.images, f"{name}_labels": self.labels, self.objects(name): self.boxes}
        return {key: found for key, found in own.items() if found is not None}

    def objects(self, name: str) -> str:
        """The name of the set with boxes or semantic masks."""
        return (
            f"{name}_masks" if self.boxes and not self.boxes.dataset.has_boxes else f"{name}_boxes"
        )

    @property
    def evaluated(self) -> OwnSet:
        """The set of tasks that read images, with or without labels."""
        return self.labels or self.images


def own_sets(readings: Sequence[Reading]) -> OwnSets:
    """The sets of readings: unlabelled folders are joined; labels and boxes stand beside them.

    Raises:
        UserError: there are more sets than an experiment reads, or a set cannot be read.
    """
    by_kind: dict[str, list[Reading]] = {"boxes": [], "unlabelled": [], "labelled": []}
    for each in readings:
        kinds = {"coco": "boxes", "masks": "boxes", "images": "unlabelled"}
        kind = kinds.get(each.format, "labelled")
        by_kind[kind].append(each)
    boxes, unlabelled, labelled = by_kind.values()
    if len(boxes) > 1 or len(labelled) > 1:
        raise UserError(
            "PATH",
            "; ".join(each.words for each in (*labelled, *unlabelled, *boxes)),
            allowed="images without labels, one set with labels, and one with boxes or masks",
            remedy="describe each in an experiment of its own",
        )
    with_boxes = own_set(boxes[0]) if boxes else None
    with_labels = own_set(labelled[0]) if labelled else None
    if unlabelled:
        return OwnSets(own_set(_joined(unlabelled)), with_labels, with_boxes)
    if with_labels is None:
        return OwnSets(own_set(images_of(boxes[0])), None, with_boxes)
    if with_boxes is None or with_labels.train > _MANY_MORE * with_boxes.train:
        return OwnSets(with_labels, None, with_boxes)
    return OwnSets(own_set(images_of(boxes[0])), with_labels, with_boxes)


def _joined(readings: Sequence[Reading]) -> Reading:
    """Unlabelled images of several places as one set."""
    if len(readings) == 1:
        return readings[0]
    params: dict[str, Any] = {"format": "images"}
    params["train"] = [str(each.params["train"]) for each in readings]
    vals = [str(each.params["val"]) for each in readings if "val" in each.params]
    if vals:
        params["val"] = vals
    words = " and ".join(each.words for each in readings)
    return Reading(params, words, tuple(note for each in readings for note in each.notes))


# --- Regime and backbone


@dataclass(frozen=True)
class Regime:
    """Choices that fit a folder of recipes."""

    backbone: str
    methods: tuple[str, ...]
    finetune: str | None
    detect: tuple[str, str]
    """Protocols for few scenes and for many."""
    segment: str
    layout: str


_JITTER = (
    "simclr jitters colours as for photographs, and its crops were tuned on drawn shapes: where "
    "colour tells images apart, lower the jitter in its recipe."
)
_BANDS = "_bands"
"""End of the names of recipes and protocols whose views and normalisation suit any channels."""
_COLOURLESS = (
    "Recipes that end in _bands change no colours, and normalise by the mean and deviation of "
    "these images."
)
_SELF = ("random", "supervised", "mae")
_FINETUNE_NUMBERS = "finetune_numbers"
"""The protocol of fine-tuning for sets with a number per image."""
REGIMES = {
    "small": Regime(
        "vit_pico",
        (*_SELF, "simclr"),
        "finetune_small",
        ("mask_rcnn_small", "mask_rcnn_shapes"),
        "segment",
        "layout_128",
    ),
    "cifar10_cpu": Regime(
        "vit_pico_32",
        (*_SELF, "simclr"),
        "finetune_small",
        ("mask_rcnn_small", "mask_rcnn_shapes"),
        "segment",
        "layout_128",
    ),
    "cifar10": Regime(
        "vit_pico_32",
        (*_SELF, "dino"),
        "finetune_small",
        ("mask_rcnn_small", "mask_rcnn_shapes"),
        "segment",
        "layout_128",
    ),
    "imagenet": Regime(
        "vit_s16",
        (*_SELF, "dino"),
        None,
        ("vitdet_mask_rcnn_100ep",) * 2,
        "segment_512",
        "layout",
    ),
}
"""Choices for each regime."""
_TINY_IMAGES = 48
"""Short side in pixels up to which 32 px networks are the right size."""
_MANY = 20_000
"""Training images from which the published recipes have a few of their batches in an epoch."""
_MANY_SCENES = 1_000
_FEW_STEPS = 150
"""Steps below which a detector learns little: ``mask_rcnn_small`` makes 189 on its own set."""
_SHORT = 5_000
"""Images of an epoch that recipes of ``small`` were written for."""
_SEEN = 25_000
"""Images that each method sees in the quickstart, about."""


def choose_regime(images: OwnSet, gpu: str | None, root: Path) -> tuple[str, str]:
    """A regime and the reason for it.

    Args:
        images: the set for pretraining.
        gpu: name of the GPU; None: there is none.
        root: the params folder.
    """
    if gpu is None:
        return "small", "no GPU was found: recipes of minutes on a CPU"
    if images.short_side <= _TINY_IMAGES:
        batch = _smallest_batch("cifar10", images, root)
        if images.train < batch:
            return "small", (
                f"{gpu}, but {images.train:,} training images are fewer than a batch of {batch:,}, "
                "as the recipes for 32 px have it"
            )
        return "cifar10", f"{gpu}, and images of {images.short_side} px: recipes for 32 px"
    if images.train >= _MANY:
        return "imagenet", f"{gpu}, and {images.train:,} training images: the published recipes"
    return "small", (
        f"{gpu}, but {images.train:,} training images are few steps of the published recipes' "
        "batches of 1,024 and more"
    )


def _smallest_batch(regime: str, images: OwnSet, root: Path) -> int:
    """The smallest batch of the methods of a regime that images of this kind can have."""
    parts = REGIMES.get(regime, REGIMES["small"])
    names = [name for name in parts.methods if name != "supervised" or images.has_labels]
    files = [root / f"recipes/{regime}/{name}.yaml" for name in names]
    found = [load(file, Recipe).training for file in files if file.is_file()]
    return min((training.batch_size for training in found if training is not None), default=1)


# --- The proposal


@dataclass
class Proposal:
    """Params of an experiment and the comments of its file."""

    name: str
    sets: OwnSets
    regime: str
    backbone: str
    reasons: dict[str, str] = field(default_factory=dict)
    """Comment above a key."""
    content: dict[str, Any] = field(default_factory=dict)


def propose(
    name: str,
    sets: OwnSets,
    gpu: str | None,
    regime: str | None,
    backbone: str | None,
    root: Path,
    tiles: int | None = None,
) -> Proposal:
    """The experiment for a user's sets.

    Args:
        name: of the experiment and of its first set.
        sets: by role.
        gpu: name of the GPU; None: there is none.
        regime, backbone: the user's choice; None: chosen here.
        root: the params folder.
        tiles: side in pixels that the images for pretraining are cut into; None: they stay whole.

    Raises:
        UserError: there is no such regime or backbone, too few images for any method, or images
            to cut that have labels.
    """
    known = sorted(path.name for path in (root / "recipes").glob("*") if path.is_dir())
    if regime is not None and regime not in known:
        raise UserError(f"--regime {regime}", "no such folder of recipes", allowed=", ".join(known))
    chosen, reason = (regime, "as chosen") if regime else choose_regime(sets.images, gpu, root)
    parts = REGIMES.get(chosen)
    if parts is None and backbone is None:
        raise UserError(
            f"--regime {chosen}",
            "no backbone is known for it",
            allowed=", ".join(REGIMES),
            remedy="name the backbone with --backbone",
        )
    parts = parts or REGIMES["small"]
    found = load(root / f"backbones/{backbone or parts.backbone}.yaml", Backbone)
    size = found.image_size
    labels, boxes = sets.labels, sets.boxes
    images = sets.images.shrunk(size) if tiles is None else sets.images.cut(tiles)
    sets = OwnSets(images, labels and labels.shrunk(size), boxes)
    proposal = Proposal(name, sets, chosen, backbone or parts.backbone)
    methods, left_out = _methods(proposal, parts, root)
    why = proposal.reasons
    why["regime"] = f"{reason[0].upper()}{reason[1:]} (params/recipes/{chosen}/)."
    why["backbones"] = _shrinking(sets.images, found, size, gpu)
    why["methods"] = " ".join(
        [
            "random is untrained: the floor.",
            *(["supervised learns from the labels."] if "supervised" in methods else []),
            *([_JITTER] if chosen == "small" and "simclr" in methods else []),
            *([_COLOURLESS] if any(each.endswith(_BANDS) for each in methods) else []),
            f"Others are in params/recipes/{chosen}/.",
            *left_out,
        ]
    )
    tasks = _tasks(proposal, parts, root)
    content = proposal.content
    content |= {
        "title": name,
        "question": "Which pretraining suits these images?",
        "dataset": name,
    }
    if labels is not None:
        content["evaluate_on"] = [f"{name}_labels"]
        why["evaluate_on"] = (
            "Methods pretrain on the images without labels, and tasks on labels read this set. To "
            f"pretrain on its images, set dataset: {name}_labels."
        )
    if boxes is not None:
        content["detection_dataset"] = sets.objects(name)
    content |= {"regime": chosen, "methods": methods, "backbones": [proposal.backbone]}
    if chosen == "small" and sets.images.train < _SHORT:
        content["budget"] = {"images": _SEEN}
        why["budget"] = (
            f"Each method sees {_SEEN:,} images, repeats included, as in the quickstart: epochs of "
            f"{sets.images.train:,} images are short for these recipes."
        )
    content |= {"seeds": [0, 1], "features": "features", "tasks": tasks}
    why["seeds"] = "Two runs of each method: the table shows how far chance moves them."
    if drawn := [each for each in methods if each == "mae"]:
        content["pictures"] = drawn
    return proposal


def _methods(proposal: Proposal, parts: Regime, root: Path) -> tuple[list[str], list[str]]:
    """Methods that the sets allow, and sentences on those that are left out."""
    images, folder = proposal.sets.images, root / "recipes" / proposal.regime
    methods: list[str] = []
    left_out: list[str] = []
    for name in parts.methods:
        if name == "supervised" and not images.has_labels:
            continue
        if not images.dataset.is_rgb and (folder / f"{name}{_BANDS}.yaml").is_file():
            name = f"{name}{_BANDS}"
        if not (file := folder / f"{name}.yaml").is_file():
            continue
        training = load(file, Recipe).training
        if training is not None and not _suits(training, images):
            left_out.append(
                f"{name} is left out: its views or normalisation are not for "
                f"{in_words(images.dataset.form)}."
            )
            continue
        if training is not None and training.batch_size > images.train:
            left_out.append(_too_few(name, training.batch_size, images.train))
            continue
        methods.append(name)
    if not {*methods} - {"random"}:
        raise UserError(
            str(images.params["train"]),
            f"{images.train} training images, fewer than a batch of every method",
            allowed=f"{_smallest_batch(proposal.regime, images, root):,} training images or more"
            + (", or --regime small" if proposal.regime != "small" else ""),
            remedy="add images",
        )
    return methods, left_out


def _suits(training: Training, images: OwnSet) -> bool:
    """True if the images can have the views and the normalisation of a training."""
    try:
        check_training("", training, images.dataset.form, "")
    except UserError:
        return False
    return True


def _shrinking(images: OwnSet, backbone: Backbone, size: int, gpu: str | None) -> str:
    text = f"{backbone.scale} sees {size} x {size} px."
    if images.short_side > 1.5 * size:
        seen = 40 * size / images.short_side
        what = "Tiles" if "tiles" in images.params else "Images"
        text += (
            f" {what} of {images.width} x {images.height} px are shrunk by their short side: an "
            f"object of 40 px becomes one of {seen:.1f} px."
        )
        side = stored_side(size)
        if "tiles" in type(images.dataset).model_fields and images.short_side > side:
            text += (
                f" With --tiles {side} images are cut, and it becomes one of "
                f"{40 * size / side:.1f} px."
            )
    if size < 224 and gpu is None:
        text += " vit_s16 sees 224 px, and needs a GPU."
    return text


def _tasks(proposal: Proposal, parts: Regime, root: Path) -> dict[str, list[str]]:
    """Tasks that the sets allow; their reasons are noted."""
    images, boxes = proposal.sets.evaluated, proposal.sets.boxes
    tasks: dict[str, list[str]] = {}
    said: list[str] = []
    target = images.dataset.target
    if target is not None:
        tasks |= {"knn": ["knn"], "linear": ["linear"]}
        name = _FINETUNE_NUMBERS if target == "number" and parts.finetune else parts.finetune
        if name is not None:
            finetune = load(root / f"protocols/{name}.yaml", Finetune)
            suits = _suits(finetune.training, images)
            if not suits:
                said.append(
                    "finetune is left out: its views or normalisation are not for "
                    f"{in_words(images.dataset.form)}."
                )
            elif finetune.training.batch_size > images.train:
                said.append(_too_few("finetune", finetune.training.batch_size, images.train))
            else:
                tasks["finetune"] = [name]
    else:
        said.append("Without labels there is no k-NN, linear probe or fine-tuning.")
    if images.dataset.has_captions:
        said.append("For the captions, add the method clip and retrieval: [retrieval].")
    segment: dict[str, list[str]] = {}
    if boxes is not None and boxes.dataset.has_pixel_classes:
        batch = load(root / f"protocols/{parts.segment}.yaml", Segment).batch_size
        if batch <= boxes.train:
            segment = {"segment": [parts.segment]}
        else:
            said.append(_too_few("segment", batch, boxes.train))
    if boxes is not None and not boxes.dataset.has_boxes:
        tasks |= segment
        said.append("detect and layout need objects, not only a class for each pixel.")
    elif boxes is not None:
        detect = parts.detect[boxes.train >= _MANY_SCENES]
        tasks["detect"] = [detect]
        protocol = load(root / f"protocols/{detect}.yaml", Detection)
        steps = round(protocol.epochs * boxes.train / protocol.batch_size)
        if steps < _FEW_STEPS:
            said.append(
                f"detect trains for only {steps} steps ({protocol.epochs:g} epochs): to see it "
                f"learn more, copy params/protocols/{detect}.yaml, raise epochs, and name the copy."
            )
        if boxes.dataset.has_masks:
            tasks |= segment | {"layout": [parts.layout]}
        else:
            said.append("segment and layout need masks.")
    if not tasks:
        said.append("geometry compares features without any; label some images to learn more.")
    if target is None:
        colours = images.dataset.form[0] == RGB[0]
        tasks = {"geometry": ["geometry" if colours else f"geometry{_BANDS}"], **tasks}
    if said:
        proposal.reasons["tasks"] = " ".join(said)
    return tasks


def _too_few(task: str, batch: int, images: int) -> str:
    return f"{task} is left out: its batch of {batch} is more than the {images} training images."


# --- As text


_WIDTH = 100


def dataset_text(found: OwnSet, command: str) -> str:
    """The params file of a set.

    Args:
        found: the set.
        command: that writes it, for the first comment.
    """
    opening = (
        f"{found.words[0].upper()}{found.words[1:]}: {found.train:,} images to train, "
        f"{found.val:,} to validate, of {found.width} x {found.height} px (median of a few)."
    )
    head = [_comment(f"Written by {command}"), _comment(opening)]
    return "".join([*head, *map(_comment, found.notes), _lines(found.params)])


def experiment_text(proposal: Proposal, command: str, run: str, time: str) -> str:
    """The params file of an experiment.

    Args:
        proposal: the experiment.
        command: that writes the file.
        run: the command that runs the experiment.
        time: estimated, in words.
    """
    text = _comment(f"Written by {command}") + _comment(f"{time} Run it:") + f"#   {run}\n"
    for key, value in proposal.content.items():
        if key in proposal.reasons:
            text += _comment(proposal.reasons[key])
        text += _lines({key: value})
    return text


def _comment(text: str) -> str:
    return (
        textwrap.fill(
            text,
            _WIDTH,
            initial_indent="# ",
            subsequent_indent="# ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )


def _lines(content: Mapping[str, Any]) -> str:
    """Keys and values as the project's reader of YAML has them."""
    text = ""
    for key, value in content.items():
        flow = yaml.safe_dump(
            [value], default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True
        )
        # PyYAML quotes a question mark, and writes the text 1e4 bare, which is read as a number.
        shown = [str(value)] if isinstance(value, str) else []
        shown += [flow.strip()[1:-1], json.dumps(value)]
        text += next(line for each in shown if _says(line := f"{key}: {each}\n", key, value))
    return text


def _says(line: str, key: str, value: object) -> bool:
    """True if the project's reader of YAML takes a line for this key and value."""
    try:
        return bool(yaml.load(line, Loader) == {key: value})  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        return False
