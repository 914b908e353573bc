"""From a recipe's global batch to what a device takes at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from steps.command import UserError
from steps.engine.distributed import world_size


@dataclass(frozen=True)
class BatchPlan:
    """How a global batch is cut: each process's share, in ``accumulation`` micro-batches."""

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
