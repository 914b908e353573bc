"""Fully sharded data parallelism: each process holds its rows of every parameter.

What belongs to a parameter, its gradient, its moments and the average that a teacher is, is
sharded with it (ZeRO, arXiv:1910.02054, stage 3; torch's ``fully_shard``). A block's parameters are
whole only while it computes, those outside of blocks while the method does. Between passes nobody
sees a whole one, so that what moves parameters there must be element by element, or be told
``norms`` of whole tensors.

Fabric's ``ModelParallelStrategy`` does it, and not its ``FSDPStrategy``: that one makes a flat
tensor of a block's parameters, in which LARS, layer-wise rates and heads held still would not find
theirs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from steps.core.distributed import mean_over_processes
from steps.engine import sharding
from steps.models.teacher import Frozen

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
    from lightning.fabric.wrappers import _FabricModule

    from steps.methods.method import Method

_STACKS = re.compile(r"(?:^|\.)(?:blocks|layer[1-4])$")
"""Transformers' blocks, and the stages of a ResNet."""


def strategy(world: int) -> ModelParallelStrategy:
    """Fabric's strategy for ``world`` processes."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)


def is_sharded(fabric: Fabric) -> bool:
    """Whether parameters are, or will be, in shards."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    return isinstance(fabric.strategy, ModelParallelStrategy)


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Block by block, so that a device never holds more than one whole that is not in use."""
    device = torch.device(mesh.device_type)
    # Such a tensor has no rows: a temperature. Every process holds it.
    scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}
    for scalar in scalars:
        scalar.data = scalar.data.to(device)
    for part in module.modules():
        if isinstance(part, Frozen):
            part.to(device)
    for unit in [*_units(module), module]:
        # Also after the outermost forward pass: what follows a pass must find shards.
        fully_shard(
            unit, mesh=mesh["data_parallel"], reshard_after_forward=True, ignored_params=scalars
        )
    return module


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """What is made whole and given up again as one, innermost first."""
    for name, part in reversed([*module.named_modules()]):
        if _STACKS.search(name):
            yield from (child for child in part.children() if any(True for _ in child.parameters()))


def twin(method: Method) -> Method:
    """A copy of a method that can be sharded, and the method left without weights.

    Who holds a sharded module can neither copy nor export it; the method stays what it was, and
    ``fill`` gives it weights when they are asked for. What is ``Frozen`` is in both.
    """
    shared = {id(part): part for part in method.modules() if isinstance(part, Frozen)}
    copied = copy.deepcopy(method, shared)
    empty(method)
    return copied


def empty(method: Method) -> None:
    """Give up the memory of its weights, but not of its buffers."""
    for parameter in method.parameters():
        parameter.data = parameter.data.new_empty(0)


def fill(method: Method, weights: Mapping[str, Tensor]) -> None:
    """Give a method that is ``empty`` the weights of its twin."""
    for name, parameter in method.named_parameters():
        parameter.data = weights[name]
    method.load_state_dict(weights)


def gathered(method: Method, *, keep: bool) -> dict[str, Tensor]:
    """The state dict of a sharded method with whole tensors, on the CPU.

    Args:
        method: the same in all processes, which all take part.
        keep: False in a process that has no use for it: it gets nothing.
    """
    weights = {}
    for name, tensor in method.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach().clone()
        if keep:
            weights[name] = whole.cpu()
    return weights


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: its rows, or the whole tensor where it is not sharded.

    Writing to it writes to the tensor.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norms of whole tensors, of which each process may hold some rows only."""
    if not tensors:
        return []
    found = list(torch._foreach_norm([local(tensor) for tensor in tensors]))
    shared = [index for index, tensor in enumerate(tensors) if isinstance(tensor, DTensor)]
    if shared:
        squares = torch.stack([found[index] for index in shared]).square()
        dist.all_reduce(squares)
        for index, norm in zip(shared, squares.sqrt(), strict=True):
            found[index] = norm
    return found


@torch.no_grad()
def reduce_the_rest(method: Method) -> None:
    """Average the gradients of what every process holds; those of shards are averaged already."""
    for parameter in method.parameters():
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            parameter.grad = mean_over_processes(parameter.grad)


# --- Where a run holds its method: whole on each device, or in shards


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
