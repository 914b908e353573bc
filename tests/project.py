"""A whole experiment of a minute, in a folder of its own; the code is the repository's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from steps.params.load import read_yaml
from steps.params.tasks import TASKS
from tests.processes import REPOSITORY
from tests.scenery import Scenery

BIN = Path(sys.executable).parent
LAST = "results/pretrained/shapes/test/vit_test/mae/seed0"
PROTOCOLS = {
    "knn": ("knn",),
    "linear": ("linear", "logreg"),
    "finetune": ("finetune",),
    "geometry": ("geometry",),
    "detect": ("mask_rcnn_small",),
    "segment": ("segment",),
    "layout": ("layout",),
}
SETS = {
    **dict.fromkeys(("knn", "linear"), "shapes/features"),
    **dict.fromkeys(("finetune", "geometry"), "shapes"),
    **dict.fromkeys(("detect", "segment", "layout"), "shapes_scenes"),
}
"""Folders between a task and its protocol in the path of a record."""
EVALUATIONS = [(task, protocol) for task, names in PROTOCOLS.items() for protocol in names]


class Project:
    """A folder with params, dvc.yaml and results of its own; the code is the repository's."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, status: int = 0) -> str:
        env = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "CUDA_VISIBLE_DEVICES": "",
            "DVC_NO_ANALYTICS": "1",
            # Both engines with a thread a job, so that they compute the same bits.
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(command, cwd=self.root, env=env, capture_output=True, text=True)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def snakemake(self, *arguments: str, target: str = "report") -> str:
        return self.run(
            *("snakemake", "--snakefile", str(REPOSITORY / "workflow/Snakefile")),
            *("--profile", str(REPOSITORY / "workflow/profiles/default")),
            *(target, *arguments),
        )

    def dvc(self, experiment: str = "quickstart") -> None:
        """Write dvc.yaml for an experiment; DVC is set up at the first call."""
        self.run(sys.executable, "-m", "workflow.dvc", experiment)
        if not (self.root / ".dvc").exists():
            self.run("dvc", "init", "--no-scm", "--quiet")

    def snakemake_plans(self, *arguments: str) -> set[str]:
        """(rule, files) that Snakemake would make."""
        plan = self.snakemake("-n", "--quiet", "host", *arguments)
        return {
            output
            for line in re.findall(r"^    output: (.*)$", plan, flags=re.M)
            for output in line.split(", ")
        }

    def dvc_plans(self, *targets: str) -> set[str]:
        """Stages that DVC would run, for all that it knows or for some targets."""
        # A dry run does not follow a change downstream by itself: it knows no new outputs.
        said = self.run("dvc", "repro", "--dry", "--force-downstream", *targets)
        return set(re.findall(r"^Running stage '(.*?)':", said, flags=re.M))


def tiny(scenery: Scenery) -> Project:
    params = scenery.params
    for name in ("datasets/shapes", "datasets/shapes_scenes", "protocols/mask_rcnn_small"):
        shutil.copytree(
            (REPOSITORY / "params" / name).parent, (params / name).parent, dirs_exist_ok=True
        )
    for name, counts in (("shapes", (96, 32)), ("shapes_scenes", (8, 4))):
        path = params / f"datasets/{name}.yaml"
        text = re.sub(r"^train: .*$", f"train: {counts[0]}", path.read_text(), flags=re.M)
        path.write_text(re.sub(r"^val: .*$", f"val: {counts[1]}", text, flags=re.M))
    path = params / "protocols/mask_rcnn_small.yaml"
    path.write_text(re.sub(r"^epochs: .*$", "epochs: 1", path.read_text(), flags=re.M))
    scenery.recipe("mae", checkpoint_seconds=60.0, epochs=1)
    training = {
        **read_yaml(scenery.params / "recipes/test/mae.yaml")["training"],
        "epochs": 0.2,
        "batch_size": 16,
    }
    training["max_batch_per_device"] = 16
    training["schedule"] = {"warmup_epochs": 0.1}
    for name, content in {
        "protocols/features.yaml": {"poolings": ["cls", "mean"], "crop_fraction": 1.0},
        "protocols/knn.yaml": {
            "k": [5, 20],
            "headline_k": 20,
            "temperature": 0.07,
            "pooling": "cls",
        },
        "protocols/linear.yaml": {
            "kind": "cached",
            "poolings": ["cls"],
            "epochs": 2,
            "batch_size": 32,
            "lr": [0.1],
        },
        "protocols/logreg.yaml": {
            "kind": "logreg",
            "poolings": ["cls"],
            "c": [1.0],
            "max_iterations": 20,
            "tolerance": 1e-3,
        },
        "protocols/finetune.yaml": {
            "method": {"name": "supervised", "pooling": "mean"},
            "training": training,
            "crop_fraction": 1.0,
        },
        "protocols/geometry.yaml": {
            "pooling": "cls",
            "view": {"area": [0.2, 1.0]},
            "crop_fraction": 1.0,
        },
        "protocols/segment.yaml": {
            "epochs": 1,
            "batch_size": 4,
            "lr": 0.01,
            "weight_decay": 0.0,
        },
        "experiments/quickstart.yaml": {
            "title": "Tiny",
            "question": "Does everything run?",
            "dataset": "shapes",
            "detection_dataset": "shapes_scenes",
            "regime": "test",
            "methods": ["random", "mae"],
            "backbones": ["vit_test"],
            "seeds": [0],
            "features": "features",
            "tasks": {task: list(names) for task, names in PROTOCOLS.items()},
            "pictures": ["mae"],
        },
    }.items():
        scenery.write(name, content)
    shutil.copy(REPOSITORY / ".dvcignore", scenery.root)
    return Project(scenery.root)


def record(row: str, task: str, protocol: str) -> str:
    """The path of a record of a row."""
    return f"{row}/{task}/{SETS[task]}/{protocol}.json"


def measured(row: str, task: str, protocol: str) -> list[str]:
    """The paths of a record of a row and of the decisions behind it."""
    path = record(row, task, protocol)
    return [path, *([path.replace(".json", ".parquet")] if TASKS[task].decides else [])]
