"""k-NN accuracy while training goes on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from steps.core.distributed import rank
from steps.data.loader import DatasetFacts, EvaluationViews, Label
from steps.data.shards import Images
from steps.data.views import normalise
from steps.evaluation.accuracy import correct_in_top, percent
from steps.evaluation.knn import knn_votes
from steps.models.backbones import BackboneModel
from steps.models.features import global_feature
from steps.params.recipe import OnlineKNN

log = logging.getLogger(__name__)

_BATCH = 256


class KNNWatch:
    """Measures a backbone by weighted k-NN at regular times of a run.

    Args:
        dataset: a prepared set with labels.
        params: how often, and on how many images.
        size: side in pixels of the images, cut from their centre.
        mean, std: of the input that the backbone expects.
        at_start: measure before the first step too.
    """

    def __init__(
        self,
        dataset: Path,
        params: OnlineKNN,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        at_start: bool = False,
    ) -> None:
        self.params, self.mean, self.std, self.at_start = params, mean, std, at_start
        self.train, self.train_labels = _spread(dataset, "train", params.train, size)
        self.val, self.val_labels = _spread(dataset, "val", params.val, size)

    def due(self, step: int, steps_per_epoch: int, total_steps: int) -> bool:
        """True after steps to measure at: once every ``every_epochs``, and at the end. Before the
        first step, which is step 0, if asked for ``at_start``."""
        if step == 0:
            return self.at_start
        every = self.params.every_epochs * steps_per_epoch
        return step == total_steps or step // every > (step - 1) // every

    @torch.no_grad()
    def measure(self, backbone: BackboneModel) -> float:
        """Top-1 accuracy in percent; the backbone is left as it was."""
        training = backbone.training
        backbone.eval()
        bank, queries = self._features(backbone, self.train), self._features(backbone, self.val)
        backbone.train(training)
        votes = knn_votes(
            bank,
            self.train_labels,
            queries,
            ks=[self.params.k],
            temperature=self.params.temperature,
            num_classes=int(self.train_labels.max()) + 1,
            chunk=len(queries),
        )
        (scores,) = (chunk[self.params.k] for chunk in votes)
        return percent(correct_in_top(scores, self.val_labels, 1), len(queries))

    def _features(self, backbone: BackboneModel, images: Subset[tuple[Tensor, Label]]) -> Tensor:
        device = next(backbone.parameters()).device
        return torch.cat(
            [
                global_feature(backbone, normalise(batch.to(device), self.mean, self.std))
                .float()
                .cpu()
                for batch, _ in DataLoader(images, _BATCH, generator=torch.Generator())
            ]
        )


def knn_watch(
    dataset: Path,
    params: OnlineKNN | None,
    size: int,
    facts: DatasetFacts,
    *,
    at_start: bool = False,
) -> KNNWatch | None:
    """The watch that a recipe asks for; None if it asks for none, or images have no single label.

    A set without labels is no error, since the watch does not change the run; the first process
    logs that it is left out.

    Args:
        dataset: a prepared set.
        params: ``training.knn`` of the recipe.
        size, at_start: as ``KNNWatch`` takes them.
        facts: of the images that the method trains on, whose normalisation the watch has too.
    """
    if params is None:
        return None
    images = Images(dataset, "train")
    if images.has_labels:
        return KNNWatch(dataset, params, size, facts.mean, facts.std, at_start=at_start)
    if rank() == 0:
        other = images.target in ("classes", "number")
        lacks = "single label per image" if other else "labels"
        log.info("%s has no %s: k-NN during training (training.knn) is left out", dataset, lacks)
    return None


def _spread(
    dataset: Path, split: str, most: int, size: int
) -> tuple[Subset[tuple[Tensor, Label]], Tensor]:
    """At most ``most`` images of a split, evenly spread over it, and their labels."""
    views = EvaluationViews(dataset, split, size, crop_fraction=1.0)
    count = min(most, len(views))
    indices = [index * len(views) // count for index in range(count)]
    return Subset(views, indices), torch.from_numpy(views.labels[indices])
