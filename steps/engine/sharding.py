"""Fully sharded data parallelism: each process holds its rows of every parameter.

Gradients, moments and a teacher's averages are sharded with their parameters (ZeRO,
arXiv:1910.02054, stage 3; torch's ``fully_shard``). The parameters of a block are whole only while
the block computes, and those outside of blocks while the method computes. Between passes they are
shards, so that updates must work element by element, or take ``norms`` of whole tensors.

Fabric's ``ModelParallelStrategy`` does this. Its ``FSDPStrategy`` flattens the parameters of a
block into one tensor, in which LARS and layer-wise rates could not find them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from steps.core.distributed import mean_over_processes
from steps.models.hooked import register_run_hooked
from steps.models.teacher import FixedNetwork

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    from steps.methods.method import Method

_STACKS = re.compile(r"(?:^|\.)(?:blocks|layer[1-4])$")
"""Blocks of transformers, stages of ResNets."""


def strategy(world: int) -> ModelParallelStrategy:
    """Fabric's strategy for ``world`` processes."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    return ModelParallelStrategy(_shard, data_parallel_size=world, tensor_parallel_size=1)


def is_sharded(fabric: Fabric) -> bool:
    """True if parameters are, or will be, in shards."""
    from lightning.fabric.strategies.model_parallel import ModelParallelStrategy

    return isinstance(fabric.strategy, ModelParallelStrategy)


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shard block by block, so that a device holds at most one whole block that is not in use."""
    device = torch.device(mesh.device_type)
    # A temperature has no rows to share. Every process holds it.
    scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}
    for scalar in scalars:
        scalar.data = scalar.data.to(device)
    for part in module.modules():
        if isinstance(part, FixedNetwork):
            part.to(device)
    for unit in [*_units(module), module]:
        # Reshard the outermost module too: updates must find shards.
        fully_shard(
            unit, mesh=mesh["data_parallel"], reshard_after_forward=True, ignored_params=scalars
        )
        register_run_hooked(unit)
    return module


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """Modules whose parameters are gathered and freed together, innermost first."""
    for name, part in reversed([*module.named_modules()]):
        if _STACKS.search(name):
            yield from (child for child in part.children() if any(True for _ in child.parameters()))


def twin(method: Method) -> Method:
    """A copy of a method to shard; the original is left without weights.

    A sharded module can be neither copied nor exported, so a copy is trained; ``gather`` puts its
    weights back into the original. ``FixedNetwork`` parts are shared by both.
    """
    shared = {id(part): part for part in method.modules() if isinstance(part, FixedNetwork)}
    copied = copy.deepcopy(method, shared)
    empty(method)
    return copied


def gather(fabric: Fabric, trained: Method, method: Method, *, everywhere: bool = False) -> None:
    """Give a method the weights of its twin, as they are now; all processes must take part.

    Args:
        fabric: launched.
        trained: the twin; if it is ``method`` itself, nothing happens.
        method: the original.
        everywhere: False: only in the first process.
    """
    if trained is method:
        return
    keep = everywhere or fabric.global_rank == 0
    weights = {}
    for name, tensor in trained.state_dict().items():
        # A tensor that no process shares would go on changing with the twin: it is copied.
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach().clone()
        if keep:
            weights[name] = whole.cpu()
    if keep:
        for name, parameter in method.named_parameters():
            # An emptied parameter has no shape that load_state_dict could fill.
            parameter.data = weights[name]
        method.load_state_dict(weights)


def empty(method: Method) -> None:
    """Give up the memory of a method's weights, but not of its buffers."""
    for parameter in method.parameters():
        parameter.data = parameter.data.new_empty(0)


def local(tensor: Tensor) -> Tensor:
    """The rows of a tensor that this process holds, or the whole tensor if it is not sharded.

    They share memory with the tensor.
    """
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """2-norms of whole tensors, of which a process may hold only some rows."""
    if not tensors:
        return []
    found = list(torch._foreach_norm([local(tensor) for tensor in tensors]))
    shared = [index for index, tensor in enumerate(tensors) if isinstance(tensor, DTensor)]
    if shared:
        # One message for all tensors: their number, not their size, is what takes time.
        squares = torch.stack([found[index] for index in shared]).square()
        dist.all_reduce(squares)
        for index, norm in zip(shared, squares.sqrt(), strict=True):
            found[index] = norm
    return found


@torch.no_grad()
def reduce_the_rest(method: Method) -> None:
    """Average the gradients that every process holds whole; FSDP has averaged those of shards."""
    for parameter in method.parameters():
        if parameter.grad is not None and not isinstance(parameter, DTensor):
            parameter.grad = mean_over_processes(parameter.grad)
