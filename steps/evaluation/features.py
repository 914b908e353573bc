"""Frozen features as the protocols read them: through a memory map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steps.artifacts import Manifest, read_manifest, verify
from steps.command import UserError

SPLITS = ("train", "val")


@dataclass(frozen=True)
class FrozenFeatures:
    """Features of a split: (N, D) memory-mapped for each pooling, and labels (N,)."""

    arrays: dict[str, npt.NDArray[np.float32]]
    labels: npt.NDArray[np.int64]

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
