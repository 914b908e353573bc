"""Frozen features: extracted in one pass of a backbone, read through a memory map."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.lib.format import write_array_header_1_0
from torch import Tensor

from steps.artifacts import Manifest, read_manifest, verify
from steps.command import UserError
from steps.core.finite import check_rows
from steps.data.loader import EvaluationViews, evaluation_batches
from steps.evaluation.frozen import FrozenBackbone
from steps.models.features import frozen_features

# --- Frozen features as the protocols read them: through a memory map


SPLITS = ("train", "val")


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of a split: (N, D) memory-mapped for each pooling, and labels as ``Images.targets``
    has them: (N,), or (N, C) of a set with several labels per image."""

    arrays: dict[str, npt.NDArray[np.float32]]
    labels: npt.NDArray[Any]

    def concatenated(self, poolings: Sequence[str]) -> Tensor:
        """(N, D * len(poolings)) float32, in memory."""
        return torch.from_numpy(np.concatenate([self.arrays[name] for name in poolings], axis=1))


def features_of(artifact: Path, backbone: Path, dataset: Path) -> Manifest:
    """The manifest of the features that a backbone gave of a dataset.

    Raises:
        UserError: they are another's, so that a number would stand under a wrong name, or images
            under wrong ones.
    """
    manifest = read_manifest(artifact, "features")
    given = {
        "backbone": (backbone, read_manifest(backbone, "pretrain")),
        "data": (dataset, verify(dataset, "prepare", shards=False)),
    }
    for role, (path, other) in given.items():
        if (found := manifest.inputs.get(role)) != other.digest:
            what = "dataset" if role == "data" else role
            raise UserError(
                str(artifact),
                f"features of another {what} than {path}: of the digest {str(found)[:12]}",
                allowed=other.digest[:12],
                remedy=f"extract them from it (python -m steps.features), or give the other {what}",
            )
    return manifest


def read_features(artifact: Path, split: str, poolings: Sequence[str]) -> FrozenFeatures:
    """Open a features artifact.

    Raises:
        UserError: a pooling that was not extracted, or bytes that are not those that were.
    """
    verify(artifact, "features")
    arrays = {}
    for pooling in poolings:
        path = artifact / f"{split}_{pooling}.npy"
        if not path.is_file():
            there = sorted(
                file.stem.removeprefix(f"{split}_")
                for file in artifact.glob(f"{split}_*.npy")
                if not file.stem.endswith("_labels")
            )
            raise UserError(
                str(artifact),
                f"pooling '{pooling}' was not extracted",
                allowed=", ".join(there),
                remedy="add it to the features protocol's poolings",
            )
        arrays[pooling] = np.load(path, mmap_mode="r")
    return FrozenFeatures(arrays, np.load(artifact / f"{split}_labels.npy"))


# --- Extract frozen features: one pass of the backbone over a set


@torch.inference_mode()
def feature_batches(
    backbone: FrozenBackbone,
    views: EvaluationViews,
    split: str,
    *,
    poolings: Sequence[str],
    batch_size: int,
    workers: int = 0,
) -> Iterator[dict[str, Tensor]]:
    """Features (b, D) float32 by pooling, on the CPU, one batch of images at a time, in order.

    Args:
        backbone: on the device to use.
        views: the split's images, in order.
        split: names the features in errors.
        poolings: those wanted.
        batch_size: images at a time.
        workers: processes that decode; 0: this one.

    Raises:
        UserError: a feature is not finite.
    """
    start = 0
    for images, _ in evaluation_batches(views, batch_size, workers):
        found = frozen_features(backbone.model, backbone.inputs(images), poolings)
        for pooling, features in found.items():
            check_rows(features, f"{pooling} features of {split}", start)
        yield {pooling: features.float().cpu() for pooling, features in found.items()}
        start += len(images)


def extract(
    backbone: FrozenBackbone,
    views: EvaluationViews,
    folder: Path,
    split: str,
    *,
    poolings: Sequence[str],
    batch_size: int,
    workers: int = 0,
) -> None:
    """Write ``<split>_<pooling>.npy`` (N, D) float32 and ``<split>_labels.npy``, the labels.

    Args:
        backbone: on the device to use.
        views: the split's images, in order.
        folder: where to write.
        split: names the files.
        poolings: each becomes a file.
        batch_size: images at a time.
        workers: processes that decode; 0: this one.

    Raises:
        UserError: a feature is not finite.
    """
    shape = (len(views), backbone.model.num_features)
    with ExitStack() as opened:
        files: dict[str, IO[bytes]] = {}
        for pooling in poolings:
            # Written, not mapped: on a full disk a write fails, and a mapping ends the process.
            file = opened.enter_context((folder / f"{split}_{pooling}.npy").open("wb"))
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            write_array_header_1_0(file, header)
            files[pooling] = file
        for batch in feature_batches(
            backbone, views, split, poolings=poolings, batch_size=batch_size, workers=workers
        ):
            for pooling, features in batch.items():
                files[pooling].write(features.numpy().astype("<f4", copy=False).tobytes())
    labels = io.BytesIO()  # np.save into a file does not say why a write failed
    np.save(labels, views.labels)
    (folder / f"{split}_labels.npy").write_bytes(labels.getvalue())
