"""What gradient caching saves: memory and time of a step against the chunks of its batch.

    python -m benchmarks.memory [--recipe params/recipes/small/simclr.yaml] [--batch 128]

Takes gradients of random images, each number of chunks in a process of its own, by turns (several
rounds, so that a slow moment of the machine hits all of them). Reports what autograd keeps for the
backward pass at its most, the peak of all memory beyond what stood before the first step (the
process's, or the allocator's on a GPU), and images a second.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from benchmarks.result import Result
from steps.core.schedules import Progress
from steps.engine.gradient_cache import Chunk, cached_backward
from steps.methods import Batch, BatchCoupledMethod, MethodContext, build_method
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.load import load
from steps.params.recipe import Recipe

REPOSITORY = Path(__file__).resolve().parents[1]
CHUNKS = (1, 2, 4, 8)
ROUNDS, STEPS = 3, 2
PROGRESS = Progress(step=0, steps_per_epoch=1, total_steps=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    params = REPOSITORY / "params"
    parser.add_argument("--recipe", type=Path, default=params / "recipes/small/simclr.yaml")
    parser.add_argument("--backbone", type=Path, default=params / "backbones/vit_pico.yaml")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--chunks", type=int, help="measure this one, in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.chunks:
        print(json.dumps(measure(arguments)))
        return
    rounds: dict[int, list[dict[str, float]]] = {chunks: [] for chunks in CHUNKS}
    for _ in range(ROUNDS):
        for chunks in CHUNKS:
            rounds[chunks].append(_measure_elsewhere(arguments, chunks))
    result = Result("memory", [sys.executable, "-m", "benchmarks.memory", *sys.argv[1:]])
    for chunks, measured in rounds.items():
        median = {key: statistics.median(row[key] for row in measured) for key in measured[0]}
        result.add(
            method=arguments.recipe.stem,
            backbone=arguments.backbone.stem,
            batch=arguments.batch,
            chunks=chunks,
            saved_for_backward_mib=round(median["saved_mib"], 1),
            peak_memory_mib=round(median["peak_mib"], 1),
            images_per_second=round(median["images_per_second"], 1),
        )
    print(result.write())


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Gradients of one batch in ``arguments.chunks`` chunks, some times over."""
    fabric = Fabric(accelerator="auto", devices=1)
    method, chunks = _method_and_chunks(fabric, arguments)
    before = _memory_mib(fabric.device)
    _gradients(fabric, method, chunks)
    peak = _memory_mib(fabric.device, peak=True)
    started = time.monotonic()
    for _ in range(STEPS):
        _gradients(fabric, method, chunks)
    elapsed = time.monotonic() - started
    with SavedActivations(method) as saved:
        _gradients(fabric, method, chunks)
    return {
        "saved_mib": saved.peak / 2**20,
        "peak_mib": peak - before,
        "images_per_second": STEPS * arguments.batch / elapsed,
    }


def _gradients(fabric: Fabric, method: BatchCoupledMethod, chunks: list[Chunk]) -> None:
    """As the loop does it: by caching where there is more than one chunk."""
    if len(chunks) > 1:
        cached_backward(fabric, method, chunks, PROGRESS, where="benchmark")
    else:
        batch, draws = chunks[0]
        fabric.backward(method(batch, draws, PROGRESS)["loss"])
    method.zero_grad(set_to_none=True)
    if fabric.device.type == "cuda":
        torch.cuda.synchronize()


def _method_and_chunks(
    fabric: Fabric, arguments: argparse.Namespace
) -> tuple[BatchCoupledMethod, list[Chunk]]:
    """The recipe's method on the device, and random images in equal chunks."""
    torch.manual_seed(0)
    recipe, backbone = load(arguments.recipe, Recipe), load(arguments.backbone, Backbone)
    assert recipe.training is not None
    sizes = [
        view.size or backbone.image_size
        for view in recipe.training.views
        for _ in range(view.count)
    ]
    around = MethodContext(views=len(sizes))
    method = fabric.to_device(build_method(recipe.method, create_backbone(backbone), around))
    assert isinstance(method, BatchCoupledMethod), "the loss of this method does not couple samples"
    draws = method.sample(arguments.batch, torch.Generator().manual_seed(0))
    views = [torch.randn(arguments.batch, 3, size, size) for size in sizes]
    chunks = []
    for part in torch.arange(arguments.batch).chunk(arguments.chunks):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        batch = Batch([view[rows] for view in views], torch.zeros(len(part), dtype=torch.int64))
        chunk = (batch, {name: draw[rows] for name, draw in draws.items()})
        chunks.append(chunk)
    return method, chunks


def _measure_elsewhere(arguments: argparse.Namespace, chunks: int) -> dict[str, float]:
    command = [
        *(sys.executable, "-m", "benchmarks.memory", "--chunks", str(chunks)),
        *("--recipe", str(arguments.recipe), "--backbone", str(arguments.backbone)),
        *("--batch", str(arguments.batch)),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _memory_mib(device: torch.device, *, peak: bool = False) -> float:
    """Memory now, or its peak since this was last asked without ``peak``."""
    if device.type == "cuda":
        if peak:
            return torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if not peak:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB" if peak else r"VmRSS:\s+(\d+) kB", status)
    return int(kib) / 2**10


class SavedActivations:
    """Within its context, counts the bytes that autograd keeps for backward passes.

    Args:
        module: whose parameters are kept anyway, and not counted.
    """

    def __init__(self, module: nn.Module) -> None:
        self.live = 0
        self.peak = 0
        """Bytes at the most."""
        self._kept_anyway = {_storage(parameter) for parameter in module.parameters()}
        self._uses: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _Saved.tensor_of)

    def __enter__(self) -> SavedActivations:
        self._hooks.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _pack(self, tensor: Tensor) -> _Saved:
        return _Saved(self, tensor)

    def add(self, tensor: Tensor) -> None:
        """A graph holds a tensor; views of the same memory count once."""
        storage = _storage(tensor)
        if storage in self._kept_anyway:
            return
        self._uses[storage] = self._uses.get(storage, 0) + 1
        if self._uses[storage] == 1:
            self.live += tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, self.live)

    def remove(self, tensor: Tensor) -> None:
        """A graph gave it up."""
        storage = _storage(tensor)
        if storage in self._kept_anyway:
            return
        self._uses[storage] -= 1
        if self._uses[storage] == 0:
            self.live -= tensor.untyped_storage().nbytes()


class _Saved:
    """A tensor in a graph: it goes when the graph goes."""

    def __init__(self, meter: SavedActivations, tensor: Tensor) -> None:
        self.meter, self.tensor = meter, tensor
        meter.add(tensor)

    def __del__(self) -> None:
        self.meter.remove(self.tensor)

    def tensor_of(self) -> Tensor:
        return self.tensor


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


if __name__ == "__main__":
    main()
