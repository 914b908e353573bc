"""Run a step's ``main``: errors in one line."""

from __future__ import annotations

import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from steps.command.errors import UserError
from steps.command.machine import of_machine

# --- The path of a result


def place(text: str) -> Path:
    """Path of a result, from the command line.

    Raises:
        UserError: its last part is not a name of a new file or folder.
    """
    if not text or text.endswith(("/", ".")) or not text.isprintable():
        raise UserError(
            f"--out {text!r}",
            "not the name of a result",
            allowed="a path that ends in a name, with no dot or slash after it",
            remedy="give the name that the result is to have",
        )
    return Path(text)


# --- Run a step's ``main``: errors in one line, a signal to end leaves nothing behind


WARNING = "warning: "
"""Begin of a line of a log that warns."""
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def run_step(main: Callable[[], None]) -> None:
    """Call ``main``; end the process with status 2 and one line on stderr for a user's mistake.

    Errors of the machine, such as a full disk or a dead loading process, also become one line. Any
    other exception is a bug of this project and keeps its traceback. SIGTERM and SIGHUP end the
    step as an exception does, so that drafts are removed.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("timm").setLevel(logging.WARNING)  # It logs three lines per backbone.
    if stat.S_ISREG(os.fstat(2).st_mode):
        # A log file, which keeps earlier runs' lines above.
        now, command = time.strftime("%Y-%m-%d %H:%M:%S %z"), " ".join(sys.orig_argv)
        print(f"--- {now} {command}", file=sys.stderr)
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        main()
    except Exception as error:
        # torch's own handler for dead loading processes raises too; do not raise twice.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        said = error if isinstance(error, UserError) else of_machine(error, "the disk")
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)


class Lines(logging.Formatter):
    """A message as it is, and WARNING before one of this project's own warnings, by which an engine
    finds it in a log."""

    def format(self, record: logging.LogRecord) -> str:
        own = record.name.partition(".")[0] in ("root", "steps", "__main__")
        warns = own and record.levelno >= logging.WARNING
        return f"{WARNING}{super().format(record)}" if warns else super().format(record)


def _end(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that drafts are removed; ignore a second signal."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
