"""FLOPs of a training step, counted on the operations it runs."""

from __future__ import annotations

import copy

from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from steps.engine.schedules import Progress
from steps.methods.method import Batch, Draws, Method


def flops_per_image(method: Method, batch: Batch, draws: Draws, progress: Progress) -> float:
    """FLOPs of a forward and a backward pass, divided by the images of ``batch``.

    Counted on a copy, so that nothing of the run changes; a method in shards cannot be copied, and
    gets its buffers back. Attention runs as plain matrix
    products here, because fused kernels hide theirs; a multiply-add counts as two. What gradient
    caching computes a second time is not counted, so that a number does not depend on the device.
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
