"""Extract frozen features: one pass of the backbone over a set."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from torch import Tensor

from steps.data.loader import EvaluationViews, evaluation_batches
from steps.data.views import normalise
from steps.models.backbones import BackboneModel
from steps.models.features import frozen_features
from steps.models.finite import check_rows


@torch.inference_mode()
def feature_batches(
    backbone: BackboneModel,
    views: EvaluationViews,
    split: str,
    *,
    poolings: Sequence[str],
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Iterator[dict[str, Tensor]]:
    """Features (b, D) float32 by pooling, on the CPU, of so many images at a time, in order.

    Args:
        backbone: in eval mode, on the device to use.
        views: the split's images, in order.
        split: names the features in errors.
        poolings: those wanted.
        batch_size: images at a time.
        mean, std: of the input that the backbone expects.

    Raises:
        UserError: a feature is not finite.
    """
    device = next(backbone.parameters()).device
    start = 0
    for images, _ in evaluation_batches(views, batch_size):
        inputs = normalise(images.to(device), mean, std)
        found = frozen_features(backbone, inputs, poolings)
        for pooling, features in found.items():
            check_rows(features, f"{pooling} features of {split}", start)
        yield {pooling: features.float().cpu() for pooling, features in found.items()}
        start += len(images)


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

    Raises:
        UserError: a feature is not finite.
    """
    shape = (len(views), backbone.num_features)
    with ExitStack() as opened:
        files: dict[str, IO[bytes]] = {}
        for pooling in poolings:
            # Written, not mapped: on a full disk a write fails, and a mapping ends the process.
            file = opened.enter_context((folder / f"{split}_{pooling}.npy").open("wb"))
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            write_array_header_1_0(file, header)
            files[pooling] = file
        for batch in feature_batches(
            backbone,
            views,
            split,
            poolings=poolings,
            batch_size=batch_size,
            mean=mean,
            std=std,
        ):
            for pooling, features in batch.items():
                files[pooling].write(features.numpy().astype("<f4", copy=False).tobytes())
    labels = io.BytesIO()  # np.save into a file does not say why a write failed
    np.save(labels, views.labels)
    (folder / f"{split}_labels.npy").write_bytes(labels.getvalue())
