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
    """The path of a result, from the command line.

    Raises:
        UserError: its last part is no name that a file or folder of its own can have.
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


_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def run_step(main: Callable[[], None]) -> None:
    """Call ``main``; end the process with status 2 and one line on stderr for a user's mistake.

    A disk that is full, or a loading process that died, is said likewise. Any other exception keeps
    its traceback: it is a bug of ours, and hiding where it came from would help nobody. SIGTERM and
    SIGHUP end it as an exception does, so that drafts are removed.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("timm").setLevel(logging.WARNING)  # three lines for each backbone it loads
    if stat.S_ISREG(os.fstat(2).st_mode):
        # A log, which has what earlier runs said above.
        now, command = time.strftime("%Y-%m-%d %H:%M:%S %z"), " ".join(sys.orig_argv)
        print(f"--- {now} {command}", file=sys.stderr)
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        main()
    except Exception as error:
        # torch raises in the handler that it has for the end of a loading process: not once more.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        said = error if isinstance(error, UserError) else of_machine(error, "the disk")
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        sys.exit(2)


def _end(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that everything is put away; a second signal does not disturb it."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
