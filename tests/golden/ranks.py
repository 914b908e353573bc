"""Run a function in several gloo processes: replays of what a reference recorded on several."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

_TIMEOUT = datetime.timedelta(minutes=2)


def on_ranks(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call ``function`` once in each of several processes, with one thread each.

    Inside, ``steps.core.distributed`` sees as many processes as there are rows of arguments.

    Args:
        function: of a module's top level, so that it can be pickled.
        arguments: those of rank 0, of rank 1, and so on.

    Returns:
        What each rank returned (tensors, numbers, and lists, tuples and dicts of them), by rank.

    Raises:
        torch.multiprocessing.ProcessRaisedException: a rank raised; its traceback is inside.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (function, arguments, folder), nprocs=len(arguments))
        return [torch.load(_result(folder, rank)) for rank in range(len(arguments))]


def _rank(
    rank: int, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], folder: str
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=len(arguments),
        timeout=_TIMEOUT,
    )
    try:
        torch.save(function(*arguments[rank]), _result(folder, rank))
    finally:
        dist.destroy_process_group()


def _result(folder: str, rank: int) -> Path:
    return Path(folder) / f"rank{rank}.pt"
