"""Batches in an order that only depends on the seed, from any step on, for any device count."""

from __future__ import annotations

import atexit
import copy
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from torch.utils.data._utils import signal_handling

from steps.artifacts import verify
from steps.command import UserError
from steps.command.machine import writing
from steps.core.distributed import world_size
from steps.core.seeds import derive, generator
from steps.data.shards import Images
from steps.data.views import evaluation_view, make_views
from steps.params.sets import RGB, Target
from steps.params.views import View, sides

if TYPE_CHECKING:
    from steps.data.text import Captions

# --- From a recipe's global batch to what a device takes at a time


@dataclass(frozen=True)
class BatchPlan:
    """Split of a global batch: one share per process, in ``accumulation`` micro-batches."""

    global_batch: int
    rank: int
    world: int
    accumulation: int

    @property
    def micro_batch(self) -> int:
        """Images that go through a device at a time."""
        return self.global_batch // (self.world * self.accumulation)

    def micro_batches(self) -> Iterator[slice]:
        """This process's parts of the global batch, in order."""
        first = self.rank * self.global_batch // self.world
        for index in range(self.accumulation):
            start = first + index * self.micro_batch
            yield slice(start, start + self.micro_batch)


def with_partners(part: slice, batch: int) -> slice:
    """The rows of a micro-batch and of their partners: pairs 0 and 1, 2 and 3, … whole.

    Args:
        part: rows of the global batch.
        batch: the global batch; the last row of an odd one has no partner.
    """
    return slice(part.start - part.start % 2, min(part.stop + part.stop % 2, batch))


def plan_batch(
    global_batch: int, max_per_device: int, *, rank: int, world: int, where: str
) -> BatchPlan:
    """The fewest equal micro-batches that fit a device and add up to the global batch.

    Raises:
        UserError: the devices cannot divide the batch; ``where`` names the params file.
    """
    if global_batch % world:
        near = global_batch - global_batch % world
        raise UserError(
            f"{where}: training.batch_size",
            f"a global batch of {global_batch} does not divide over {world} devices",
            allowed=f"a multiple of {world}, such as {max(near, world)}",
            remedy="run on a number of devices that divides it, or change the recipe",
        )
    share = global_batch // world
    accumulation = -(-share // max_per_device)
    while share % accumulation:
        accumulation += 1
    return BatchPlan(global_batch, rank, world, accumulation)


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """Every batch norm of a module."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


@contextmanager
def refusing_batch_norm(
    module: nn.Module, micro_batch: int, share: int, where: str
) -> Iterator[None]:
    """Within the context no batch norm of ``module`` may train on less than a process's batch.

    Args:
        module: the method.
        micro_batch: images that go through a device at a time.
        share: images of the process's batch; if no more, everything is as it was.
        where: the params file that errors name.

    Raises:
        UserError: one did, or has a single value to take statistics of.
    """

    def refuse(norm: nn.Module, inputs: Any) -> None:
        if not norm.training:
            return
        if inputs[0].numel() // inputs[0].shape[1] * world_size() < 2:
            raise UserError(
                f"{where}: training.batch_size",
                "a batch norm gets one value a channel, which has no statistics",
                allowed="2 or more",
                remedy="raise it, or take a backbone or a head without batch norm",
            )
        if micro_batch < share:
            raise UserError(
                f"{where}: training.max_batch_per_device",
                f"a device takes {micro_batch} of its {share} images at a time, but batch norm "
                "needs them together",
                allowed=f"{share} or more on so many devices",
                remedy="raise it, train on more devices, or take a backbone without batch norm",
            )

    hooks = [norm.register_forward_pre_hook(refuse) for norm in batch_norms(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
STALL_SECONDS = 600
"""Seconds that a run waits for a batch of its loading processes, before it ends with an error."""

T = TypeVar("T")


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of a prepared set that a training run needs."""

    name: str
    num_classes: int
    train_images: int
    mean: list[float]
    std: list[float]
    channels: int = 3
    bits: int = 8
    target: Target | None = None
    """Target of a probe on the set; None: it has no labels."""

    @property
    def is_rgb(self) -> bool:
        """True for images of three channels of 8 bits."""
        return (self.channels, self.bits) == RGB

    def of(self, images: int) -> DatasetFacts:
        """The same set with only ``images`` training images in use."""
        return replace(self, train_images=images)

    def normalised_by(self, mean: list[float], std: list[float]) -> DatasetFacts:
        """The same set, fed to a network that expects another normalisation."""
        return replace(self, mean=mean, std=std)


TARGETS: dict[str, Target] = {
    "classification": "class",
    "multilabel": "classes",
    "regression": "number",
}
"""Target of a probe, by the kind of the set."""


def dataset_facts(
    dataset: Path, labels: bool = False, targets: Sequence[Target] = ("class",)
) -> DatasetFacts:
    """Read the facts of a prepared set.

    Args:
        dataset: the artifact.
        labels: the set must have labels or numbers.
        targets: of a probe, those that are taken.

    Raises:
        UserError: no such artifact, ``labels`` are needed and it has none of ``targets``, or bytes
            that are not those that were written (of images, a reader says it).
    """
    facts = verify(dataset, "prepare", shards=False).facts
    target = TARGETS.get(facts["kind"])
    if labels and target not in targets:
        allowed = " or ".join(kind for kind, known in TARGETS.items() if known in targets)
        without = ", without labels" if target is None else ""
        raise UserError(str(dataset), f"a {facts['kind']} set{without}", allowed=f"a {allowed} set")
    return DatasetFacts(
        name=facts["dataset"],
        num_classes=len(facts["classes"]),
        train_images=facts["splits"]["train"]["images"],
        mean=facts["mean"],
        std=facts["std"],
        channels=facts.get("channels", RGB[0]),
        bits=facts.get("bits", RGB[1]),
        target=target,
    )


def check_two_classes(dataset: Path, classes: int, target: Target = "class") -> None:
    """A classifier of one class per image, or its accuracy, needs two classes to decide between.

    Raises:
        UserError: ``dataset``, a prepared set or its features, has fewer.
    """
    if target == "class" and classes < 2:
        raise UserError(
            str(dataset),
            f"a set of {classes} class{'es' if classes != 1 else ''}",
            allowed="two classes or more",
            remedy="evaluate on a set with more classes, or leave tasks on labels out",
        )


class Samples(NamedTuple):
    """One item of the loader: B training images, not yet normalised."""

    views: list[Tensor]
    """One (B, C, S, S) tensor a view, uint8 or uint16."""
    labels: Tensor
    """(B,) int64, -1 where the set has none; (B, C) float32 of 1 and 0 of a set with several labels
    per image; (B,) float32 of a set of numbers."""
    text: Tensor | None
    """Token ids (B, L) int64 of a caption of each image, for a method that takes them."""


Label = int | float | npt.NDArray[np.float32]
"""Label of one image: a class index (-1: nothing), a number, or 1 and 0 per class."""


class TrainingViews(Dataset[tuple[list[Tensor], Label, Tensor | None]]):
    """Views of training images, with a caption; an item is asked for by (epoch, index)."""

    def __init__(
        self,
        dataset: Path,
        views: Sequence[View],
        size: int,
        seed: int,
        captions: Captions | None = None,
    ) -> None:
        self.images = Images(dataset, "train")
        self.views = views
        self.size = size
        self.seed = seed
        self.captions = captions
        self.labels = _labels(self.images)
        self.rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images) if self.rows is None else len(self.rows)

    @property
    def sides(self) -> tuple[int, ...]:
        """Side of each view, in pixels."""
        return sides(self.views, self.size)

    def others(self, views: Sequence[View]) -> TrainingViews:
        """Other views of the same images."""
        twin = copy.copy(self)
        twin.views = views
        return twin

    def only(self, rows: Tensor) -> TrainingViews:
        """The same views of some of the images: (K,) int64 indices in the set."""
        twin = copy.copy(self)
        twin.rows = rows
        return twin

    def together(self, indices: Sequence[tuple[int, int]]) -> Samples:
        """The samples of some (epoch, index) pairs."""
        return _collate([self[pair] for pair in indices])

    def __getitem__(self, pair: tuple[int, int]) -> tuple[list[Tensor], Label, Tensor | None]:
        epoch, index = pair
        if self.rows is not None:
            index = int(self.rows[index])
        rng = np.random.Generator(np.random.Philox(derive(self.seed, "views", epoch, index)))
        views = make_views(self.images.pixels(index), self.views, self.size, rng)
        text = None if self.captions is None else self.captions(epoch, index)
        return views, _label(self.labels[index]), text


class EvaluationViews(Dataset[tuple[Tensor, Label]]):
    """The centre crop of each image of a split, in order."""

    def __init__(self, dataset: Path, split: str, size: int, crop_fraction: float) -> None:
        self.images = Images(dataset, split)
        self.size = size
        self.crop_fraction = crop_fraction
        self.labels = _labels(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Label]:
        view = evaluation_view(self.images.pixels(index), self.size, self.crop_fraction)
        return view, _label(self.labels[index])


class _Pairs(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of this process's micro-batches, from a step to the last.

    Each epoch is one permutation of the set, cut into global batches; what is left over is
    dropped. A process takes its contiguous share of every global batch.
    """

    def __init__(
        self, images: int, plan: BatchPlan, seed: int, start: int, stop: int, paired: bool
    ) -> None:
        self.images, self.plan, self.seed = images, plan, seed
        self.start, self.stop, self.paired = start, stop, paired

    def __len__(self) -> int:
        return (self.stop - self.start) * self.plan.accumulation

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        plan = self.plan
        per_epoch = self.images // plan.global_batch
        order, order_epoch = torch.empty(0, dtype=torch.int64), -1
        for step in range(self.start, self.stop):
            epoch, batch = divmod(step, per_epoch)
            if epoch != order_epoch:
                draw = generator(self.seed, "order", epoch)
                order, order_epoch = torch.randperm(self.images, generator=draw), epoch
            indices = order[batch * plan.global_batch : (batch + 1) * plan.global_batch]
            for part in plan.micro_batches():
                rows = with_partners(part, plan.global_batch) if self.paired else part
                yield [(epoch, index) for index in indices[rows].tolist()]


def training_batches(
    views: TrainingViews,
    plan: BatchPlan,
    *,
    seed: int,
    start: int,
    stop: int,
    workers: int,
    paired: bool = False,
) -> Iterator[Samples]:
    """Micro-batches of steps ``start`` to ``stop``.

    ``workers`` processes decode; what they give does not depend on their number. ``paired``: each
    micro-batch comes with the partners of its samples (``steps.data.loader.with_partners``).
    """
    pairs = _Pairs(len(views), plan, seed, start, stop, paired)
    with writing(SHARED_MEMORY):
        batches: Iterator[Samples] = iter(
            Loader(
                views,
                batch_sampler=pairs,
                num_workers=workers,
                collate_fn=_collate,
                worker_init_fn=_outlast_sigterm,
                # Only from such memory is a copy to a GPU made while the GPU computes.
                pin_memory=torch.cuda.is_available(),
            )
        )
    if workers:
        atexit.register(_kill_loaders)  # after, so before, what torch registers
    return batches


def evaluation_batches(
    views: Dataset[tuple[Tensor, Label]], batch_size: int, workers: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """uint8 or uint16 images (b, C, S, S) and labels (``Samples.labels``), in the order of the
    split."""
    return iter(Loader(views, batch_size, num_workers=workers))


class Loader(DataLoader[T]):
    """torch's loader, whose processes cannot keep a run: a wait for them ends, and so do they."""

    def __init__(self, dataset: Dataset[T], batch_size: int = 1, **options: Any) -> None:
        timeout = STALL_SECONDS if options.get("num_workers") else 0
        super().__init__(dataset, batch_size, timeout=timeout, generator=_worker_seeds(), **options)

    def __iter__(self) -> Any:
        batches = super().__iter__()
        return heard(batches) if self.num_workers else batches


def heard(batches: Any) -> Iterator[Any]:
    """The batches of torch's iterator over loading processes, each waited for a bounded time.

    torch's own timeout ends a wait for a batch to be announced. Its tensors' file descriptors are
    then asked for of the process that made them, and waited for without end if it stands still
    just then; so an alarm ends the wait a little after torch's.

    Raises:
        RuntimeError: as torch says that a loader timed out.
    """
    while True:
        _set_alarm()
        try:
            batch = next(batches)
        except StopIteration:
            return
        except BaseException:
            _abandon(batches)
            raise
        finally:
            _clear_alarm()
        yield batch


def _abandon(batches: Any) -> None:
    """End loading processes of which one may have been killed or may stand still.

    torch would tell them to end through an event, and wait for ever if such a process holds its
    lock. It does nothing for an iterator that is marked as shut down.
    """
    if getattr(batches, "_shutdown", True):
        return
    batches._shutdown = True
    if batches._worker_pids_set:
        # Otherwise torch's handler of SIGCHLD takes their end for a failure.
        signal_handling._remove_worker_pids(id(batches))  # type: ignore[attr-defined]
        batches._worker_pids_set = False
    if batches._pin_memory:
        batches._pin_memory_thread_done_event.set()
    for queue in batches._index_queues:
        queue.cancel_join_thread()
    for worker in batches._workers:
        worker.kill()
    for worker in batches._workers:
        worker.join()


def _set_alarm() -> None:
    if threading.current_thread() is threading.main_thread():  # who else cannot be interrupted
        signal.signal(signal.SIGALRM, _stalled)
        signal.setitimer(signal.ITIMER_REAL, STALL_SECONDS + 1)


def _clear_alarm() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, 0)


def _stalled(number: int, frame: FrameType | None) -> Any:
    raise RuntimeError(f"DataLoader timed out after {STALL_SECONDS} seconds")


def _worker_seeds() -> torch.Generator:
    """Without one of its own, a loader advances torch's global generator. Nothing depends on it."""
    return torch.Generator().manual_seed(0)


def _outlast_sigterm(worker: int) -> None:
    """Ignore SIGTERM in a process that loads.

    A scheduler sends it to all processes of a job, Slurm twice. The training process goes on to its
    next checkpoint; without its loaders it would fail before.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _kill_loaders() -> None:
    """End loaders that an error has left, for which SIGTERM does not do."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        process.kill()


def _collate(items: Sequence[tuple[list[Tensor], Label, Tensor | None]]) -> Samples:
    views, labels, texts = zip(*items, strict=True)
    given = [text for text in texts if text is not None]
    # torch's own collation stacks in shared memory. Tensors that are not there are put there by a
    # thread, whose failure would only be heard of as a stall.
    return Samples(
        [default_collate(list(same)) for same in zip(*views, strict=True)],
        default_collate([torch.tensor(label) for label in labels]),
        default_collate(given) if given else None,
    )


def _labels(images: Images) -> npt.NDArray[Any]:
    if images.target is not None:
        return images.targets
    return np.full(len(images), -1, dtype=np.int64)


def _label(known: Any) -> Label:
    """Label of an image, as the loader stacks it."""
    return known if isinstance(known, np.ndarray) else cast(Label, known.item())
