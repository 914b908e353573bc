"""Measures of a training run: FLOPs and collapse."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from steps.command import UserError
from steps.core.distributed import gather
from steps.core.schedules import Progress
from steps.methods.method import Batch, Draws, Method
from steps.models.hooked import run_hooked

# --- FLOPs of a training step, counted on the operations it runs


def flops_per_image(method: Method, batch: Batch, draws: Draws, progress: Progress) -> float:
    """FLOPs of a forward and a backward pass, divided by the images of ``batch``.

    Counted on a copy, so that the run does not change; a sharded method cannot be copied, so that
    its buffers are restored. Attention runs as plain matrix products, because fused kernels hide
    theirs. A multiply-add counts as two. The second encoding of gradient caching is not counted, so
    that a number does not depend on the device.
    """
    sharded = any(isinstance(parameter, DTensor) for parameter in method.parameters())
    trial = method if sharded else copy.deepcopy(method)
    before = {name: buffer.clone() for name, buffer in trial.named_buffers()}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        trial(batch, draws, progress)["loss"].backward()
    trial.zero_grad(set_to_none=True)
    for name, buffer in trial.named_buffers():
        buffer.copy_(before[name])
    return float(counter.get_total_flops()) / len(batch.labels)


# --- The collapse watch: do embeddings still differ from image to image?
# A method that pulls views together can end with one embedding for every image, or with embeddings
# in a few directions. Two numbers of the embeddings z of a global batch tell:
#
#     embedding_std  = sqrt(D) * mean over dimensions of std(z / |z|)   (SimSiam, arXiv:2011.10566,
#                      section 4.1: near 1 for embeddings spread over the sphere, 0 for a constant)
#     effective_rank = exp(-sum_k p_k log p_k), p = s / sum(s), s the singular values of z / |z|
#                      (RankMe, arXiv:2210.02885, equation 1: from 1 to min(B, D))
#
# and of the losses a third, where a method logs it:
#
#     kl             = KL(teacher | student) in nats (DINO, arXiv:2104.14294, section 5.3: 0 when
#                      the teacher says the same of every view: nothing is left to learn)


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limit:
    """Lower limit of a logged value."""

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
"""Limits below which a run counts as collapsed.

Measured: untrained vision transformers have a std of 0.3 to 0.6 and a rank of 5 to 13, untrained
ResNets 0.05 and 2.5. DINO on ``shapes`` has a kl of 0.01 to 0.03 while its teacher flips between
one prototype and all, and of 0.4 or more once it tells images apart. A linear probe of a run that
ended with kl 0.02 and rank 1.7 was worse than one of a random initialisation.
"""
GRACE = 0.1
"""Share of a run that is not judged, because an untrained network hardly tells images apart."""


def effective_rank(features_ND: Tensor, epsilon: float = 1e-7) -> float:
    """RankMe (arXiv:2210.02885, equation 1), at most the smaller of N and D, in float64.

    exp(-sum_k p_k log p_k) with p_k = s_k / sum(s) + ``epsilon``, of the singular values s.
    """
    features = features_ND.double()
    rows, dim = features.shape
    # The singular values are the roots of the eigenvalues of the smaller of the two products.
    product = features.T @ features if dim <= rows else features @ features.T
    singular = torch.linalg.eigvalsh(product.cpu()).clamp(min=0).sqrt()
    share = singular / singular.sum().clamp(min=epsilon or 1e-300) + epsilon
    return torch.exp(-torch.xlogy(share, share).sum()).item()


def embedding_statistics(embeddings_BD: Tensor) -> dict[str, float]:
    """``embedding_std`` and ``effective_rank`` of embeddings (B, D), computed in float64."""
    unit = F.normalize(embeddings_BD.double(), dim=1)
    std = unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5
    return {"embedding_std": std.item(), "effective_rank": effective_rank(unit, epsilon=0)}


class CollapseWatch:
    """Watches a run at the steps that are logged; a method without embeddings is not watched.

    Args:
        title: title of the run.
        total_steps: its length.
        quiet: warn of nothing, as in other processes than the first.
        signs: those of the checkpoint that the run resumes from.
    """

    def __init__(
        self,
        title: str,
        total_steps: int,
        *,
        quiet: bool,
        signs: Mapping[str, float] | None = None,
    ) -> None:
        self.title = title
        self.judged_from = GRACE * total_steps
        self.quiet = quiet
        self.signs = dict(signs or {})
        """Values below their limits at the last judged step, by name."""
        self._seen: list[Tensor] = []

    @property
    def collapsed(self) -> bool:
        """True if there was a sign of collapse at the last logged step."""
        return bool(self.signs)

    @torch.no_grad()
    def see(self, method: Method, batch: Batch) -> None:
        """Keep embeddings of a micro-batch. Draws, gradients and buffers do not change."""
        with _evaluating(method):
            embeddings = run_hooked(method, type(method).embeddings, batch)
        if embeddings is not None:
            self._seen.append(embeddings.float())

    @torch.no_grad()
    def judge(self, step: int, losses: Mapping[str, float]) -> dict[str, float]:
        """Measure the kept embeddings, in all processes; warn of each value below its limit.

        Args:
            step: updates so far.
            losses: the mean losses that are logged.

        Returns:
            The statistics to log; none for a method that is not watched.
        """
        if not self._seen:
            return {}
        # Of all processes: embeddings of one share of a batch have a lower rank.
        statistics = embedding_statistics(gather(torch.cat(self._seen)))
        self._seen = []
        if step >= self.judged_from:
            self._judge(step, {**losses, **statistics})
        return statistics

    def _judge(self, step: int, values: Mapping[str, float]) -> None:
        low = [limit for limit in LIMITS if values.get(limit.value, limit.least) < limit.least]
        for limit in low:
            # Once, when the sign appears: every logged step would repeat it.
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
        self.signs = {limit.value: values[limit.value] for limit in low}

    def error(self, step: int, where: str, checkpoint: Path | None) -> UserError:
        """The error that ends a run with ``on_collapse: stop``.

        Args:
            step: updates so far.
            where: the params file.
            checkpoint: checkpoint after ``step``, with which the run can go on.
        """
        low = [limit for limit in LIMITS if limit.value in self.signs]
        found = "; ".join(
            f"{limit.value} is {self.signs[limit.value]:.3g}, below {limit.least:g}: "
            f"{limit.meaning}"
            for limit in low
        )
        remedies = "; ".join(dict.fromkeys(limit.remedy for limit in low))
        return UserError(
            f"{where}: training.on_collapse",
            f"stop, and {self.title} collapsed at step {step}: {found}",
            remedy=f"{remedies}; or set on_collapse: warn, and the same command goes on from "
            f"{checkpoint}",
        )


@contextmanager
def _evaluating(method: Method) -> Iterator[None]:
    """Evaluation mode, so that batch norm neither couples images nor updates its statistics."""
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
