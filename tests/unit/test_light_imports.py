"""Steps that run on GPUs import no library of detection, reports, the workflow or training."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import REPOSITORY, environment

HEAVY = ("pycocotools", "mmdet", "mmengine", "mmcv", "polars", "snakemake", "dvc", "hypothesis")
TRAINING = ("pretrain", "tokenizer", "finetune")
"""Steps that need Lightning, which takes as long to import as torch."""
NODES = (
    *("prepare", "pretrain", "tokenizer", "import", "embed", "export"),
    *("features", "knn", "linear", "finetune", "geometry", "zeroshot", "retrieval"),
    *("decode", "bias"),
)


@pytest.mark.parametrize("node", NODES)
def test_a_step_imports_little(node: str) -> None:
    unwanted = HEAVY if node in TRAINING else (*HEAVY, "lightning")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({unwanted!r}))"
    code = f"{blocked}; import importlib; importlib.import_module('steps.{node}')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
