"""The DAG through sbatch, by the profile that a user takes, on a Slurm of this machine."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steps.artifacts import read_manifest, verify
from tests.processes import REPOSITORY
from tests.project import EVALUATIONS, LAST, Project, tiny
from tests.scenery import Scenery

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm")]

BACKBONE = f"{LAST}/backbone"
ASKED = {"default": {"mem_mb": 2000, "runtime": 10}}
TRAINING_SECONDS = 120.0
"""Longer than the time limits below, which Slurm looks at every half a minute."""


@dataclass(frozen=True)
class Job:
    """What Slurm remembers of one."""

    number: str
    rule: str
    state: str
    restarts: int
    minutes: int
    requeue: bool


def _project(scenery: Scenery) -> Project:
    """A whole experiment, small, whose jobs say what they ask for."""
    project = tiny(scenery)
    scenery.write("resources/test.yaml", ASKED)
    return project


def _by_slurm(project: Project, target: str, *options: str) -> str:
    return project.run(
        *("snakemake", target, "--snakefile", str(REPOSITORY / "workflow/Snakefile")),
        *("--workflow-profile", str(REPOSITORY / "workflow/profiles/slurm")),
        # Without accounting, squeue alone knows; and the queue is short.
        *("--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "1"),
        *("--seconds-between-status-checks", "1", *options),
    )


def _jobs(rule: str = "") -> list[Job]:
    """All jobs so far, or those of a rule, in the order of their submission."""
    command = ["scontrol", "show", "job", "--oneliner"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    jobs = []
    for line in re.findall(r"^JobId=.*$", said, flags=re.M):
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        name = re.sub(r"^rule_|_wildcards_.*$", "", fields["Comment"])
        hours, minutes, _ = map(int, fields["TimeLimit"].split(":"))
        jobs.append(
            Job(
                number=fields["JobId"],
                rule=name,
                state=fields["JobState"],
                restarts=int(fields["Restarts"]),
                minutes=60 * hours + minutes,
                requeue=fields["Requeue"] == "1",
            )
        )
    return [job for job in jobs if rule in ("", job.rule)]


def _wait_for_step(project: Project, step: int, run: Future[str]) -> None:
    """Return when the pretraining under way has logged so many steps."""
    while True:
        for file in project.root.glob(".scratch/pretrain-*/metrics.jsonl"):
            if len(file.read_bytes().splitlines()) >= step:
                return
        assert not run.done(), run.result()
        time.sleep(0.1)


def _records(project: Project) -> list[dict[str, Any]]:
    """All that the report is made of, but the clock."""
    lines = (project.root / "reports/quickstart/records.jsonl").read_text().splitlines()
    records = [record for line in lines for record in json.loads(line)["records"]]
    for record in records:
        del record["device_seconds"]
    return records


def test_from_images_to_table(tmp_path: Path) -> None:
    here, there = (_project(Scenery(tmp_path / name)) for name in ("here", "there"))
    here.snakemake()
    before = len(_jobs())
    _by_slurm(there, "report")
    assert _records(there) == _records(here)
    assert len(_records(here)) > 20

    jobs = _jobs()[before:]
    # Two sets, of each of two rows two nodes and a job a task and protocol, a picture, the page.
    assert len(jobs) == 2 + 2 * (2 + len(EVALUATIONS)) + 1 + 1
    assert {job.state for job in jobs} == {"COMPLETED"}
    assert {job.minutes for job in jobs} == {10}
    assert all(job.requeue for job in jobs)
    assert "Nothing to be done" in there.snakemake()


@dataclass(frozen=True)
class Trained:
    """A pretraining that was never stopped."""

    project: Project
    digest: str
    metrics: bytes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Made without Slurm."""
    scenery = Scenery(tmp_path_factory.mktemp("trained"))
    project = _project(scenery)
    # By the clock no checkpoint is due: a scheduler's signal alone makes one be written.
    changes = {"checkpoint_seconds": 1e6, "workers": 1, "knn": None}
    scenery.recipe("mae", epochs=20, **changes)
    project.snakemake(target=BACKBONE)
    seconds = read_manifest(project.root / BACKBONE).facts["device_seconds"]
    scenery.recipe("mae", epochs=math.ceil(20 * TRAINING_SECONDS / seconds), **changes)
    project.snakemake(target=BACKBONE)
    backbone = project.root / BACKBONE
    return Trained(project, verify(backbone).digest, (backbone / "metrics.jsonl").read_bytes())


@pytest.fixture
def untrained(trained: Trained) -> Trained:
    """As it was before, with the data prepared."""
    for name in ("results/pretrained", ".scratch"):
        shutil.rmtree(trained.project.root / name, ignore_errors=True)
    return trained


@pytest.mark.parametrize(
    ("minutes", "options", "ends"),
    [
        # The profile's SIGTERM, two minutes before the limit.
        (3, [], "FAILED"),
        # The limit itself: SIGTERM, and KillWait later SIGKILL.
        (1, ["pretrain:slurm_extra=''"], "TIMEOUT"),
    ],
)
def test_ended_by_its_time_limit_ends_with_the_same_bits(
    minutes: int, options: list[str], ends: str, untrained: Trained
) -> None:
    before = len(_jobs("pretrain"))
    limit = f"pretrain:runtime={minutes}"
    # Where the machine is busy, few steps fit into a job.
    _by_slurm(untrained.project, BACKBONE, "--retries", "20", "--set-resources", limit, *options)

    *stopped, last = _jobs("pretrain")[before:]
    assert stopped
    assert {job.state for job in stopped} == {ends}
    assert last.state == "COMPLETED"
    assert {job.minutes for job in (*stopped, last)} == {minutes}
    _check_same(untrained)


def test_queued_again_by_slurm_ends_with_the_same_bits(untrained: Trained) -> None:
    before = len(_jobs("pretrain"))
    with ThreadPoolExecutor() as pool:
        run = pool.submit(_by_slurm, untrained.project, BACKBONE)
        _wait_for_step(untrained.project, 50, run)
        (job,) = _jobs("pretrain")[before:]
        # What Slurm does itself where it wants a job's place, or has lost its node.
        subprocess.run(["scontrol", "requeue", job.number], check=True)
        run.result()

    (job,) = _jobs("pretrain")[before:]
    assert (job.state, job.restarts) == ("COMPLETED", 1)
    _check_same(untrained)


def _check_same(trained: Trained) -> None:
    """The backbone has the bits of the one that was never stopped, and no step was done twice."""
    backbone = trained.project.root / BACKBONE
    assert verify(backbone).digest == trained.digest
    assert (backbone / "metrics.jsonl").read_bytes() == trained.metrics
    lines = (backbone / "timing.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(1, len(trained.metrics.splitlines()) + 1))
    assert not list(trained.project.root.glob(".scratch/*"))
