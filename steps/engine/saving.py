"""What a checkpoint holds of weights and optimiser: tensors by name, in any layout the same."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer as TorchOptimizer

from steps.engine.checkpoint import Tensors
from steps.methods.method import Method

_METHOD, _OPTIMIZER = "method.", "optimizer."


def tensors_of(method: Method, optimizer: TorchOptimizer) -> dict[str, Tensor]:
    """``method.<name>`` of its state dict, and ``optimizer.<parameter>.<name>`` of its moments.

    They are the live tensors, not copies. Moments go by the parameters' names, not by their order,
    and rates are not kept: they are set at every step.
    """
    tensors = {f"{_METHOD}{name}": tensor for name, tensor in method.state_dict().items()}
    names: dict[Tensor, str] = {tensor: name for name, tensor in method.named_parameters()}
    for parameter, state in optimizer.state.items():
        for name, tensor in state.items():
            tensors[f"{_OPTIMIZER}{names[parameter]}.{name}"] = tensor
    return tensors


def restore(method: Method, optimizer: TorchOptimizer, saved: Tensors) -> None:
    """Put saved tensors back into a method and a fresh optimiser, whatever their layout."""
    targets = {f"{_METHOD}{name}": tensor for name, tensor in method.state_dict().items()}
    parameters = dict(method.named_parameters())
    for key, (size, dtype) in saved.kinds().items():
        if not key.startswith(_OPTIMIZER):
            continue
        name, _, moment = key.removeprefix(_OPTIMIZER).rpartition(".")
        parameter = parameters[name]
        if size == parameter.shape:
            targets[key] = torch.zeros_like(parameter, dtype=dtype)
        else:
            targets[key] = torch.zeros(size, dtype=dtype, device=parameter.device)
        optimizer.state[parameter][moment] = targets[key]
    saved.fill(targets)
