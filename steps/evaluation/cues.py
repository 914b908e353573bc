"""Factors that features tell in drawn images, and the cue that they follow.

Where a set's cues conflict, an image's outline is of one class and one other cue of another. The
share of images that a classifier gives to either says what a class is by its features, after
Geirhos et al. (arXiv:1811.12231, section 2); it was trained on images whose cues agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from steps.artifacts import read_manifest
from steps.artifacts.decisions import Decisions, of_values
from steps.command import UserError
from steps.data.loader import EvaluationViews
from steps.data.shards import Images
from steps.evaluation.features import feature_batches
from steps.evaluation.frozen import FrozenBackbone

CUES: dict[str, tuple[str, ...]] = {
    "texture": ("texture",),
    "colour": ("colour",),
    "ground": ("ground_colour", "ground_texture"),
}
"""The cues that contradict outlines, with the factors that each is made of."""


class Seen:
    """Both splits of a drawn set as a frozen backbone sees them: all in memory.

    Args:
        backbone: an artifact.
        data: a prepared set.
        poolings: the features wanted.
        crop_fraction, batch_size: as protocols have them.

    Raises:
        UserError: a feature is not finite.
    """

    def __init__(
        self,
        backbone: Path,
        data: Path,
        poolings: Sequence[str],
        crop_fraction: float,
        batch_size: int,
    ) -> None:
        frozen = FrozenBackbone.load(backbone)
        frozen = frozen.to("cuda" if torch.cuda.is_available() else "cpu")
        self._features: dict[tuple[str, str], Tensor] = {}
        self.labels: dict[str, Tensor] = {}
        """The class index of each image (N,) by split."""
        self.ids: dict[str, list[str]] = {}
        """The id of each image by split."""
        for split in ("train", "val"):
            views = EvaluationViews(data, split, frozen.size, crop_fraction)
            self.labels[split] = torch.from_numpy(views.labels)
            self.ids[split] = views.images.ids
            batches = list(
                feature_batches(frozen, views, split, poolings=poolings, batch_size=batch_size)
            )
            for pooling in poolings:
                self._features[split, pooling] = torch.cat([each[pooling] for each in batches])

    def features(self, split: str, poolings: Sequence[str]) -> Tensor:
        """(N, D * len(poolings)) float32."""
        return torch.cat([self._features[split, pooling] for pooling in poolings], dim=1)


def factors(data: Path, split: str, names: Sequence[str]) -> dict[str, Tensor]:
    """Factors of the images of a split: (N,) int64 by name.

    Raises:
        UserError: the set does not tell it.
    """
    images = Images(data, split)
    return {name: torch.from_numpy(images.factor(name)) for name in names}


def check_conflicts(data: Path) -> None:
    """Require a validation image in which each cue contradicts the outline.

    Raises:
        UserError: the set has none, or does not tell.
    """
    conflict = factors(data, "val", ["conflict"])["conflict"]
    names = read_manifest(data, "prepare").facts["factors"]["conflict"]
    for cue in CUES:
        if not (conflict == names.index(cue)).any():
            raise UserError(
                f"{data}: val",
                f"{len(conflict)} images, in none of which {cue} contradicts the outline",
                allowed="one or more for each cue",
                remedy="draw more validation images",
            )


def need_independent(data: Path) -> dict[str, int]:
    """The number of values of each factor of a set, once none of them tells about another.

    Raises:
        UserError: the set is not drawn so.
    """
    manifest = read_manifest(data, "prepare")
    cues = manifest.params.get("cues")
    if cues is None or any(cues.values()):
        raise UserError(
            str(data),
            "its factors are not told, or tell of each other",
            allowed="a drawn set (format shapes) with cues whose probabilities are 0",
            remedy="take params/datasets/shapes_independent.yaml",
        )
    return {name: len(values) for name, values in manifest.facts["factors"].items()}


def looks(data: Path) -> dict[str, Tensor]:
    """Looks of each class: (C, F) values of the factors that a cue is made of, by cue.

    It is read off the training images, whose cues agree.

    Raises:
        UserError: they do not, or the set does not tell its factors.
    """
    labels = torch.from_numpy(Images(data, "train").labels)
    first = torch.stack([(labels == label).nonzero()[0, 0] for label in labels.unique()])
    found = {}
    for cue, names in CUES.items():
        drawn = torch.stack(list(factors(data, "train", names).values()), dim=1)
        found[cue] = drawn[first]
        if not torch.equal(found[cue][labels], drawn):
            raise UserError(
                str(data),
                f"images of a class differ in {cue} in train, where all cues are to agree",
                allowed="a drawn set with conflicts: true",
                remedy="take params/datasets/shapes_conflicts.yaml",
            )
    return found


def decided(
    predicted: Tensor, labels: Tensor, data: Path, of_classes: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Decisions for the outline (``outline_vs_<cue>``) and for the cue that contradicts it
    (``<cue>_vs_outline``), by metric: (N,) 100 where an image is decided so, 0 where it is not, and
    NaN where another cue conflicts.

    Args:
        predicted: (N,) int64 class indices of the validation images.
        labels: (N,) int64, of their outlines.
        data: the set.
        of_classes: from :func:`looks`. Where two classes share a look, either is a decision for it.
    """
    conflict = factors(data, "val", ["conflict"])["conflict"]
    names = read_manifest(data, "prepare").facts["factors"]["conflict"]
    values = {}
    for cue, made_of in CUES.items():
        here = conflict == names.index(cue)
        shown = torch.stack(list(factors(data, "val", made_of).values()), dim=1)
        other = (of_classes[cue][predicted] == shown).all(dim=1)
        for metric, given in (
            (f"outline_vs_{cue}", predicted == labels),
            (f"{cue}_vs_outline", other),
        ):
            values[metric] = torch.where(here, 100.0 * given, float("nan"))
    return values


def scores(values: Mapping[str, Tensor]) -> dict[str, tuple[float, int]]:
    """Mean of each metric over the images that count, and their number."""
    return {
        metric: (float(each.double().nanmean()), int((~each.isnan()).sum()))
        for metric, each in values.items()
    }


def kept(ids: Sequence[str], values: Mapping[str, Tensor]) -> Decisions:
    """The decisions behind :func:`scores`, one row per image."""
    columns = {
        metric: [None if math.isnan(value) else value for value in each.tolist()]
        for metric, each in values.items()
    }
    return of_values(ids, columns)
