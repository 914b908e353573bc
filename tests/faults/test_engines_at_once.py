"""One engine at a time works on the results, and says last why a step failed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from steps.command import UserError
from tests.processes import REPOSITORY, environment
from tests.project import BIN, Project, tiny
from tests.scenery import Scenery
from workflow import running
from workflow.running import DVC, LOCK, Running, reasons

PROFILES = sorted((REPOSITORY / "workflow/profiles").glob("*/config.yaml"))


def start(project: Project, *arguments: str) -> subprocess.Popen[str]:
    """Snakemake as ``Project.snakemake`` runs it, in a process group of its own."""
    return subprocess.Popen(
        [
            *("snakemake", "--snakefile", str(REPOSITORY / "workflow/Snakefile")),
            *("--profile", str(REPOSITORY / "workflow/profiles/default"), "--cores", "1"),
            *arguments,
        ],
        cwd=project.root,
        env=environment(PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_only_one_may_run_and_all_may_plan(here: Path) -> None:
    first = Running()
    first.begin()
    second = Running()  # plans without waiting, since the first runs
    with pytest.raises(UserError, match=r"another Snakemake is using them: process \d+ runs"):
        second.begin()
    first._files[0].close()
    with pytest.raises(UserError):  # its plan is of before the first ended
        second.begin()
    Running().begin()


def test_who_plans_is_waited_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_PATIENCE", 0.5)
    script = (
        "import time; from workflow.running import Running; r = Running(); "
        "print('.', flush=True); time.sleep(2)"
    )
    planner = subprocess.Popen(
        [sys.executable, "-c", script], env=environment(), stdout=subprocess.PIPE
    )
    assert planner.stdout is not None
    planner.stdout.readline()
    refused = Running()  # it plans for longer than our patience
    with pytest.raises(UserError, match="plans"):
        refused.begin()
    monkeypatch.setattr(running, "_PATIENCE", 30)
    Running().begin()  # a dry run ends, and then it is our turn
    planner.wait()


def test_a_kill_frees_the_lock(here: Path) -> None:
    script = (
        "import os, signal; from workflow.running import Running; r = Running(); r.begin(); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script], env=environment(), check=False)
    assert "runs" in LOCK.read_text(encoding="utf-8")
    Running().begin()


def test_dvc_and_snakemake_keep_apart(here: Path) -> None:
    DVC.mkdir(parents=True)
    with (DVC / "lock").open("a") as lock:  # as DVC holds it while it looks at its stages
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="dvc is using them"):
            Running().begin()
    script = "import sys, time; print('.', flush=True); time.sleep(600)"
    dvc = subprocess.Popen(
        [sys.executable, "-c", script, "repro", "knn a b"], stdout=subprocess.PIPE
    )
    assert dvc.stdout is not None
    dvc.stdout.readline()
    listed = {"pid": dvc.pid, "cmd": "/bin/dvc repro knn a b"}
    for uses in ({"read": {"a": [listed]}}, {"read": {}, "write": {"a": listed}}):
        (DVC / "rwlock").write_text(json.dumps(uses), encoding="utf-8")  # while a stage runs
        with pytest.raises(UserError, match=f"dvc is using them: process {dvc.pid}"):
            Running().begin()
    dvc.kill()
    dvc.wait()
    Running().begin()


def test_a_killed_dvc_holds_nobody_up(here: Path) -> None:
    DVC.mkdir(parents=True)
    # No process has the first number any more; the second was given to another process.
    killed = [{"pid": 2**22 + 5, "cmd": "dvc repro"}, {"pid": os.getpid(), "cmd": "dvc repro knn"}]
    uses = {"read": {"a": killed}, "write": {"b": killed[1]}}
    (DVC / "rwlock").write_text(json.dumps(uses), encoding="utf-8")
    held = Running()
    held.begin()
    with (DVC / "lock").open("a") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"read": 5}', '{"write": {"a": {}}}'])
def test_a_damaged_list_of_dvc_holds_nobody_up(content: str, here: Path) -> None:
    DVC.mkdir(parents=True)
    (DVC / "rwlock").write_text(content, encoding="utf-8")
    Running().begin()


def test_a_place_that_cannot_be_locked(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    planned = Running()  # planning works
    with pytest.raises(UserError, match=r"cannot be locked .No locks"):
        planned.begin()


@pytest.mark.parametrize(
    ("content", "last"),
    [
        ("--- then\nnoise\nerror: a: b\n--- now\nimages 1\nerror: c: d\n", "error: c: d"),
        ("Traceback\n  File\nValueError: x", "ValueError: x"),
        ("--- now\nerror: a: b\nException ignored in: <x>\nlost sys.stderr", "error: a: b"),
        ("--- then\nerror: a: b\n--- now\nKilled", "Killed"),
        ("--- now python -m steps.x", "error: no message: the job was killed from outside"),
        ("", "error: no message: the job was killed from outside"),
        (None, "error: no message: the job was killed from outside"),
    ],
)
def test_the_last_words_of_a_log(content: str | None, last: str, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    if content is not None:
        log.write_text(content, encoding="utf-8")
    first, second = reasons("knn", [log])
    assert first == f"knn failed; its log: {log}"
    assert second.startswith(last)


@pytest.mark.parametrize("file", PROFILES, ids=lambda file: file.parent.name)
def test_no_profile_relies_on_a_lock_that_outlives_a_kill(file: Path) -> None:
    profile = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert profile["nolock"] is True
    assert profile["rerun-incomplete"] is True


def test_every_rule_keeps_the_log_of_before() -> None:
    rules = 0
    for file in (REPOSITORY / "workflow/rules").glob("*.smk"):
        text = file.read_text(encoding="utf-8")
        rules += text.count("    shell:")
        kept = ' 2>> "$(kept {log:q})"\''
        assert text.count(kept) == text.count("    shell:") == text.count("2>"), file
    assert rules > 8


@pytest.mark.slow
def test_why_a_step_failed_is_said_last_and_logs_are_kept(scenery: Scenery) -> None:
    project = tiny(scenery)
    good = (scenery.params / "datasets/shapes.yaml").read_text(encoding="utf-8")
    scenery.write("datasets/shapes.yaml", {"format": "folder", "train": "nowhere", "val": "x"})
    log = project.root / "logs/data/shapes.log"
    for count in (1, 2):
        process = start(project, "results/data/shapes")
        _, stderr = process.communicate(timeout=600)
        lines = stderr.strip().splitlines()
        assert process.returncode == 1
        assert lines[-2] == "prepare failed; its log: logs/data/shapes.log"
        assert lines[-1].startswith("error: data/nowhere: no such folder | remedy: ")
        text = log.read_text(encoding="utf-8")
        assert text.count("--- 20") == text.count("error: data/nowhere") == count
    (scenery.params / "datasets/shapes.yaml").write_text(good, encoding="utf-8")
    project.snakemake(target="results/data/shapes")
    assert log.read_text(encoding="utf-8").count("error: data/nowhere") == 2


@pytest.mark.slow
def test_two_at_once_delete_nothing(scenery: Scenery) -> None:
    project = tiny(scenery)
    out = project.root / "results/data/shapes"
    for _ in range(2):
        both = [start(project, "results/data/shapes") for _ in range(2)]
        said = [process.communicate(timeout=600)[1] for process in both]
        codes = sorted(process.returncode for process in both)
        assert (out / "manifest.json").is_file()
        # The second is refused, or began to plan when the first was done.
        assert codes in ([0, 2], [0, 0]), said
        for code, text in zip((p.returncode for p in both), said, strict=True):
            if code:
                assert text.strip().splitlines()[-1].startswith("error: results: another Snakemake")
    assert project.snakemake_plans() != set()  # a dry run, and --touch, need no more than this
    running_one = start(project, "results/data/shapes_scenes", "--forcerun", "prepare")
    while "runs" not in (project.root / LOCK).read_text(encoding="utf-8"):
        time.sleep(0.05)
    assert running_one.poll() is None
    planned = start(project, "--dry-run")
    planned.communicate(timeout=600)
    assert planned.returncode == 0
    os.killpg(running_one.pid, signal.SIGKILL)
    running_one.communicate()
    project.snakemake(target="results/data/shapes_scenes")
    assert (project.root / "results/data/shapes_scenes/manifest.json").is_file()
