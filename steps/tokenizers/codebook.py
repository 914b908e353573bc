"""A codebook on the unit sphere that follows the features by moving averages (BEiT v2, VQ-KD)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.distributed import sum_over_processes

_ROUNDS = 10


class Codebook(nn.Module):
    """K codes of unit norm; a feature's code is the nearest (arXiv:2208.06366, equation 1).

    After a step, each code in use moves towards the normalised mean m of the features that it took:

        e <- norm(decay * e + (1 - decay) * norm(m))

    ``accumulate`` collects the features of each micro-batch, ``update`` moves the codes by the
    features of the whole global batch, so that they do not depend on how it was cut. A
    code without features stays: the reference revives none.
    """

    codes: Tensor
    """(K, C)."""
    cluster_size: Tensor
    """(K,), the moving average of how many features a code takes, from zero in every epoch. It is a
    statistic: nothing is divided by it."""
    started: Tensor
    """(1,), 1 once the codebook is initialised."""
    start_sizes: Tensor
    """(K,), how many features each cluster had where k-means started the codes."""
    _sums: Tensor

    def __init__(self, size: int, dim: int, decay: float, *, kmeans_init: bool) -> None:
        super().__init__()
        self.decay = decay
        codes = torch.zeros(size, dim) if kmeans_init else F.normalize(torch.randn(size, dim))
        self.register_buffer("codes", codes)
        self.register_buffer("cluster_size", torch.zeros(size))
        self.register_buffer("started", torch.full((1,), float(not kmeans_init)))
        self.register_buffer("start_sizes", torch.zeros(size))
        self._ready = False
        self.register_buffer("_sums", torch.zeros(size, dim), persistent=False)
        self.use = CodeUse(size)

    @property
    def ready(self) -> bool:
        """``started``, asked of the device only until it is so."""
        self._ready = self._ready or bool(self.started)
        return self._ready

    def nearest(self, features: Tensor) -> Tensor:
        """The code of each feature of unit norm: (..., C) to (...) int64, the first of equals."""
        squares = features.square().sum(dim=-1, keepdim=True) + self.codes.square().sum(dim=-1)
        return (squares - 2 * features @ self.codes.T).argmin(dim=-1)

    @torch.no_grad()
    def accumulate(self, features: Tensor, indices: Tensor) -> None:
        """Collect features (..., C) of unit norm and their codes (...)."""
        self._sums.index_add_(0, indices.flatten(), features.detach().float().flatten(0, -2))
        self.use.accumulate(indices)

    @torch.no_grad()
    def update(self, *, new_epoch: bool) -> Tensor:
        """Update by what was collected, here and in all other processes.

        Returns:
            (K,) how many features each code took.
        """
        sums, counts = sum_over_processes(self._sums), self.use.take()
        if new_epoch:
            self.cluster_size.zero_()
        self.cluster_size.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        used = (counts > 0).unsqueeze(1)
        means = F.normalize(sums / counts.clamp(min=1).unsqueeze(1), dim=-1)
        target = torch.where(used, means, self.codes)
        blended = self.codes * self.decay + target * (1 - self.decay)
        self.codes.copy_(F.normalize(blended, dim=-1))
        self._sums.zero_()
        return counts

    @torch.no_grad()
    def start(self, features_NC: Tensor, order_N: Tensor) -> None:
        """Take the centres of clusters of the features, N of the whole global batch."""
        codes, sizes = kmeans(features_NC, order_N, len(self.codes))
        self.codes.copy_(codes)
        self.start_sizes.copy_(sizes)
        self.started.fill_(1)


def kmeans(
    features_NC: Tensor, order_N: Tensor, clusters: int, rounds: int = _ROUNDS
) -> tuple[Tensor, Tensor]:
    """Clusters on the unit sphere: assignment by the largest dot product, centres normalised.

    A cluster without features keeps its centre.

    Args:
        features_NC: of unit norm.
        order_N: a permutation; the centres start at the first features in it, from its beginning
            again where there are fewer features than clusters.
        clusters: K.
        rounds: of assignment and update.

    Returns:
        The centres (K, C), and the sizes (K,) of the last assignment.
    """
    first = order_N[torch.arange(clusters, device=order_N.device) % len(order_N)]
    centres = features_NC[first]
    sizes = features_NC.new_zeros(clusters)
    for _ in range(rounds):
        nearest = (features_NC @ centres.T).argmax(dim=-1)
        sizes = features_NC.new_zeros(clusters)
        sizes.index_add_(0, nearest, features_NC.new_ones(len(nearest)))
        sums = torch.zeros_like(centres).index_add_(0, nearest, features_NC)
        means = F.normalize(sums / sizes.clamp(min=1).unsqueeze(1), dim=-1)
        centres = torch.where((sizes > 0).unsqueeze(1), means, centres)
    return centres, sizes


class CodeUse(nn.Module):
    """Counts how often each code is taken between two steps, in all processes."""

    _counts: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("_counts", torch.zeros(size), persistent=False)

    @torch.no_grad()
    def accumulate(self, indices: Tensor) -> None:
        """Count codes, of any shape."""
        indices = indices.flatten()
        self._counts.index_add_(0, indices, torch.ones_like(indices, dtype=torch.float32))

    @torch.no_grad()
    def take(self) -> Tensor:
        """(K,) the counts since the last time."""
        counts = sum_over_processes(self._counts).clone()  # one process's own are zeroed here
        self._counts.zero_()
        return counts


def use_of(counts_K: Tensor) -> dict[str, Tensor]:
    """Values to log: the share of codes in use, and the perplexity of their use."""
    return {"codes_used": (counts_K > 0).double().mean(), "perplexity": perplexity(counts_K)}


def perplexity(counts_K: Tensor) -> Tensor:
    """exp of the entropy of how often each code is taken: 1 to K, a scalar."""
    shares = counts_K.double() / counts_K.sum()
    return (-torch.xlogy(shares, shares).sum()).exp()
