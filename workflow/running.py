"""Let one engine at a time work in a folder, and print the reason of a failure last."""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from steps.command import UserError
from steps.params.paths import RESULTS

LOCK = Path(RESULTS, ".running")
"""Lock file of the Snakemake that works on the results, free when its process ends."""
DVC = Path(".dvc/tmp")
ENDED = "error: no message: the job was killed from outside (out of memory, time limit?)"
_PLANNING, _RUNNING = "plans", "runs"
_PATIENCE = 20.0
"""Seconds to wait for a process that only plans, which may end (a dry run) or begin."""


class Running:
    """The lock of this process on the results, taken before it plans.

    A plan made while another process works is stale: it may have a job whose result exists by now,
    and an engine removes the result of a job that it begins. So a process without the lock may
    plan but not run.
    """

    def __init__(self) -> None:
        self._files: list[IO[str]] = []
        self.refusal: UserError | None = None
        try:
            LOCK.parent.mkdir(exist_ok=True)
            self._take()
        except OSError as error:
            self.refusal = UserError(
                str(LOCK),
                f"cannot be locked ({error.strerror}), so two runs at once could not be kept apart",
                remedy="use a writable file system that has locks",
            )

    def begin(self) -> None:
        """Change from planning to running.

        Raises:
            UserError: another engine is running on the results.
        """
        if self.refusal is None and DVC.is_dir():
            self._keep_dvc_out()
        if self.refusal is not None:
            for file in self._files:
                file.close()
            raise self.refusal
        self._say(_RUNNING)

    def _take(self) -> None:
        file = LOCK.open("a+", encoding="utf-8")
        until = time.monotonic() + _PATIENCE
        while not _lock(file):
            file.seek(0)
            said = file.read()
            if _PLANNING not in said or time.monotonic() > until:
                self.refusal = UserError(
                    RESULTS,
                    f"another Snakemake is using them: {said.strip()}",
                    remedy="wait for it to end, then run the same command again",
                )
                file.close()
                return
            time.sleep(0.1)
        self._files.append(file)
        self._say(_PLANNING)

    def _say(self, what: str) -> None:
        file = self._files[0]
        file.truncate(0)
        file.write(f"process {os.getpid()} {what} {' '.join(sys.argv[1:])}\n")
        file.flush()

    def _keep_dvc_out(self) -> None:
        """Hold DVC's lock too. DVC frees it while a stage runs, but then lists the stage's
        process."""
        file, working = (DVC / "lock").open("a+", encoding="utf-8"), _dvc_processes()
        if not working and _lock(file):
            self._files.append(file)
            return
        file.close()
        self.refusal = UserError(
            RESULTS,
            "dvc is using them" + (f": process {working[0]}" if working else ""),
            remedy="wait for it to end, then run the same command again",
        )


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _dvc_processes() -> list[int]:
    """Running processes in DVC's list of paths in use."""
    try:
        uses: Any = json.loads((DVC / "rwlock").read_bytes())
        read = [each for several in uses.get("read", {}).values() for each in several]
        every = (*read, *uses.get("write", {}).values())
        found = {(int(each["pid"]), str(each["cmd"])) for each in every}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return sorted({pid for pid, command in found if _is_run_by(pid, command)})


def _is_run_by(pid: int, command: str) -> bool:
    """True if a process with this number runs DVC's command.

    A killed DVC stays in its list, and the system gives its number to another process.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    # DVC lists its own sys.argv, in which the interpreter and its options are missing.
    arguments = command.partition(" ")[2]
    return " ".join(words).strip().endswith(arguments)


def say_at_the_end(jobs: Iterable[Any]) -> None:
    """Print the reasons of failed jobs after Snakemake's own output.

    Args:
        jobs: the failed jobs of Snakemake.
    """
    lines = [line for job in jobs for line in reasons(job.name, map(Path, job.log))]
    atexit.register(lambda: print(*lines, sep="\n", file=sys.stderr, flush=True))


def reasons(rule: str, logs: Iterable[Path]) -> list[str]:
    """Path of a failed job's log and the step's errors in it."""
    lines = []
    for log in logs:
        lines.append(f"{rule} failed; its log: {log}")
        try:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            said = []
        # Only the last run counts. Libraries may print after the error, while the process ends.
        begins = [index for index, line in enumerate(said) if line.startswith("--- ")]
        own = said[begins[-1] + 1 :] if begins else said
        errors = [line for line in own if line.startswith("error: ")]
        lines += errors or own[-1:] or [ENDED]
    return lines
