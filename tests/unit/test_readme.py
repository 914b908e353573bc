"""The README is short, its table is the quickstart report's, and its commands work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from steps.params.checks import load_plan
from tests.pages import TEXT, block_run_by
from tests.processes import REPOSITORY, environment

README = TEXT["README.md"]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 130


def test_the_table_is_the_reports() -> None:
    report = (REPOSITORY / "reports/quickstart/README.md").read_text()
    block = re.search(
        r"<!-- from reports/quickstart/README.md -->\n(.*?)<!-- end -->", README, re.S
    )
    assert block is not None
    rows = [line for line in block.group(1).splitlines() if line.startswith("|")]
    assert len(rows) >= 6
    assert "\n".join(rows) in report, "copy the ranking table from the report again"


def test_own_images(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    for split in ("train", "val"):
        for index in range(160):
            folder = tmp_path / f"data/mine/{split}/class{index % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (index, 0, 0)).save(folder / f"{index}.png")
    write, run = block_run_by("unit/test_readme.py::test_own_images").content.splitlines()
    words = write.partition("#")[0].removeprefix("uv run python ").split()
    done = subprocess.run(
        [sys.executable, *words],
        cwd=tmp_path,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == run
    plan = load_plan("mine", tmp_path / "params")
    assert plan.experiment.methods == ["random", "supervised", "mae", "simclr"]


def test_every_method_task_and_page_is_named() -> None:
    for method in (REPOSITORY / "params/recipes/small").glob("*.yaml"):
        # The floor of two methods, and methods from weights or on other channels, are no methods of
        # their own.
        if method.stem != "random_beit" and not re.search("^continue_|_bands$", method.stem):
            assert re.search(rf"[\[`]{method.stem}[\]`]", README), method.stem
    for page in TEXT:
        assert page == "README.md" or f"]({page})" in README, page
