"""The training loop: plain, visible, and resumable to the bit.

Order of a step, as in the reference implementations: rates are set, the method moves what comes
before the losses (MoCo's keys), gradients accumulate over the micro-batches (of a method whose loss
couples them: by gradient caching), are clipped, those of frozen parameters are dropped, the
optimiser updates, and the method moves what it moves itself (teacher, centre).
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
from steps.engine.optimizers import build_optimizer, clip_gradients, set_rates
from steps.engine.sharding import Placement, local, reduce_the_rest
from steps.engine.watch import CollapseWatch, DataWaits, Monitor, flops_per_image
from steps.evaluation.online import KNNWatch
from steps.methods.method import Batch, BatchCoupledMethod, Draws, Losses, Method
from steps.models.hooked import run_hooked
from steps.params.recipe import Training

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# --- The phases of a run: the main one, and where a recipe has it, a short one on other views


@dataclass(frozen=True)
class Phase:
    """A stretch of steps with views, batches, and schedules of its own."""

    first: int
    """The step of the run that it begins with."""
    steps: int
    views: TrainingViews
    plan: BatchPlan
    peak_lr: float
    schedule_epoch: float
    """Steps in an epoch of the schedules: a shorter phase, or a run of another length, has the same
    epochs in other steps."""

    @property
    def stop(self) -> int:
        """The step of the run that it does not reach."""
        return self.first + self.steps

    def progress(self, step: int) -> Progress:
        """Where its schedules stand at a step of the run."""
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


@dataclass(frozen=True)
class Outcome:
    """What a finished run did."""

    epochs: float
    images_seen: int
    flops: float
    device_seconds: float
    collapsed: bool = False
    """Whether the embeddings were collapsed at the last step (``steps.engine.watch``)."""


@dataclass
class _State:
    """What changes from step to step besides weights: saved with every checkpoint."""

    step: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    flops_per_image: float = 0.0
    """In the phase of the last step."""


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
    knn: KNNWatch | None = None,
    flops: Sequence[float] | None = None,
    resume: dict[str, Any] | None = None,
) -> Outcome:
    """Train ``method`` in place.

    Args:
        fabric: launched.
        method: the module, initialised equally in all processes.
        views: the training images.
        facts: of their set.
        training: the recipe's training params.
        depth: blocks of the backbone, for layer-wise decay.
        seed: of order, views and draws.
        scratch: where checkpoints and metrics go.
        where: the params file that errors name.
        title: for the progress display.
        knn: measures the backbone along the way.
        flops: an image, in each phase, where they were counted already.
        resume: a checkpoint as ``scratch.load`` gives it.

    Raises:
        UserError: the batch does not divide, the set is smaller than a batch, or the loss is not
            finite.
    """
    run = _Run(
        fabric, method, views, facts, training, depth, seed, scratch, where, title, knn, flops
    )
    return run.train(resume)


class _Run:
    def __init__(
        self,
        fabric: Fabric,
        method: Method,
        views: TrainingViews,
        facts: DatasetFacts,
        training: Training,
        depth: int,
        seed: int,
        scratch: Scratch,
        where: str,
        title: str,
        knn: KNNWatch | None,
        flops: Sequence[float] | None,
    ) -> None:
        self.fabric, self.facts = fabric, facts
        self.training, self.seed, self.scratch, self.where = training, seed, scratch, where
        self.knn, self.flops = knn, flops
        self.steps_per_epoch = facts.train_images // training.batch_size
        if self.steps_per_epoch == 0:
            raise UserError(
                f"{where}: training.batch_size",
                f"{training.batch_size} is more than the {facts.train_images} training images",
                allowed=f"at most {facts.train_images}",
            )
        self.phases = plan_phases(
            training,
            views,
            self.steps_per_epoch,
            rank=fabric.global_rank,
            world=fabric.world_size,
            where=where,
        )
        self.total_steps = self.phases[-1].stop
        self.depth = depth
        self.phase = self.phases[0]
        self.placed = Placement(fabric, method)
        self._set_up()
        self.monitor = Monitor(
            scratch.folder, title, self.total_steps, quiet=fabric.global_rank > 0
        )
        self.watch = CollapseWatch(title, self.total_steps, quiet=fabric.global_rank > 0)
        self.state = _State()
        self.window: dict[str, Tensor] = {}
        self.window_start = 0
        self.waits = DataWaits(fabric.device)
        self.terminated = False

    def train(self, resume: dict[str, Any] | None) -> Outcome:
        metrics = self._restore(resume) if resume is not None else ""
        self.monitor.start(self.state.step, metrics)
        previous = signal.signal(signal.SIGTERM, self._terminate)
        try:
            self._steps()
        finally:
            signal.signal(signal.SIGTERM, previous)
            self.monitor.stop()
        self._check_weights()
        self.placed.finish()
        images = self.total_steps * self.training.batch_size
        return Outcome(
            epochs=images / self.facts.train_images,
            images_seen=images,
            flops=self.state.flops,
            device_seconds=round(self.state.seconds * self.fabric.world_size, 3),
            collapsed=self.watch.collapsed,
        )

    def _set_up(self) -> None:
        """A fresh optimiser at the phase's learning rate, over the parameters as they are now."""
        self.method, self.module = self.placed.set_up()
        self.optimizer = build_optimizer(
            self.method, self.training.optimizer, self.depth, self.phase.peak_lr
        )

    def _enter(self, phase: Phase) -> None:
        """Go over to the next phase, in which parameters may have other shapes."""
        self.phase = phase
        self.placed.gather(everywhere=True).enter_final_phase(phase.views.sides)
        self._set_up()
        self.state.flops_per_image = 0.0

    def _steps(self) -> None:
        if self.state.step == 0:
            run_hooked(self.method, type(self.method).start, self._first_parts())
        for phase in self.phases:
            if self.state.step >= phase.stop:
                continue
            if phase is not self.phase:
                self._enter(phase)
            self._phase_steps()

    def _phase_steps(self) -> None:
        state, phase = self.state, self.phase
        batches = training_batches(
            phase.views,
            phase.plan,
            seed=self.seed,
            start=state.step,
            stop=phase.stop,
            workers=self.training.workers,
            paired=self.method.paired,
        )
        saved = time.monotonic()
        while state.step < phase.stop:
            started = time.monotonic()
            values = self._step(batches, phase.progress(state.step))
            state.step += 1
            if self._logs(state.step) and self.fabric.device.type == "cuda":
                # The host runs ahead: what it has asked for is not done.
                torch.cuda.synchronize(self.fabric.device)
            state.seconds += time.monotonic() - started
            state.flops += state.flops_per_image * self.training.batch_size
            self.monitor.stepped(self.training.batch_size)
            last = state.step == self.total_steps
            if not self._logs(state.step):
                continue
            self._log(values)
            if last:
                continue
            # Clocks and signals differ between processes, and a sharded checkpoint needs all.
            terminated = any_process(self.terminated, self.fabric.device)
            due = time.monotonic() - saved > self.training.checkpoint_seconds
            if any_process(due or terminated, self.fabric.device):
                self._save()
                saved = time.monotonic()
            if terminated:
                raise SystemExit(128 + signal.SIGTERM)

    def _first_parts(self) -> Iterator[Chunk]:
        """The micro-batches of step 0 with their draws, just as that step will see them."""
        draws = self._draws(0)
        batches = training_batches(
            self.phase.views,
            self.phase.plan,
            seed=self.seed,
            start=0,
            stop=1,
            workers=0,
            paired=self.method.paired,
        )
        return self._chunks(batches, draws)

    def _draws(self, step: int) -> Draws:
        """The random choices of a step of the run, for the global batch."""
        return self.method.sample(self.training.batch_size, generator(self.seed, "draws", step))

    def _logs(self, step: int) -> bool:
        """Whether a line of metrics.jsonl is written after so many steps."""
        last = step == self.total_steps
        return last or step % self.training.log_every == 0 or self._measures(step)

    def _measures(self, step: int) -> bool:
        """Whether that line has a k-NN accuracy."""
        return self.knn is not None and self.knn.due(step, self.steps_per_epoch, self.total_steps)

    def _step(self, batches: Any, progress: Progress) -> dict[str, float | Tensor]:
        optimizer_params = self.training.optimizer
        lr = learning_rate(progress, self.training.schedule, self.phase.peak_lr)
        decay = optimizer_params.weight_decay
        if optimizer_params.weight_decay_end is not None:
            decay = cosine(progress, decay, optimizer_params.weight_decay_end)
        set_rates(self.optimizer, lr, decay, self.method.with_zero_lr(progress))
        self.method.before_step(progress)
        chunks = self._chunks(batches, self._draws(self.state.step))
        if self.flops is not None:
            self.state.flops_per_image = self.flops[self.phases.index(self.phase)]
        elif self.state.flops_per_image == 0:
            first = next(chunks)
            self.state.flops_per_image = self._count_flops(*first, progress)
            chunks = chain([first], chunks)
        if self._logs(self.state.step + 1):
            chunks = self._watched(chunks)
        method = self.method
        if (
            isinstance(method, BatchCoupledMethod)
            and method.is_batch_coupled
            and self.phase.plan.accumulation > 1
        ):
            whole = list(chunks)
            self._remember(
                cached_backward(self.fabric, method, whole, progress, where=self.where), 1.0
            )
        else:
            self._accumulate(chunks, progress)
        if (clip := self.training.clip_grad) is not None:
            apart = self.method.submodules() if clip.scope == "submodule" else [self.method]
            for module in apart:
                clip_gradients(module.parameters(), clip)
        for parameter in self.method.without_gradient(progress):
            parameter.grad = None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        values = self.method.after_step(progress)
        return {"lr": lr, "weight_decay": decay, **values}

    def _chunks(self, batches: Any, draws: Draws) -> Iterator[Chunk]:
        """This process's micro-batches on the device, each with its rows of the draws."""
        for part in self.phase.plan.micro_batches():
            with self.waits.waiting():
                samples = next(batches)
            yield self._batch(samples), self._chosen(draws, part)

    def _watched(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same chunks, each shown to the collapse watch first."""
        for batch, draws in chunks:
            with self.fabric.autocast():
                self.watch.see(self.method, batch)
            yield batch, draws

    def _accumulate(self, chunks: Iterator[Chunk], progress: Progress) -> None:
        """The gradient of the mean of the micro-batches' losses."""
        size, count = self.phase.plan.micro_batch, self.phase.plan.accumulation
        with refusing_batch_norm(self.method, size, size * count, self.where):
            for index, (batch, draws) in enumerate(chunks):
                # Gradients that wait are whole; those of shards are summed up as shards.
                wait = index + 1 < count and not self.placed.sharded
                with self.fabric.no_backward_sync(self.module, enabled=wait):
                    losses = self.module(batch, draws, progress)
                    self.fabric.backward(losses["loss"] / count)
                self._remember(losses, 1 / count)
        if self.placed.sharded:
            reduce_the_rest(self.method)

    def _batch(self, samples: Samples) -> Batch:
        views = [
            normalise(self.fabric.to_device(view), self.facts.mean, self.facts.std)
            for view in samples.views
        ]
        text = None if samples.text is None else self.fabric.to_device(samples.text)
        return Batch(views, self.fabric.to_device(samples.labels), text)

    def _chosen(self, draws: Draws, part: slice) -> Draws:
        """The rows of a micro-batch among the draws, on the device."""
        rows = part
        if self.method.paired and part != (rows := with_partners(part, self.training.batch_size)):
            own = torch.zeros(self.training.batch_size, dtype=torch.bool)
            own[part] = True
            draws = {**draws, "own": own}
        return {
            name: self.fabric.to_device(draw[rows].contiguous()) for name, draw in draws.items()
        }

    def _count_flops(self, batch: Batch, draws: Draws, progress: Progress) -> float:
        # A batch norm has no statistics of one image: it is counted twice, and halved.
        alone = len(batch.labels) == 1 and batch_norms(self.method)
        few = [0, 0] if alone else slice(0, 2)
        text = None if batch.text is None else batch.text[few]
        part = Batch([view[few] for view in batch.views], batch.labels[few], text)
        chosen = {name: draw[few] for name, draw in draws.items()}
        with self.fabric.autocast():
            return flops_per_image(self.method, part, chosen, progress)

    def _remember(self, losses: Losses, share: float) -> None:
        """Add the losses of a share of the step's batch to the window, without a wait for them."""
        for name, value in losses.items():
            part = value.detach().double() * share
            self.window[name] = self.window[name] + part if name in self.window else part

    def _log(self, rates: Mapping[str, float | Tensor]) -> None:
        """Write the window's mean losses, over all processes, and the rates of its last step."""
        steps = self.state.step - self.window_start
        means = {
            name: float(mean_over_processes(total)) / steps for name, total in self.window.items()
        }
        if not all(math.isfinite(value) for value in means.values()):
            shown = ", ".join(f"{name} {value}" for name, value in means.items())
            raise self._diverged(
                f"the loss is not finite in steps {self.window_start} to {self.state.step}: {shown}"
            )
        numbers = {name: float(value) for name, value in rates.items()}
        values = {"epoch": self.state.step / self.steps_per_epoch, **means, **numbers}
        values.update(self.watch.judge(self.state.step, means))
        if self.knn is not None and self._measures(self.state.step):
            self._check_weights()
            backbone = self.placed.gather().export_backbone()
            if not self.monitor.quiet:
                values["knn_top1"] = self.knn.measure(backbone.to(self.fabric.device))
            self.placed.release()
        self.monitor.write(self.state.step, values, self.waits.take())
        self.window, self.window_start = {}, self.state.step

    def _diverged(self, found: str) -> UserError:
        last = self.scratch.checkpoint
        return UserError(
            self.where,
            found,
            remedy=f"{DIVERGED}; the last good checkpoint is "
            + (str(last) if last else "none yet, the run was too young"),
        )

    def _check_weights(self) -> None:
        """Let weights and moments pass that are finite after the last update, in all processes.

        Raises:
            UserError: naming the first tensor that is not, and the step.
        """
        tensors = tensors_of(self.method, self.optimizer).items()
        wrong = not_finite((name, local(tensor)) for name, tensor in tensors)
        if any_process(bool(wrong), self.fabric.device):
            found = wrong or "a tensor in another process is not finite"
            raise self._diverged(f"after step {self.state.step}, {found}")

    def _save(self) -> None:
        """Write a checkpoint, between two windows so that none is torn."""
        self._check_weights()
        facts = {
            "state": dataclasses.asdict(self.state),
            "metrics": self.monitor.metrics,
        }
        if self.placed.sharded:
            self.scratch.save_shards(
                facts, tensors_of(self.method, self.optimizer), self.state.step
            )
        elif self.fabric.global_rank == 0:
            tensors = tensors_of(self.method, self.optimizer)
            self.scratch.save({**facts, "tensors": tensors}, self.state.step)

    def _restore(self, checkpoint: dict[str, Any]) -> str | int:
        """Go on from a checkpoint; the metrics that belong to it."""
        state = _State(**checkpoint["state"])
        # A checkpoint at a phase's first step is that of the phase before, at its end.
        for phase in self.phases[1:]:
            if state.step > phase.first:
                self._enter(phase)
        self.state, self.window_start = state, state.step
        restore(self.method, self.optimizer, checkpoint["tensors"])
        # Earlier versions kept their number of bytes.
        older = "metrics_bytes" in checkpoint
        metrics: str | int = checkpoint["metrics_bytes" if older else "metrics"]
        return metrics

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """On SIGTERM (a scheduler's time limit): checkpoint at the next chance, then end."""
        self.terminated = True
