"""Chunked k-NN against scikit-learn's brute force: time, peak memory, and whether both agree.

    python -m benchmarks.knn [--train 200000] [--queries 10000] [--dim 384] [--k 20] [--threads 2]

Features are drawn around the centres of classes, so that neighbours mean something. Each side runs
in a process of its own that reads the same files, and finds the k nearest by cosine similarity; the
votes are counted alike. ``--small`` is a size of seconds. Without scikit-learn our side runs alone
(``uv run --with scikit-learn python -m benchmarks.knn`` brings it for one run). The exact answer is
that of similarities in float64, for the first queries.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.result import Result
from steps.evaluation.knn import BANK_CHUNK, nearest

CLASSES = 100
TEMPERATURE = 0.07
CHUNK = 1024
CHECKED = 500
"""Queries whose answer is computed in float64 besides."""
SIDES = ("pretext", "scikit-learn")
SMALL = {"train": 20_000, "queries": 1_000, "dim": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=int, default=200_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--small", action="store_true", help="a size of seconds; writes no file")
    parser.add_argument("--side", choices=SIDES, help="measure this one, in this process, as JSON")
    parser.add_argument("--folder", type=Path, help="of the features, for --side")
    arguments = parser.parse_args()
    if arguments.small:
        vars(arguments).update(SMALL)
    if arguments.side:
        print(json.dumps(measure(arguments)))
        return
    result = Result("knn", [sys.executable, "-m", "benchmarks.knn", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        draw_features(Path(folder), arguments)
        for side in SIDES:
            if side == "pretext" or importlib.util.find_spec("sklearn"):
                result.add(side=side, **_measure_elsewhere(side, folder, arguments))
    if arguments.small:
        print("\n".join(map(str, result.rows)))
    else:
        print(result.write())


def draw_features(folder: Path, arguments: argparse.Namespace) -> None:
    """``<split>.npy`` (N, D) float32 and ``<split>_labels.npy`` (N,), in blocks."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLASSES, arguments.dim), dtype=np.float32)
    for split, count in (("train", arguments.train), ("queries", arguments.queries)):
        labels = rng.integers(0, CLASSES, count)
        array = np.lib.format.open_memmap(
            folder / f"{split}.npy", "w+", np.float32, (count, arguments.dim)
        )
        for start in range(0, count, BANK_CHUNK):
            own = labels[start : start + BANK_CHUNK]
            noise = rng.standard_normal((len(own), arguments.dim), dtype=np.float32)
            array[start : start + len(own)] = centres[own] + 3 * noise
        array.flush()
        np.save(folder / f"{split}_labels.npy", labels)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and memory of one side, and its share of right and of exact answers in percent."""
    torch.set_num_threads(arguments.threads)
    train = np.load(arguments.folder / "train.npy", mmap_mode="r")
    queries = np.load(arguments.folder / "queries.npy", mmap_mode="r")
    train_labels = torch.from_numpy(np.load(arguments.folder / "train_labels.npy"))
    labels = torch.from_numpy(np.load(arguments.folder / "queries_labels.npy"))
    find = ours if arguments.side == "pretext" else theirs
    before = _peak_mib()
    started = time.monotonic()
    similarity, index = find(train, queries, arguments.k)
    predicted = vote(similarity, train_labels[index])
    seconds, peak = time.monotonic() - started, _peak_mib()
    exact = vote(*_exact(train, queries[:CHECKED], train_labels, arguments.k))
    return {
        "train": len(train),
        "queries": len(queries),
        "dim": arguments.dim,
        "k": arguments.k,
        "threads": arguments.threads,
        "seconds": round(seconds, 2),
        "peak_memory_mib": round(peak),
        "above_start_mib": round(peak - before),
        "top1": round(100 * float((predicted == labels).double().mean()), 2),
        "as_exact": round(100 * float((predicted[:CHECKED] == exact).double().mean()), 2),
    }


def ours(train: np.ndarray, queries: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and indices (M, k), by chunks."""
    found = [
        nearest(train, _unit(queries[start : start + CHUNK]), k, BANK_CHUNK)
        for start in range(0, len(queries), CHUNK)
    ]
    return torch.cat([values for values, _ in found]), torch.cat([index for _, index in found])


def theirs(train: np.ndarray, queries: np.ndarray, k: int) -> tuple[Tensor, Tensor]:
    """The same by scikit-learn: of unit vectors, d^2 = 2 - 2 s orders as the similarity s does.

    (Its cosine metric is slower: that has no fused search.)
    """
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="sqeuclidean", n_jobs=-1)
    search.fit(_unit(train).numpy())
    distance, index = search.kneighbors(_unit(queries).numpy())
    return 1 - torch.from_numpy(distance) / 2, torch.from_numpy(index)


def vote(similarity: Tensor, labels: Tensor) -> Tensor:
    """The class (M,) with most of the neighbours' weights."""
    votes = torch.zeros(len(labels), CLASSES)
    return votes.scatter_add_(1, labels, (similarity / TEMPERATURE).exp().float()).argmax(dim=1)


def _exact(
    train: np.ndarray, queries: np.ndarray, train_labels: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Similarities in float64 and labels of the k nearest."""
    wanted = _unit(queries.astype(np.float64))
    blocks = [
        wanted @ _unit(train[start : start + BANK_CHUNK].astype(np.float64)).T
        for start in range(0, len(train), BANK_CHUNK)
    ]
    similarity, index = torch.cat(blocks, dim=1).topk(k, dim=1)
    return similarity, train_labels[index]


def _unit(rows: np.ndarray) -> Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(np.array(rows)), dim=1)


def _peak_mib() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure_elsewhere(side: str, folder: str, arguments: argparse.Namespace) -> dict[str, float]:
    sizes = ("train", "queries", "dim", "k", "threads")
    options = [f"--{name}={getattr(arguments, name)}" for name in sizes]
    command = [sys.executable, "-m", "benchmarks.knn", f"--side={side}", f"--folder={folder}"]
    threads = {f"{library}_NUM_THREADS": str(arguments.threads) for library in ("OMP", "MKL")}
    done = subprocess.run(
        [*command, *options],
        env=os.environ | threads,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
