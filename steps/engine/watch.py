"""Measures of a training run: FLOPs, collapse, metrics and timing."""

from __future__ import annotations

import copy
import json
import logging
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from steps.command import UserError
from steps.command.machine import writing
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
    """Watches a run at the steps that are logged; a method without embeddings is not watched."""

    def __init__(self, title: str, total_steps: int, *, quiet: bool) -> None:
        self.title = title
        self.judged_from = GRACE * total_steps
        self.quiet = quiet
        self.signs: set[str] = set()
        """Values below their limits at the last judged step."""
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
    """Evaluation mode, so that batch norm neither couples images nor updates its statistics."""
    modes = [(module, module.training) for module in method.modules()]
    method.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


# --- Metrics, timing, and progress for the reader


METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
_LINE_SECONDS = 10.0


class Monitor:
    """Writes ``metrics.jsonl`` (the same for every run of the same thing) and ``timing.jsonl``.

    A terminal gets a progress bar; a file or a pipe gets a line every ten seconds.
    """

    def __init__(self, folder: Path, title: str, total_steps: int, *, quiet: bool) -> None:
        self.metrics_path = folder / METRICS
        self.timing_path = folder / TIMING
        self.title = title
        self.total_steps = total_steps
        self.quiet = quiet
        self._images = 0
        self._since = self._line = time.monotonic()
        self._bar: Bar | None = None

    def start(self, step: int, metrics: str | int) -> None:
        """Begin at a step.

        Args:
            step: steps made before.
            metrics: the lines of metrics.jsonl up to there, which replace the file: a killed run
                may have written more after its checkpoint. A checkpoint of an earlier version
                holds the number of their bytes instead.

        Raises:
            UserError: the file has fewer bytes than that.
        """
        if self.quiet:
            return
        with writing(self.metrics_path):
            if isinstance(metrics, int):
                metrics = self._first(metrics)
            self.metrics_path.write_text(metrics, encoding="utf-8")
        if sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[state]}"),
            )
            self._task = self._bar.add_task(
                self.title, total=self.total_steps, completed=step, state=""
            )
            self._bar.start()

    @property
    def metrics(self) -> str:
        """The lines that belong to a checkpoint made now."""
        return "" if self.quiet else self.metrics_path.read_text(encoding="utf-8")

    def stepped(self, images: int) -> None:
        """Count a step and the images of its global batch."""
        self._images += images
        if self._bar is not None:
            self._bar.advance(self._task)

    def write_start(self, values: dict[str, Any]) -> None:
        """Log what was measured before the first step, which has no loss."""
        if self.quiet:
            return
        _append(self.metrics_path, {"step": 0, "epoch": 0.0, **values})
        shown = "  ".join(f"{name} {value:.2f}" for name, value in values.items())
        log.info("%s  before the first step  %s", self.title, shown)

    def write(self, step: int, values: dict[str, Any], waited: float) -> None:
        """Log a window that ends with ``step``: its mean losses, rates, and its speed.

        Args:
            step: last step of the window.
            values: values for metrics.jsonl.
            waited: seconds that the device waited for data.
        """
        if self.quiet:
            return
        now = time.monotonic()
        elapsed = max(now - self._since, 1e-9)
        speed = self._images / elapsed
        timing = {
            "step": step,
            "images_per_second": round(speed, 1),
            "data_wait_share": round(waited / elapsed, 4),
            "peak_memory_mib": round(_peak_memory_mib(), 1),
        }
        _append(self.metrics_path, {"step": step, **values})
        _append(self.timing_path, timing)
        state = (
            f"loss {values['loss']:.4f}  {speed:.0f} images/s  "
            f"waiting for data {timing['data_wait_share']:.0%}  "
            f"{timing['peak_memory_mib']:.0f} MiB"
        )
        if self._bar is not None:
            self._bar.update(self._task, state=state)
        elif now - self._line > _LINE_SECONDS or step == self.total_steps:
            log.info("%s  step %d/%d  %s", self.title, step, self.total_steps, state)
            self._line = now
        self._since, self._images = now, 0

    def _first(self, size: int) -> str:
        """The first ``size`` bytes of metrics.jsonl."""
        content = self.metrics_path.read_bytes() if self.metrics_path.is_file() else b""
        if len(content) < size:
            raise UserError(
                str(self.metrics_path),
                f"{len(content)} bytes, and the checkpoint beside it belongs to {size}",
                remedy=f"remove {self.metrics_path.parent} and run again: the run starts from the "
                "beginning",
            )
        return content[:size].decode()

    def close(self) -> None:
        """Release the terminal."""
        if self._bar is not None:
            self._bar.stop()


def _append(path: Path, values: dict[str, Any]) -> None:
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def _peak_memory_mib() -> float:
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


class DataWaits:
    """Adds up the waits for data between two logs.

    On a CPU the wait of the host counts. A GPU still computes its earlier work meanwhile, and is
    idle only between the end of that work and the arrival of the data, which two events of its own
    clock measure.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._waits: list[tuple[float, Any, Any]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The host waits for data inside."""
        done, started = self._event(), time.monotonic()
        yield
        self._waits.append((time.monotonic() - started, done, self._event()))

    def take(self) -> float:
        """Seconds of all waits since the last call. The device must have finished its work."""
        waits, self._waits = self._waits, []
        return sum(
            seconds if done is None else min(seconds, done.elapsed_time(resumed) / 1000)
            for seconds, done, resumed in waits
        )

    def _event(self) -> Any:
        if self._device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
