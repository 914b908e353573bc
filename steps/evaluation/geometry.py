"""Geometry of features on the sphere: effective rank, alignment and uniformity.

Alignment and uniformity are those of "Understanding contrastive representation learning through
alignment and uniformity on the hypersphere" (arXiv:2005.10242, section 4.1), of l2-normalised
features f:

    alignment  = mean over images of |f(x) - f(y)|^alpha,  x and y two random views of an image
    uniformity = log mean over pairs of images of exp(-t |f(x) - f(y)|^2)

Both are better the lower they are, and neither says much alone: features that are all the same
are perfectly aligned. The step also measures their effective rank (``steps.engine.watch``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from steps.core.seeds import derive
from steps.data.shards import Images
from steps.data.views import make_views
from steps.params.views import View


class Pairs(Dataset[tuple[Tensor, int]]):
    """Two random views (2, C, S, S) of each image of a split, in order, and its index."""

    def __init__(self, dataset: Path, split: str, view: View, size: int, seed: int) -> None:
        self.images = Images(dataset, split)
        self.view, self.size, self.seed = view, size, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        rng = np.random.Generator(np.random.Philox(derive(self.seed, "geometry", index)))
        views = make_views(self.images.pixels(index), [self.view, self.view], self.size, rng)
        return torch.stack(views), index


def alignment(first_ND: Tensor, second_ND: Tensor, alpha: float = 2.0) -> float:
    """Alignment of two views, one row per image: 0 to 2^alpha."""
    first, second = (F.normalize(each.double(), dim=1) for each in (first_ND, second_ND))
    return float((first - second).norm(dim=1).pow(alpha).mean())


def uniformity(features_ND: Tensor, t: float = 2.0, chunk: int = 1024) -> float:
    """Uniformity of one view of each of two images or more: at most 0, if all features are equal.

    Args:
        features_ND: features, one row per image.
        t: of the Gaussian potential.
        chunk: rows whose distances to all others are in memory at a time.

    Raises:
        ValueError: there is no pair.
    """
    rows = len(features_ND)
    if rows < 2:
        raise ValueError(f"{rows} images make no pair")
    unit = F.normalize(features_ND.float(), dim=1)
    total = torch.zeros((), dtype=torch.float64, device=unit.device)
    for part in unit.split(chunk):
        # |a - b|^2 = 2 - 2 a b on the sphere.
        total += torch.exp(2 * t * (part @ unit.T - 1)).sum(dtype=torch.float64)
    # Each image's pair with itself has a potential of 1 and is no pair.
    return ((total - rows) / (rows * (rows - 1))).clamp(min=1e-300).log().item()
