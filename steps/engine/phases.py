"""The phases of a run: the main one, and where a recipe has it, a short one on other views."""

from __future__ import annotations

from dataclasses import dataclass

from steps.data.loader import TrainingViews
from steps.engine.batching import BatchPlan, plan_batch
from steps.engine.schedules import Progress
from steps.params.training import Training


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
