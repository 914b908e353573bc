"""The devices of a step: memory, one GPU per process, and Fabric for training."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steps.engine import sharding

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.precision.amp import MixedPrecision
    from lightning.fabric.strategies.strategy import Strategy

log = logging.getLogger(__name__)

# --- Memory of freed tensors in the C library


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of ``mallopt`` (glibc's malloc.h)."""
_LARGEST = 2**30
"""Bytes of the largest tensor that is taken from the heap."""


def keep_freed_memory() -> bool:
    """Keep the memory of freed tensors in the process, for the next tensors of their size.

    By default glibc returns free memory to the system, and takes each tensor of 32 MiB or more from
    the system. The system clears every page that it gives. A training step allocates the same
    tensors again and again: on a CPU this took 3 % (SimCLR) to 25 % (DINOv2, masked patches against
    65,536 prototypes) of a step of ViT-S/16 at 96 px.

    Returns:
        True if the C library did so; libraries other than glibc are not changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))


# --- One free GPU per process


_claimed: list[int] = []


def claim_gpu() -> None:
    """Take a free GPU for this process and hide the others.

    Workflow engines count GPUs but do not say which one a job may use. One lock per GPU, held until
    the process ends, decides it. Nothing happens if CUDA_VISIBLE_DEVICES or torchrun has decided
    already, if there is no GPU, or if all are taken (then they are shared).
    """
    # Without it torch asks CUDA for GPUs, which then no process forked from this one can use.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    if "CUDA_VISIBLE_DEVICES" in os.environ or "LOCAL_RANK" in os.environ:
        return
    for index in range(torch.cuda.device_count()):
        try:
            lock = _lock(f"pretext-gpu-{index}.lock")
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                log.warning("GPU %d is shared: it cannot be locked (%s)", index, error)
            continue
        _claimed.append(lock)
        os.environ["CUDA_VISIBLE_DEVICES"] = str(index)
        return


def _lock(name: str) -> int:
    """Take a lock that all users of the machine share, on a file that any of them may have made.

    Raises:
        OSError: EWOULDBLOCK if another process holds it; another error if the file cannot be used.
    """
    path = Path(tempfile.gettempdir()) / name
    try:
        # Read-only is enough for a lock. O_CREAT comes second, because in a folder that all may
        # write to the system refuses it on another user's file.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT, 0o644)
        os.fchmod(file, 0o644)  # whatever the umask is, others must open it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise
    return file


# --- All devices of a run


def launch(precision: str, deterministic: bool, strategy: str = "ddp") -> Fabric:
    """A launched Fabric: one device, or those that torchrun gave (nccl or gloo).

    Args:
        precision: "fp32": all products in float32, on a GPU too; "bf16": mixed, with weights in
            float32, where products that autocast leaves in float32 may use TF32.
        deterministic: refuse operations whose result varies between runs.
        strategy: "ddp" or "fsdp", for several devices; one device needs neither.
    """
    # Lightning takes seconds to import, and a step that only evaluates needs none of it.
    from lightning.fabric import Fabric

    # Its lines go to the step's log; with its own handler, each would appear there twice.
    logging.getLogger("lightning").handlers.clear()
    # cuBLAS is deterministic only with a fixed workspace, and reads this when it starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    claim_gpu()
    torch.use_deterministic_algorithms(deterministic)
    # In deterministic mode torch would fill every new tensor with NaN, one kernel per tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
    torch.set_float32_matmul_precision("highest" if precision == "fp32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    if not torch.cuda.is_available():
        keep_freed_memory()
    # torchrun starts the processes, also where Slurm's commands are installed.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=local,
        num_nodes=world // local,
        strategy=_strategy(strategy, world),
        plugins=_bf16(accelerator) if precision == "bf16" else None,
    )
    fabric.launch()
    return fabric


def _bf16(device: str) -> MixedPrecision:
    """Fabric's bfloat16 autocast over float32 weights, without its conversion of inputs.

    Images are float32 and everything else is integer or bool already; batches are frozen
    dataclasses, which Fabric's conversion refuses.
    """
    from lightning.fabric.plugins.precision.amp import MixedPrecision

    class BF16(MixedPrecision):
        def convert_input(self, data: Any) -> Any:
            return data

    return BF16("bf16-mixed", device=device)


def _strategy(name: str, world: int) -> Strategy | str:
    if world == 1:
        return "auto"
    if name == "fsdp":
        return sharding.strategy(world)
    from lightning.fabric.strategies.ddp import DDPStrategy

    # Buffers are equal in all processes by construction, and the first process must not overwrite
    # what a method accumulates in them between two updates.
    return DDPStrategy(broadcast_buffers=False)
