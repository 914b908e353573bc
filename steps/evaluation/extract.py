"""Extract frozen features: one pass of the backbone over a set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from steps.data.loader import EvaluationViews, evaluation_batches
from steps.data.views import normalise
from steps.models.backbones import BackboneModel
from steps.models.features import frozen_features


@torch.inference_mode()
def extract(
    backbone: BackboneModel,
    views: EvaluationViews,
    folder: Path,
    split: str,
    *,
    poolings: Sequence[str],
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Write ``<split>_<pooling>.npy`` (N, D) float32 and ``<split>_labels.npy`` (N,) int64.

    Args:
        backbone: in eval mode, on the device to use.
        views: the split's images, in order.
        folder: where to write.
        split: names the files.
        poolings: each becomes a file.
        batch_size: images at a time.
        mean, std: of the input that the backbone expects.
    """
    device = next(backbone.parameters()).device
    arrays = {
        pooling: open_memmap(
            folder / f"{split}_{pooling}.npy", "w+", np.float32, (len(views), backbone.num_features)
        )
        for pooling in poolings
    }
    start = 0
    for images, _ in evaluation_batches(views, batch_size):
        inputs = normalise(images.to(device), mean, std)
        for pooling, features in frozen_features(backbone, inputs, poolings).items():
            arrays[pooling][start : start + len(images)] = features.float().cpu().numpy()
        start += len(images)
    for array in arrays.values():
        array.flush()
    np.save(folder / f"{split}_labels.npy", views.labels)
