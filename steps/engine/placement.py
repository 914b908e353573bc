"""Where a run holds its method: whole on each device, or in shards."""

from __future__ import annotations

from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule

from steps.engine import sharding
from steps.methods.method import Method


class Placement:
    """A method on the devices of a run.

    Args:
        fabric: launched.
        method: the caller's; of a sharded run it has weights between ``gather`` and ``release``,
            and from ``finish`` on.
    """

    def __init__(self, fabric: Fabric, method: Method) -> None:
        self.sharded = sharding.is_sharded(fabric)
        self._fabric, self._whole = fabric, method
        self._training = method

    def set_up(self) -> tuple[Method, _FabricModule]:
        """Put the caller's method, which is whole, on the devices.

        Returns:
            The method that trains, and what to call for a forward pass whose gradients are
            averaged over processes.
        """
        self._training = sharding.twin(self._whole) if self.sharded else self._whole
        return self._training, self._fabric.setup_module(self._training)

    def gather(self, *, everywhere: bool = False) -> Method:
        """The caller's method with all weights as they are now. All processes must ask for it.

        Args:
            everywhere: False: in a sharded run, only the first process's has weights.
        """
        if self.sharded:
            keep = everywhere or self._fabric.global_rank == 0
            weights = sharding.gathered(self._training, keep=keep)
            if keep:
                sharding.fill(self._whole, weights)
        return self._whole

    def release(self) -> None:
        """Give up what ``gather`` put together."""
        if self.sharded:
            sharding.empty(self._whole)

    def finish(self) -> None:
        """Leave the caller's method trained, on the first process's device, and nothing else."""
        self.gather()
        self._training = self._whole
        if self.sharded and self._fabric.global_rank == 0:
            self._whole.to(self._fabric.device)
