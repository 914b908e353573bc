"""Geometry of features: effective rank, alignment and uniformity, and LiDAR.

Alignment and uniformity are those of "Understanding contrastive representation learning through
alignment and uniformity on the hypersphere" (arXiv:2005.10242, section 4.1), of l2-normalised
features f:

    alignment  = mean over images of |f(x) - f(y)|^alpha,  x and y two random views of an image
    uniformity = log mean over pairs of images of exp(-t |f(x) - f(y)|^2)

Both are better the lower they are, and neither says much alone: features that are all the same
are perfectly aligned. The step also measures their effective rank (``steps.engine.watch``), which
is RankMe (arXiv:2210.02885), and LiDAR (``lidar``). These two are for choosing a recipe without
labels: both are better the higher they are.
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
from steps.params.protocols import LiDAR
from steps.params.views import View


class Pairs(Dataset[tuple[Tensor, int]]):
    """Two random views (2, C, S, S) of each image of a split, in order, and its index."""

    key = "geometry"
    """Name of the draws, which depend on it, the seed and the image."""
    count = 2
    """Views of an image."""

    def __init__(self, dataset: Path, split: str, view: View, size: int, seed: int) -> None:
        self.images = Images(dataset, split)
        self.view, self.size, self.seed = view, size, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        rng = np.random.Generator(np.random.Philox(derive(self.seed, self.key, index)))
        drawn = [self.view] * self.count
        return torch.stack(make_views(self.images.pixels(index), drawn, self.size, rng)), index


class ManyViews(Pairs):
    """Several random views (Q, C, S, S) uint8 of evenly spaced images of a split."""

    key = "lidar"

    def __init__(
        self, dataset: Path, split: str, view: View, size: int, seed: int, params: LiDAR
    ) -> None:
        super().__init__(dataset, split, view, size, seed)
        self.count, self.most = params.views, min(params.images, len(self.images))

    def __len__(self) -> int:
        return self.most

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return super().__getitem__(index * len(self.images) // self.most)


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


def lidar(features_NQD: Tensor, delta: float = 1e-4, epsilon: float = 1e-7) -> float:
    """LiDAR, a rank of linear discriminant analysis (arXiv:2312.04000, section 4), in float64.

    Each image is a class, its views are the class's samples. With e a view's features, m_i the mean
    over the views of image i and m the mean over all:

        S_b = mean over i of (m_i - m)(m_i - m)^T
        S_w = mean over i and views of (e - m_i)(e - m_i)^T + delta I
        LiDAR = exp(-sum_k p_k log p_k),  p_k = l_k / sum(l) + epsilon

    with l the eigenvalues of S_w^(-1/2) S_b S_w^(-1/2). A direction counts as far as images differ
    along it by more than views of one image do; RankMe counts both.

    Args:
        features_NQD: features of Q views of each of N images.
        delta: added to the variance within images in every direction.
        epsilon: that of RankMe.

    Returns:
        From 1 to the smaller of N - 1 and D; 0 if no image differs from another.
    """
    features = features_NQD.double().cpu()
    means_ND = features.mean(dim=1)
    between = means_ND - means_ND.mean(dim=0)
    within = (features - means_ND.unsqueeze(1)).flatten(0, 1)
    width = features.shape[-1]
    scatter_within = within.T @ within / len(within) + delta * torch.eye(width).double()
    values, vectors = torch.linalg.eigh(scatter_within)
    # Rounding may leave a value of a direction without variance below delta.
    whitened = between @ (vectors / values.clamp(min=delta).sqrt())
    spread = torch.linalg.eigvalsh(whitened.T @ whitened / len(whitened)).clamp(min=0)
    if spread.sum() == 0:
        return 0.0
    share = spread / spread.sum() + epsilon
    return torch.exp(-torch.xlogy(share, share).sum()).item()
