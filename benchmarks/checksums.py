"""Cost of holding images to a checksum as they are read, on gigabytes of them.

    python -m benchmarks.checksums [--gigabytes 5]

A prepared split of JPEGs of the size of ImageNet's (about 110 kB, 500 x 375 px) is written and
read in a random order, on one core, as a loader's process does: with its checksums and without, in
turns, image by image, with seconds of the process. A training step takes at least as long as its
images take to be decoded and cut, so the share of that time is the most that a step can lose; the
views are MAE's, the cheapest of the published ones. Opening the file, which compares all bytes but
the images once, has columns of its own. ``--small``: of seconds, writes no file.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.result import Result
from steps.data.shards import CHECKSUMS, Images, ShardWriter
from steps.data.views import make_views
from steps.params.load import load
from steps.params.recipe import Recipe

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPE = REPOSITORY / "params/recipes/imagenet/mae.yaml"
SIDE = 224
DIFFERENT = 64
"""Images that are drawn; the split has each many times."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--small", action="store_true", help="a few images; no file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = Result("checksums", [sys.executable, "-m", "benchmarks.checksums", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        result.add(**measure(Path(folder), 0.02 if arguments.small else arguments.gigabytes))
    print(result.rows if arguments.small else result.write())


def measure(folder: Path, gigabytes: float) -> dict[str, Any]:
    """One row: milliseconds an image, seconds to open."""
    jpegs = [drawn(seed) for seed in range(DIFFERENT)]
    size = sum(map(len, jpegs)) / len(jpegs)
    count = max(int(gigabytes * 1e9 / size), DIFFERENT)
    for name in ("with", "without"):
        (folder / name).mkdir()
    with ShardWriter(folder / "with/val.arrow", labels=True, captions=False) as writer:
        for index in range(count):
            writer.add(str(index), jpegs[index % DIFFERENT], 500, 375, 0)
    (folder / "without/val.arrow").hardlink_to(folder / "with/val.arrow")
    opened: dict[str, float] = {}
    images: dict[str, Images] = {}
    for name in ("with", "without"):
        started = time.process_time()
        images[name] = Images(folder / name, "val")
        opened[name] = time.process_time() - started
    assert (folder / f"with/val{CHECKSUMS}").is_file()
    training = load(RECIPE, Recipe).training
    assert training is not None
    rng = np.random.default_rng(0)
    spent = dict.fromkeys((*images, "views"), 0.0)
    order = rng.permutation(count)
    for turn, index in enumerate(order.tolist()):
        names = ("with", "without") if turn % 2 else ("without", "with")
        images[names[0]].encoded(index)  # from the disk, and not counted
        for name in names:
            started = time.process_time()
            images[name].encoded(index)
            spent[name] += time.process_time() - started
        if turn % 20 == 0:
            started = time.process_time()
            make_views(images["without"].image(index), list(training.views), SIDE, rng)
            spent["views"] += 20 * (time.process_time() - started)
    ms = {name: 1000 * value / count for name, value in spent.items()}
    checked = ms["with"] - ms["without"]
    return {
        "gigabytes": round(count * size / 1e9, 2),
        "images": count,
        "kB_an_image": round(size / 1000),
        "ms_read_without": round(ms["without"], 4),
        "ms_read_with": round(ms["with"], 4),
        "ms_decode_and_views": round(ms["views"], 2),
        "share_of_loading_percent": round(100 * checked / (ms["views"] + ms["with"]), 2),
        "s_open_without": round(opened["without"], 3),
        "s_open_with": round(opened["with"], 3),
    }


def drawn(seed: int) -> bytes:
    """A JPEG of noise that takes as many bytes as an image of ImageNet."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(256, size=(94, 125, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=93)
    return file.getvalue()


if __name__ == "__main__":
    main()
