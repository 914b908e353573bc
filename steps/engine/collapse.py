"""The collapse watch: is what a method learns still different from image to image?

A method that pulls views together can end with one embedding for every image, or with embeddings
in a few directions. Two numbers of the embeddings z of a global batch tell:

    embedding_std  = sqrt(D) * mean over dimensions of std(z / |z|)   (SimSiam, arXiv:2011.10566,
                     section 4.1: near 1 for embeddings spread over the sphere, 0 for a constant)
    effective_rank = exp(-sum_k p_k log p_k), p = s / sum(s), s the singular values of z / |z|
                     (RankMe, arXiv:2210.02885, equation 1: from 1 to min(B, D))

and of the losses a third, where a method logs it:

    kl             = KL(teacher | student) in nats (DINO, arXiv:2104.14294, section 5.3: 0 when the
                     teacher says the same of every view, so that there is nothing left to learn)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from steps.engine.distributed import gather
from steps.methods.method import Batch, Method
from steps.models.hooked import run_hooked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limit:
    """A logged value, and how low it may fall."""

    value: str
    least: float
    meaning: str
    remedy: str


LIMITS = (
    Limit(
        "embedding_std",
        0.02,
        "the embeddings of any two images have a cosine above 0.9996",
        "lower the learning rate, warm up longer, or slow the teacher down (momentum nearer 1)",
    ),
    Limit(
        "effective_rank",
        2.0,
        "the embeddings lie along one direction",
        "lower the learning rate or the weight decay, or take a larger batch",
    ),
    Limit(
        "kl",
        0.05,
        "the teacher says nearly the same of every view, and the student with it",
        "teacher_entropy near 0: raise teacher_temp or centre faster; near its maximum, the log of "
        "the prototypes: lower teacher_temp",
    ),
)
"""What counts as collapse. Measured: untrained vision transformers have a std of 0.3 to 0.6 and a
rank of 5 to 13, untrained ResNets 0.05 and 2.5. DINO on ``shapes`` has a kl of 0.01 to 0.03 while
its teacher flips between one prototype and all, and one of 0.4 and more once it tells images apart;
a run of it that ended with kl 0.02 and rank 1.7 had a linear probe below random initialisation's.
"""
GRACE = 0.1
"""The share of a run that is not judged: an untrained network tells images apart but little."""


def embedding_statistics(embeddings_BD: Tensor) -> dict[str, float]:
    """``embedding_std`` and ``effective_rank`` of embeddings (B, D), computed in float64."""
    unit = F.normalize(embeddings_BD.double(), dim=1)
    rows, dim = unit.shape
    std = unit.std(dim=0, correction=0).mean() * dim**0.5
    # The singular values are the roots of the eigenvalues of the smaller of the two products.
    product = unit.T @ unit if dim <= rows else unit @ unit.T
    singular = torch.linalg.eigvalsh(product.cpu()).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=1e-300)
    rank = torch.exp(-torch.xlogy(share, share).sum())
    return {"embedding_std": std.item(), "effective_rank": rank.item()}


class CollapseWatch:
    """Watches a run at the steps that are logged; a method without embeddings is not watched."""

    def __init__(self, title: str, total_steps: int, *, quiet: bool) -> None:
        self.title = title
        self.judged_from = GRACE * total_steps
        self.quiet = quiet
        self.signs: set[str] = set()
        """The values below their limits at the last logged step that was judged."""
        self._seen: list[Tensor] = []

    @property
    def collapsed(self) -> bool:
        """Whether there was a sign of collapse at the last logged step."""
        return bool(self.signs)

    @torch.no_grad()
    def see(self, method: Method, batch: Batch) -> None:
        """Take in a micro-batch. Nothing of the run changes: no draw, no gradient, no buffer."""
        with _evaluating(method):
            embeddings = run_hooked(method, type(method).embeddings, batch)
        if embeddings is not None:
            self._seen.append(embeddings.float())

    @torch.no_grad()
    def judge(self, step: int, losses: Mapping[str, float]) -> dict[str, float]:
        """Measure what was seen, in all processes; warn of each value that falls below its limit.

        Args:
            step: updates so far.
            losses: the means that the step is logged with.

        Returns:
            the statistics, to be logged; none for a method that is not watched.
        """
        if not self._seen:
            return {}
        statistics = embedding_statistics(gather(torch.cat(self._seen)))
        self._seen = []
        if step >= self.judged_from:
            self._judge(step, {**losses, **statistics})
        return statistics

    def _judge(self, step: int, values: Mapping[str, float]) -> None:
        low = [limit for limit in LIMITS if values.get(limit.value, limit.least) < limit.least]
        for limit in low:
            if limit.value in self.signs or self.quiet:
                continue
            log.warning(
                "collapse: %s at step %d: %s is %.3g, below %g: %s; remedy: %s",
                self.title,
                step,
                limit.value,
                values[limit.value],
                limit.least,
                limit.meaning,
                limit.remedy,
            )
        self.signs = {limit.value for limit in low}


@contextmanager
def _evaluating(method: Method) -> Iterator[None]:
    """Evaluation mode, so that batch norm neither couples the images nor moves; then as it was."""
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
