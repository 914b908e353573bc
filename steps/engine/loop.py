"""The training loop: plain, visible, and resumable to the bit.

``fit`` reads from top to bottom in the order of the work. A step keeps the order of the reference
implementations: rates are set; the method moves what comes before the losses (MoCo's keys);
gradients accumulate over micro-batches, by gradient caching where the loss couples samples; they
are clipped, and some are dropped; the optimiser updates; the method moves the rest (teacher,
centre).
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer as TorchOptimizer

from steps.command import UserError
from steps.core.distributed import any_process, mean_over_processes
from steps.core.finite import DIVERGED, not_finite
from steps.core.schedules import Progress, cosine, learning_rate
from steps.core.seeds import generator
from steps.data.loader import (
    BatchPlan,
    DatasetFacts,
    Samples,
    TrainingViews,
    batch_norms,
    plan_batch,
    refusing_batch_norm,
    training_batches,
    with_partners,
)
from steps.data.views import normalise
from steps.engine.checkpoint import Scratch, restore, tensors_of
from steps.engine.gradient_cache import Chunk, cached_backward
from steps.engine.monitor import DataWaits, Monitor
from steps.engine.optimizers import build_optimizer, check_undecayed, clip_parts, set_rates
from steps.engine.sharding import empty, gather, is_sharded, local, reduce_the_rest, twin
from steps.engine.watch import CollapseWatch, flops_per_image
from steps.methods.method import Batch, BatchCoupledMethod, Draws, Losses, Method
from steps.models.backbones import BackboneModel
from steps.models.hooked import run_hooked
from steps.params.recipe import Training

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.loggers.logger import Logger
    from lightning.fabric.wrappers import _FabricModule

# --- The phases of a run: the main one, and in some recipes a short one on other views


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with its own views, batches and schedules."""

    first: int
    """First step of the run that belongs to it."""
    steps: int
    views: TrainingViews
    plan: BatchPlan
    peak_lr: float
    schedule_epoch: float
    """Steps per epoch of the schedules: a shorter phase, or a run of another length, spreads the
    same epochs over another number of steps."""

    @property
    def stop(self) -> int:
        """First step of the run after this phase."""
        return self.first + self.steps

    def progress(self, step: int) -> Progress:
        """Position of its schedules at a step of the run."""
        return Progress(step - self.first, self.schedule_epoch, self.steps)


def plan_phases(
    training: Training,
    views: TrainingViews,
    steps_per_epoch: int,
    *,
    rank: int,
    world: int,
    where: str,
) -> list[Phase]:
    """The phases of a recipe, in order.

    Raises:
        UserError: the devices cannot divide the batch; ``where`` names the params file.
    """

    def batches(limit: int) -> BatchPlan:
        return plan_batch(training.batch_size, limit, rank=rank, world=world, where=where)

    def steps_of(epochs: float) -> int:
        return max(round(epochs * training.length * steps_per_epoch), 1)

    steps = steps_of(training.epochs)
    main = Phase(
        first=0,
        steps=steps,
        views=views,
        plan=batches(training.max_batch_per_device),
        peak_lr=training.optimizer.peak_lr(training.batch_size),
        schedule_epoch=steps_per_epoch if training.length == 1 else steps / training.epochs,
    )
    final = training.final_phase
    if final is None:
        return [main]
    steps = steps_of(final.epochs)
    return [
        main,
        Phase(
            first=main.stop,
            steps=steps,
            views=views.others(final.views),
            plan=batches(final.max_batch_per_device or training.max_batch_per_device),
            peak_lr=main.peak_lr * final.lr_scale,
            schedule_epoch=steps / training.epochs,
        ),
    ]


# --- Training


class OnlineAccuracy(Protocol):
    """Measures a backbone while it trains, as ``steps.evaluation.online`` does by k-NN."""

    def due(self, step: int, steps_per_epoch: int, total_steps: int) -> bool:
        """True if it measures after ``step`` updates; 0: before the first one."""

    def measure(self, backbone: BackboneModel) -> float:
        """Top-1 accuracy in percent."""


@dataclass(frozen=True)
class Outcome:
    """Length, cost and health of a finished run."""

    epochs: float
    images_seen: int
    flops: float
    device_seconds: float
    collapsed: bool = False
    """True if the embeddings were collapsed at the last step (``steps.engine.watch``)."""


Keep = Callable[[float, int, Outcome], None]
"""Keeps the weights as they are now: given the epoch, the steps made, and the outcome so far."""


@dataclass
class State:
    """Counts of a run, which a checkpoint holds with its tensors and metrics."""

    step: int = 0
    """Updates made."""
    seconds: float = 0.0
    flops: float = 0.0
    flops_per_image: float = 0.0
    """In the phase of the last step; 0 before the first step of a phase."""
    collapse: dict[str, float] = dataclasses.field(default_factory=dict)
    """Signs of collapse at the last logged step (``steps.engine.watch``)."""


def fit(
    fabric: Fabric,
    method: Method,
    views: TrainingViews,
    facts: DatasetFacts,
    training: Training,
    *,
    depth: int,
    seed: int,
    scratch: Scratch,
    where: str,
    title: str,
    knn: OnlineAccuracy | None = None,
    flops: Sequence[float] | None = None,
    resume: dict[str, Any] | None = None,
    loggers: Callable[[int], Sequence[Logger]] | None = None,
    keep: Keep | None = None,
) -> Outcome:
    """Train ``method`` in place.

    Args:
        fabric: launched.
        method: the module, initialised equally in all processes.
        views: the training images.
        facts: facts of their set.
        training: the recipe's training params.
        depth: blocks of the backbone, for layer-wise decay.
        seed: seed of order, views and draws.
        scratch: where checkpoints and metrics go.
        where: the params file that errors name.
        title: title of the progress display.
        knn: measures the backbone during training.
        flops: FLOPs per image in each phase, if they are counted already.
        resume: a checkpoint from ``scratch.load``.
        loggers: opens the loggers of the first process, as ``Monitor`` takes them.
        keep: keeps the weights of ``training.keep_epochs``, called in the first process.

    Raises:
        UserError: the devices cannot divide the batch, the set is smaller than a batch, no
            parameter has a name in ``undecayed``, losses or weights are not finite, or the run
            collapsed and ``training.on_collapse`` is stop.
    """
    # --- length
    batch_size, steps_per_epoch = training.batch_size, facts.train_images // training.batch_size
    if steps_per_epoch == 0:
        raise UserError(
            f"{where}: training.batch_size",
            f"{batch_size} is more than the {facts.train_images} training images",
            allowed=f"at most {facts.train_images}",
        )
    rank, world = fabric.global_rank, fabric.world_size
    phases = plan_phases(training, views, steps_per_epoch, rank=rank, world=world, where=where)
    total_steps = phases[-1].stop
    kept_after = {} if keep is None else kept_steps(training, phases[0], where)
    check_undecayed(method, training.optimizer, where)

    # --- method and optimizer on the devices, at the phase of the first step to make
    state = State() if resume is None else State(**resume["state"])
    sharded, trained = is_sharded(fabric), method
    for phase in phases:
        # A checkpoint at a phase's first step was written at the end of the phase before.
        if phase.first == 0 or state.step > phase.first:
            trained, module, optimizer = _begin(fabric, method, trained, phase, training, depth)

    # --- resume
    metrics: str | int = ""
    if resume is not None:
        restore(trained, optimizer, resume["tensors"])
        # Checkpoints of earlier versions hold the number of bytes of metrics.jsonl.
        metrics = resume["metrics_bytes" if "metrics_bytes" in resume else "metrics"]

    # --- logs
    monitor = Monitor(
        *(scratch.folder, title, total_steps),
        quiet=rank > 0,
        chance=method.chance(batch_size),
        loggers=loggers,
    )
    watch = CollapseWatch(title, total_steps, quiet=rank > 0, signs=state.collapse)
    stops = training.on_collapse == "stop"
    if stops and watch.collapsed:
        raise watch.error(state.step, where, scratch.checkpoint)
    waits = DataWaits(fabric.device)
    window: dict[str, Tensor] = {}
    window_start = state.step
    monitor.start(state.step, metrics)

    def batches_of(phase: Phase, start: int, stop: int, workers: int) -> Iterator[Samples]:
        return training_batches(
            phase.views,
            phase.plan,
            seed=seed,
            start=start,
            stop=stop,
            workers=workers,
            paired=method.paired,
        )

    def accuracy(watch: OnlineAccuracy) -> float | None:
        """k-NN accuracy of the weights as they are now, in the first process."""
        gather(fabric, trained, method)
        found = None
        if rank == 0:
            found = watch.measure(method.export_backbone().to(fabric.device))
        if sharded:
            empty(method)
        return found

    with closing(monitor), _sigterm() as received:
        # --- before step 0, on the micro-batches that it will see
        if state.step == 0:
            if knn is not None and knn.due(0, steps_per_epoch, total_steps):
                monitor.write_start({"knn_top1": accuracy(knn)})
            draws = trained.sample(batch_size, generator(seed, "draws", 0))
            batches = batches_of(phases[0], 0, 1, workers=0)
            chunks = _chunks(fabric, trained, facts, phases[0].plan, batches, draws, waits)
            run_hooked(trained, type(trained).start, chunks)
            del batches, chunks

        # --- the loop
        for phase in phases:
            if state.step >= phase.stop:
                continue
            if state.step == phase.first > 0:
                trained, module, optimizer = _begin(fabric, method, trained, phase, training, depth)
                state.flops_per_image = 0.0
            if flops is not None:
                state.flops_per_image = flops[phases.index(phase)]
            batches = batches_of(phase, state.step, phase.stop, training.workers)
            saved = time.monotonic()
            while state.step < phase.stop:
                started = time.monotonic()
                progress = phase.progress(state.step)
                last = state.step + 1 == total_steps
                measured = knn is not None and knn.due(state.step + 1, steps_per_epoch, total_steps)
                epoch_kept = kept_after.get(state.step + 1)
                special = last or measured or epoch_kept is not None
                logged = special or (state.step + 1) % training.log_every == 0

                # --- rates
                lr = learning_rate(progress, training.schedule, phase.peak_lr)
                decay = training.optimizer.weight_decay
                if training.optimizer.weight_decay_end is not None:
                    decay = cosine(progress, decay, training.optimizer.weight_decay_end)
                set_rates(optimizer, lr, decay, trained.with_zero_lr(progress))

                # --- forward and backward, a micro-batch at a time
                trained.before_step(progress)
                draws = trained.sample(batch_size, generator(seed, "draws", state.step))
                chunks = _chunks(fabric, trained, facts, phase.plan, batches, draws, waits)
                size, count = phase.plan.micro_batch, phase.plan.accumulation
                coupled = _batch_coupled(trained) if count > 1 else None
                whole: list[Chunk] = []
                for index, (batch, rows) in enumerate(chunks):
                    if state.flops_per_image == 0:
                        state.flops_per_image = _count_flops(fabric, trained, batch, rows, progress)
                    if logged:
                        with fabric.autocast():
                            watch.see(trained, batch)
                    if coupled is not None:
                        whole.append((batch, rows))
                        continue
                    # DDP: all-reduce once, after the last micro-batch. FSDP: reduce-scatter after
                    # each, because a device has no room for whole gradients.
                    wait = index + 1 < count and not sharded
                    with (
                        refusing_batch_norm(trained, size, size * count, where),
                        fabric.no_backward_sync(module, enabled=wait),
                    ):
                        losses = module(batch, rows, progress)
                        fabric.backward(losses["loss"] / count)
                    _add(window, losses, 1 / count)
                    # A logged value may hold a graph of its own, and with it activations.
                    del batch, rows, losses
                if coupled is not None:
                    _add(window, cached_backward(fabric, coupled, whole, progress, where=where), 1)
                    del batch, rows, whole
                elif sharded:
                    reduce_the_rest(trained)

                # --- update
                # Dropped before clipping, whose norm is of what is trained.
                if phase.first == 0 and progress.within(training.freeze_backbone_epochs):
                    for parameter in _backbone_parameters(trained):
                        parameter.grad = None
                if training.clip_grad is not None:
                    clip_parts(trained, training.clip_grad)
                # Dropped after clipping, whose norm the references take with them.
                for parameter in trained.without_gradient(progress):
                    parameter.grad = None
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                rates = {"lr": lr, "weight_decay": decay, **trained.after_step(progress)}

                # --- counts
                state.step += 1
                if logged and fabric.device.type == "cuda":
                    # The host runs ahead: without a wait its clock would not see the device's work.
                    torch.cuda.synchronize(fabric.device)
                state.seconds += time.monotonic() - started
                state.flops += state.flops_per_image * batch_size
                monitor.stepped(batch_size)
                if not logged:
                    continue

                # --- log
                means = _means(window, state.step - window_start)
                if not all(math.isfinite(value) for value in means.values()):
                    shown = ", ".join(f"{name} {value}" for name, value in means.items())
                    steps = f"steps {window_start} to {state.step}"
                    raise _diverged(f"the loss is not finite in {steps}: {shown}", where, scratch)
                values = {"epoch": state.step / steps_per_epoch, **means}
                values |= {name: float(value) for name, value in rates.items()}
                values |= watch.judge(state.step, means)
                state.collapse = watch.signs
                if measured and knn is not None:
                    _check_weights(fabric, trained, optimizer, state.step, where, scratch)
                    if (found := accuracy(knn)) is not None:
                        values["knn_top1"] = found
                monitor.write(state.step, values, waits.take())
                window, window_start = {}, state.step

                # --- weights to keep, of which a row of its own is made
                if keep is not None and epoch_kept is not None:
                    _check_weights(fabric, trained, optimizer, state.step, where, scratch)
                    gather(fabric, trained, method)
                    if rank == 0:
                        outcome = _outcome(state, training, facts, world, watch)
                        keep(epoch_kept, state.step, outcome)
                    if sharded:
                        empty(method)
                collapsed = stops and any_process(watch.collapsed, fabric.device)
                if last and not collapsed:
                    break

                # --- checkpoint: between two windows, so that a mean never spans a resume
                # Clocks and signals differ between processes, and a sharded checkpoint needs all.
                terminated = any_process(bool(received), fabric.device)
                due = time.monotonic() - saved > training.checkpoint_seconds
                if any_process(due or terminated or collapsed, fabric.device):
                    _check_weights(fabric, trained, optimizer, state.step, where, scratch)
                    kept = {"state": dataclasses.asdict(state), "metrics": monitor.metrics}
                    # Unnamed, so that the tensors of one phase do not stay in memory in the next.
                    if sharded:
                        scratch.save_shards(kept, tensors_of(trained, optimizer), state.step)
                    elif rank == 0:
                        scratch.save(
                            {**kept, "tensors": tensors_of(trained, optimizer)}, state.step
                        )
                    saved = time.monotonic()
                if collapsed:
                    raise watch.error(state.step, where, scratch.checkpoint)
                if terminated:
                    raise SystemExit(128 + signal.SIGTERM)
            del batches  # ends the loading processes

    # --- the trained method, in the first process
    _check_weights(fabric, trained, optimizer, state.step, where, scratch)
    gather(fabric, trained, method)
    if sharded and rank == 0:
        method.to(fabric.device)
    return _outcome(state, training, facts, world, watch)


# --- Parts of the loop


def kept_steps(training: Training, phase: Phase, where: str) -> dict[int, float]:
    """The epochs of ``training.keep_epochs`` by the number of steps after which they end.

    Raises:
        UserError: two of them end with the same step, or one with the last.
    """
    kept: dict[int, float] = {}
    for epoch in training.keep_epochs:
        step = max(round(epoch * phase.schedule_epoch), 1)
        if step in kept or step >= phase.steps:
            other = "the run" if step >= phase.steps else f"epoch {kept[step]:g}"
            raise UserError(
                f"{where}: training.keep_epochs",
                f"epoch {epoch:g} ends after step {step} of {phase.steps}, as {other} does",
                allowed="epochs that end with steps of their own",
                remedy=f"an epoch has {phase.schedule_epoch:g} steps: name epochs further apart",
            )
        kept[step] = epoch
    return kept


def _outcome(
    state: State, training: Training, facts: DatasetFacts, world: int, watch: CollapseWatch
) -> Outcome:
    """Length, cost and health of a run so far."""
    images = state.step * training.batch_size
    return Outcome(
        epochs=images / facts.train_images,
        images_seen=images,
        flops=state.flops,
        device_seconds=round(state.seconds * world, 3),
        collapsed=watch.collapsed,
    )


def _begin(
    fabric: Fabric, method: Method, trained: Method, phase: Phase, training: Training, depth: int
) -> tuple[Method, _FabricModule, TorchOptimizer]:
    """Put a method on the devices for a phase, with a fresh optimiser over its parameters.

    Returns:
        The method that trains; the module to call for a forward pass whose gradients are averaged
        over processes; the optimiser.
    """
    if phase.first > 0:
        gather(fabric, trained, method, everywhere=True)
        method.enter_final_phase(phase.views.sides)
    trained = twin(method) if is_sharded(fabric) else method
    module = fabric.setup_module(trained)
    return trained, module, build_optimizer(trained, training.optimizer, depth, phase.peak_lr)


@contextmanager
def _sigterm() -> Iterator[list[int]]:
    """Collect SIGTERM (a scheduler's time limit): the loop ends at its next checkpoint."""
    received: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)


def _batch_coupled(method: Method) -> BatchCoupledMethod | None:
    """The method, if its loss couples the samples of a batch."""
    return method if isinstance(method, BatchCoupledMethod) and method.is_batch_coupled else None


def _chunks(
    fabric: Fabric,
    method: Method,
    facts: DatasetFacts,
    plan: BatchPlan,
    batches: Iterator[Samples],
    draws: Draws,
    waits: DataWaits,
) -> Iterator[Chunk]:
    """This process's micro-batches of one step on the device, each with its rows of the draws."""
    for part in plan.micro_batches():
        with waits.waiting():
            samples = next(batches)
        views = [normalise(fabric.to_device(view), facts.mean, facts.std) for view in samples.views]
        text = None if samples.text is None else fabric.to_device(samples.text)
        batch = Batch(views, fabric.to_device(samples.labels), text)
        rows, chosen = part, draws
        if method.paired and part != (rows := with_partners(part, plan.global_batch)):
            # The method must know which samples are only partners: they belong to another part.
            own = torch.zeros(plan.global_batch, dtype=torch.bool)
            own[part] = True
            chosen = {**draws, "own": own}
        yield (
            batch,
            {name: fabric.to_device(draw[rows].contiguous()) for name, draw in chosen.items()},
        )


def _count_flops(
    fabric: Fabric, method: Method, batch: Batch, draws: Draws, progress: Progress
) -> float:
    """FLOPs per image, counted on the first images of a micro-batch."""
    # A batch norm has no statistics of one image: it is counted twice, and halved.
    single = len(batch.labels) == 1 and batch_norms(method)
    few = [0, 0] if single else slice(0, 2)
    text = None if batch.text is None else batch.text[few]
    part = Batch([view[few] for view in batch.views], batch.labels[few], text)
    chosen = {name: draw[few] for name, draw in draws.items()}
    with fabric.autocast():
        return flops_per_image(method, part, chosen, progress)


def _backbone_parameters(method: Method) -> Iterator[nn.Parameter]:
    """Parameters of every backbone in a method; those of a teacher have no gradient anyway."""
    for module in method.modules():
        if isinstance(module, BackboneModel):
            yield from module.parameters()


def _add(window: dict[str, Tensor], losses: Losses, share: float) -> None:
    """Add losses of a share of a step's batch to a window, without waiting for the device."""
    for name, value in losses.items():
        part = value.detach().double() * share
        window[name] = window[name] + part if name in window else part


def _means(window: Mapping[str, Tensor], steps: int) -> dict[str, float]:
    """Mean losses of a window of ``steps`` steps, over all processes."""
    return {name: float(mean_over_processes(total)) / steps for name, total in window.items()}


def _check_weights(
    fabric: Fabric,
    method: Method,
    optimizer: TorchOptimizer,
    step: int,
    where: str,
    scratch: Scratch,
) -> None:
    """Check that weights and moments are finite after the last update, in all processes.

    Raises:
        UserError: naming the first tensor that is not, and the step.
    """
    tensors = tensors_of(method, optimizer).items()
    wrong = not_finite((name, local(tensor)) for name, tensor in tensors)
    if any_process(bool(wrong), fabric.device):
        found = wrong or "a tensor in another process is not finite"
        raise _diverged(f"after step {step}, {found}", where, scratch)


def _diverged(found: str, where: str, scratch: Scratch) -> UserError:
    last = scratch.checkpoint or "none yet, the run was too young"
    return UserError(where, found, remedy=f"{DIVERGED}; the last good checkpoint is {last}")
