"""Images as a user has them, and what ``workflow.new`` makes of them or refuses."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steps.command import UserError
from steps.data.sources import open_source
from steps.params.checks import load_plan
from steps.params.plan import Plan
from workflow import new

RNG = np.random.default_rng(0)


def jpeg(side: int = 48) -> bytes:
    file = io.BytesIO()
    pixels = RNG.integers(0, 255, (side, side + 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def put(folder: Path, names: Sequence[str], side: int = 48) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(side))


def classes(folder: Path, each: int = 40) -> None:
    put(folder, [f"{name}/{i}.jpg" for name in ("cat", "dog") for i in range(each)])


def made(*arguments: str) -> Plan:
    """The plan that the command writes."""
    new.main(["mine", *arguments])
    return load_plan("mine")


def refused(*arguments: str, name: str = "mine") -> str:
    """The line of a refusal, after which nothing is written."""
    before = sorted(Path("params").rglob("*"))
    with pytest.raises(UserError) as error:
        new.main([name, *arguments])
    assert sorted(Path("params").rglob("*")) == before
    assert "\n" not in str(error.value)
    return str(error.value)


def text_of(path: Path) -> str:
    """A file with its comments in one line each."""
    return path.read_text().replace("\n# ", " ")


def counts(plan: Plan, name: str = "mine") -> tuple[int, int]:
    """Images of both splits, as ``prepare`` will read them."""
    source = open_source(plan.datasets[name])
    return len(source.labels("train")), len(source.labels("val"))
