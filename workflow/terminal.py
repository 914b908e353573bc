"""The terminal of a Snakemake run: its jobs, their last log lines, and warnings as they come.

Snakemake's own lines on jobs and resources stay away; its warnings and errors do not. A terminal
shows the running jobs in place. A file or a pipe gets plain lines: when a job starts, what its log
said last, now and then, and when it ends.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.text import Text

from steps.command.run import WARNING
from steps.core.durations import duration
from steps.data.names import escaped

KEPT = ".all"
"""End of the name of the file behind a job's log (``shell.prefix`` in the Snakefile)."""
_QUIET_SECONDS = 30.0
"""Seconds between two lines about one job in a file or a pipe."""
_SHOWN = 8
"""Most running jobs that a terminal shows."""
_STREAM = "DefaultStreamHandler"

_NOISE_EVENTS = (
    *("run_info", "resources_info", "workflow_started", "progress", "shellcmd"),
    *("job_info", "job_started", "job_finished", "group_info"),
)
_NOISE = re.compile(
    r"Assuming unrestricted shared filesystem|Building DAG of jobs|Using shell:|Using profile|"
    r"host: |Provided (cores|remote nodes|resources)|Rules claiming more threads|"
    r"(Conda environments|Singularity containers): ignored|Group jobs: inactive|"
    r"Select jobs to execute|Execute \d+ jobs|Complete log|Workflow finished|Total time|"
    r"Elapsed time|Runtime"
)
"""Lines of Snakemake that say nothing of this project's jobs. Others are shown, known or not."""

_SAYS_NOTHING = re.compile(r"--- |\s|\S+:\d+: \w*Warning: ")
"""Lines of a log that a terminal leaves out: begins of runs, and Python's warnings of libraries
with the line of code below."""


def is_noise(record: logging.LogRecord) -> bool:
    """True for a line of Snakemake that the terminal replaces or leaves out."""
    if record.levelno >= logging.WARNING:
        return False
    event = getattr(record, "event", None)
    if event is not None:
        return str(event) in _NOISE_EVENTS
    return _NOISE.match(str(record.msg or "").strip()) is not None


def describe(rule: str, wildcards: Mapping[str, str]) -> str:
    """Name of a job for readers: ``pretrain mae vit_pico seed 0``."""
    given = dict(wildcards)
    if "row" in given:
        *_, given["backbone"], given["recipe"], seed = given.pop("row").split("/")
        given["seed"] = seed.removeprefix("seed")
    keys = ("recipe", "name", "tokenizer", "backbone", "dataset", "protocol")
    words = [given[key] for key in keys if given.get(key) not in (None, rule)]
    ends = [f"seed {given['seed']}"] if "seed" in given else []
    return " ".join([rule, *words, *ends])


@dataclass
class Job:
    """A running job and what its log has said."""

    rule: str
    name: str
    log: Path
    """The file that keeps the output of earlier runs too."""
    read: int
    """Bytes read so far; at the start those of earlier runs."""
    started: float
    shown_at: float
    last: str = ""
    shown: str = ""
    _rest: str = ""
    _warned: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, rule: str, name: str, log: Path, now: float) -> Job:
        """A job that starts now."""
        kept = log.with_name(f"{log.name}{KEPT}")
        return cls(rule, name, kept, _size(kept), now, now)

    def follow(self) -> list[str]:
        """Read what the log got since the last call; new warnings in it."""
        try:
            with self.log.open("rb") as file:
                file.seek(self.read)
                new = file.read()
        except OSError:  # Not begun yet, or on a file system that is late.
            return []
        self.read += len(new)
        *lines, self._rest = re.split(r"[\r\n]", self._rest + new.decode(errors="replace"))
        warnings = []
        for line in map(escaped, map(str.rstrip, lines)):
            if not line or _SAYS_NOTHING.match(line):
                continue
            self.last = line
            if line.startswith(WARNING) and line not in self._warned:
                self._warned.add(line)
                warnings.append(line)
        return warnings


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class Terminal(logging.Handler):
    """Follows Snakemake's log records and the logs of its jobs.

    Args:
        stream: where lines go.
        live: show running jobs in place; default: if the stream is a terminal that can.
        silent: True while nothing is to be shown, as in a dry run.
        every: seconds between looks at the logs.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        live: bool | None = None,
        silent: Callable[[], bool] = lambda: False,
        every: float = 1.0,
    ) -> None:
        super().__init__(logging.INFO)
        self.jobs: dict[int, Job] = {}
        self.done, self.total = 0, 0
        self.finished: set[str] = set()
        """Rules of the jobs that ended well."""
        self.silent, self.every = silent, every
        able = stream.isatty() and os.environ.get("TERM") != "dumb"
        self.console = Console(file=stream, markup=False, highlight=False)
        self._live = Live(console=self.console, get_renderable=self._picture, auto_refresh=False)
        self._is_live = able if live is None else live
        self.stream = stream
        self._guard = threading.RLock()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None
        self._restore: Callable[[], object] | None = None

    # --- Snakemake's records

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of a job that starts, ends or fails."""
        event = str(getattr(record, "event", None) or "")
        if event not in ("job_info", "job_finished", "job_error", "progress", "run_info"):
            return
        try:
            if not self.silent():
                with self._guard:
                    self._take(event, record)
        except Exception:  # As logging's own handlers: a run does not end for a line.
            self.handleError(record)

    def _take(self, event: str, record: Any) -> None:
        if event == "run_info":
            self.total = record.stats.get("total", 0)
        elif event == "progress":
            self.done, self.total = record.done, record.total
        elif event == "job_info" and record.log:
            name = describe(record.rule_name, record.wildcards)
            self.jobs[record.jobid] = Job.of(
                record.rule_name, name, Path(record.log[0]), time.monotonic()
            )
            self._begin()
            if self._is_live:
                self._live.refresh()
            else:
                self._say(f"{name}: starts")
        elif event == "job_finished":
            self._finish(record.job_id, "done")
        elif event == "job_error":
            self._finish(record.jobid, "failed")

    def _finish(self, number: int, how: str) -> None:
        job = self.jobs.pop(number, None)
        if job is None:
            return
        self._warn(job)
        if how == "done":
            self.done += 1
            self.finished.add(job.rule)
        took = duration(time.monotonic() - job.started)
        self._say(f"{job.name}: {how} after {took}{self._count()}")

    def _count(self) -> str:
        return f" ({self.done} of {self.total} jobs)" if self.total else ""

    # --- The jobs' logs

    def _begin(self) -> None:
        if self._watcher is not None:
            return
        if self._is_live:
            self._live.start()
        self._watcher = threading.Thread(target=self._watch, name="terminal", daemon=True)
        self._watcher.start()

    def _watch(self) -> None:
        while not self._ended.wait(self.every):
            with self._guard:
                self.look()

    def look(self) -> None:
        """Read the logs of the running jobs, and show what is new."""
        now = time.monotonic()
        for job in self.jobs.values():
            self._warn(job)
            due = now - job.shown_at > _QUIET_SECONDS
            if not self._is_live and due and job.last != job.shown:
                job.shown, job.shown_at = job.last, now
                self._say(f"{job.name}: {job.last}")
        if self._is_live and self._watcher is not None and not self._ended.is_set():
            self._live.refresh()

    def _warn(self, job: Job) -> None:
        for line in job.follow():
            job.shown = line
            self._say(f"{WARNING}{job.name}: {line.removeprefix(WARNING)}")

    def _say(self, line: str) -> None:
        if self._is_live:
            self.console.print(line, soft_wrap=True)
        else:
            print(line, file=self.stream, flush=True)

    def _picture(self) -> RenderableType:
        now, jobs = time.monotonic(), list(self.jobs.values())
        lines = [
            Text(f"{job.name}  {duration(now - job.started)}  {job.last}", overflow="ellipsis")
            for job in jobs[:_SHOWN]
        ]
        for line in lines:
            line.no_wrap = True
        if len(jobs) > _SHOWN:
            lines.append(Text(f"and {len(jobs) - _SHOWN} more"))
        return Group(*lines, Text(f"{self.done} of {self.total} jobs done, {len(jobs)} running"))

    # --- Begin and end

    def install(self, logger: logging.Logger) -> None:
        """Take the place of Snakemake's lines on its own terminal handler, until the process ends.

        Nothing changes where a logger plugin writes to the terminal.
        """
        streams = [each for each in logger.handlers if each.name == _STREAM]
        if not streams:
            return
        stream: Any = streams[0]
        stream.addFilter(lambda record: self.silent() or not is_noise(record))
        if self._is_live:
            # Other lines are printed above the jobs, not into them.
            before = stream.setStream(FileProxy(self.console, self.stream))
            self._restore = lambda: stream.setStream(before)
        logger.addHandler(self)
        atexit.register(self.end)

    def end(self) -> None:
        """Release the terminal."""
        self._ended.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join(timeout=5)
        with self._guard:
            self.jobs.clear()
            if self._is_live and self._watcher is not None:
                self._live.stop()
            if self._restore is not None:
                self._restore()
                self._restore = None


def show_page(page: Path, stream: TextIO) -> None:
    """Print the first table of a report's page, and its path."""
    try:
        lines = page.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    begins = next((index for index, line in enumerate(lines) if line.startswith("|")), len(lines))
    table = []
    for line in lines[begins:]:
        if not line.startswith("|"):
            break
        table.append(escaped(re.sub(r"\\([\[\]_*])", r"\1", line)))
    print(*table, f"\nThe page: {page}", sep="\n", file=stream, flush=True)


def terminal_for(workflow: Any, stream: TextIO | None = None) -> Terminal:
    """The terminal of a Snakemake run, in place where its settings ask for nothing else.

    ``--quiet all`` shows nothing, and ``--verbose``, ``--printshellcmds`` and ``--debug-dag`` leave
    Snakemake's own lines.

    Args:
        workflow: Snakemake's.
        stream: default: the error output, or with ``--stdout`` the output.
    """
    manager = workflow.logger_manager
    settings = manager.settings
    default = sys.stdout if settings.stdout else sys.stderr
    terminal = Terminal(stream or default, silent=lambda: bool(workflow.dryrun or workflow.touch))
    quiet = {str(getattr(each, "name", each)).lower() for each in settings.quiet or ()}
    own = settings.verbose or settings.printshellcmds or settings.debug_dag
    if not own and "all" not in quiet:
        terminal.install(manager.logger)
    return terminal
