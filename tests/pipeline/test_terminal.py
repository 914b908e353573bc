"""The terminal of a Snakemake run names jobs, their last log lines and warnings, and the page."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import REPOSITORY, environment
from workflow import terminal
from workflow.terminal import Terminal, describe, is_noise, show_page

SNAKEFILE = '''
import sys
sys.path.insert(0, {repository!r})
from pathlib import Path
from workflow.terminal import show_page, terminal_for

TERMINAL = terminal_for(workflow)
TERMINAL.every = 0.1

shell.prefix(
    "set -euo pipefail; "
    'kept() {{{{ ln -sfn -- "${{{{1##*/}}}}.all" "$1" && echo "$1"; }}}}; '
)

onsuccess:
    TERMINAL.end()
    show_page(Path("page.md"), TERMINAL.stream)

onerror:
    TERMINAL.end()

rule report:
    default_target: True
    input: "page.md"

rule page:
    input: "results/mae/seed0"
    output: "page.md"
    log: "logs/page.log"
    shell: """
    printf '# Q\\n\\n| Model | Score |\\n| --- | --- |\\n' > {{output}}
    printf '| mae | 7 \\\\[6, 8\\\\] |\\n\\nend\\n' >> {{output}}
    : 2>> "$(kept {{log}})"
    """

rule pretrain:
    output: "results/{{recipe}}/seed{{seed}}"
    log: "logs/{{recipe}}/{{seed}}.log"
    shell: """
    exec 2>> "$(kept {{log}})"
    echo "--- 2026-01-01 00:00:00 +0000 python -m steps.pretrain" >&2
    echo "step 1/2  12 s left  loss 1.0  640 images/s" >&2
    echo "warning: collapse: mae at step 1" >&2
    sleep 1
    echo "step 2/2" >&2
    {end} {{output}}
    """
'''


LIBRARY = "/lib/x.py:12: UserWarning: The array is not writable\n  rows = array()\n"
"""Lines that Python prints for a warning of a library."""


def _project(folder: Path, end: str = "touch") -> list[str]:
    """A DAG of two jobs; the command that runs it."""
    text = SNAKEFILE.format(repository=str(REPOSITORY), end=end)
    (folder / "Snakefile").write_text(text, encoding="utf-8")
    log = folder / "logs/mae/0.log.all"
    log.parent.mkdir(parents=True)
    log.write_text("warning: of an earlier run\n")
    return [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "rules", "host"]


def _run(folder: Path, command: list[str], status: int = 0) -> list[str]:
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return (done.stderr + done.stdout).splitlines()


def test_plain_lines_of_a_run(tmp_path: Path) -> None:
    command = _project(tmp_path)
    lines = [re.sub(r"after \d+\.\d s", "after 1 s", line) for line in _run(tmp_path, command)]
    assert lines == [
        "pretrain mae seed 0: starts",
        "warning: pretrain mae seed 0: collapse: mae at step 1",
        "pretrain mae seed 0: done after 1 s (1 of 3 jobs)",
        "page: starts",
        "page: done after 1 s (2 of 3 jobs)",
        "| Model | Score |",
        "| --- | --- |",
        "| mae | 7 [6, 8] |",
        "",
        "The page: page.md",
    ]
    assert "Nothing to be done" in "\n".join(_run(tmp_path, command))
    plan = _run(tmp_path, [*command, "--forceall", "--dry-run"])
    assert any("This was a dry-run" in line for line in plan)
    assert not any(": starts" in line for line in plan)


def test_errors_of_snakemake_and_failed_jobs_are_said(tmp_path: Path) -> None:
    lines = _run(tmp_path, _project(tmp_path, end="false"), status=1)
    assert any(re.match(r"pretrain mae seed 0: failed after", line) for line in lines)
    assert any("At least one job did not complete successfully" in line for line in lines)


def test_what_asks_for_snakemakes_own_lines_gets_them(tmp_path: Path) -> None:
    lines = _run(tmp_path, [*_project(tmp_path), "--printshellcmds"])
    assert not any(": starts" in line for line in lines)
    assert any(line.startswith("Finished jobid") for line in lines)


def test_a_terminal_shows_running_jobs_in_place(tmp_path: Path) -> None:
    command = _project(tmp_path)
    leader, follower = pty.openpty()
    env = {**environment(), "TERM": "xterm", "COLUMNS": "60"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=follower, stderr=follower, stdin=follower
    )
    os.close(follower)
    said = b""
    while True:
        try:
            said += (new := os.read(leader, 65536))
        except OSError:  # the other side is closed
            break
        if not new:
            break
    os.close(leader)
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode()).replace("\r", "\n")
    assert re.search(r"^pretrain mae seed 0  \d\.\d s  warning: collapse: mae", text, re.M)
    assert "0 of 3 jobs done, 1 running" in text
    assert "warning: pretrain mae seed 0: collapse: mae at step 1\n" in text
    assert re.search(r"pretrain mae seed 0: done after \d\.\d s \(1 of 3 jobs\)", text)
    assert text.rstrip().endswith("The page: page.md")
    assert max(map(len, text.splitlines())) <= 120


def _record(event: str | None, level: int = logging.INFO, **fields: Any) -> logging.LogRecord:
    record = logging.LogRecord("snakemake", level, "", 0, fields.pop("msg", ""), None, None)
    record.__dict__.update(event=event, **fields)
    return record


def test_last_lines_come_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    shown = Terminal(stream, every=3600)
    log = tmp_path / "x.log.all"
    log.write_text("old\n")
    wildcards = {"backbone": "vit", "recipe": "mae", "seed": "1"}
    info = {"rule_name": "pretrain", "wildcards": wildcards, "log": [str(tmp_path / "x.log")]}
    shown.emit(_record("job_info", jobid=3, **info))
    for clock[0], text in (
        (10, "step 1\n"),
        (31, "ste"),
        (40, "p 2\nstep 3\x1b[2J\n"),
        (90, LIBRARY),
    ):
        with log.open("a") as file:
            file.write(text)
        shown.look()
    clock[0] = 120.0
    shown.emit(_record("job_finished", job_id=3))
    shown.end()
    assert stream.getvalue().splitlines() == [
        "pretrain mae vit seed 1: starts",
        "pretrain mae vit seed 1: step 1",
        r"pretrain mae vit seed 1: step 3\x1b[2J",
        "pretrain mae vit seed 1: done after 2 min 00 s",
    ]
    assert shown.finished == {"pretrain"}


def test_names_of_jobs() -> None:
    row = "pretrained/shapes/small/vit_pico/mae/seed0"
    assert describe("knn", {"row": row, "protocol": "knn"}) == "knn mae vit_pico seed 0"
    given = {"row": row, "protocol": "logreg", "dataset": "shapes"}
    assert describe("linear", given) == "linear mae vit_pico shapes logreg seed 0"
    assert describe("prepare", {"dataset": "shapes"}) == "prepare shapes"
    assert describe("page", {}) == "page"


@pytest.mark.parametrize(
    ("record", "noise"),
    [
        (_record("progress", msg=None), True),
        (_record(None, msg="Using shell: /usr/bin/bash"), True),
        (_record(None, msg="Select jobs to execute..."), True),
        (_record(None, msg="Nothing to be done (all requested files are present)."), False),
        (_record(None, msg="Shutting down, this might take some time."), False),
        (_record("progress", logging.ERROR, msg=""), False),
        (_record(None, logging.WARNING, msg="Using shell: odd"), False),
        (_record("job_error", logging.ERROR, msg=""), False),
    ],
)
def test_noise(record: logging.LogRecord, noise: bool) -> None:
    assert is_noise(record) is noise


def test_a_page_that_is_missing_or_has_no_table(tmp_path: Path) -> None:
    stream = io.StringIO()
    show_page(tmp_path / "none.md", stream)
    assert stream.getvalue() == ""
    (tmp_path / "page.md").write_text("# Title\n\nNo table.\n")
    show_page(tmp_path / "page.md", stream)
    assert stream.getvalue() == f"\nThe page: {tmp_path / 'page.md'}\n"
