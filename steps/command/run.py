"""Run a step's ``main`` with errors in one line, and the options that tasks share."""

from __future__ import annotations

import argparse
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

# --- Options that all tasks on a backbone share


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


def task_parser(about: str | None, **further: str) -> argparse.ArgumentParser:
    """A parser of ``--protocol``, ``--backbone`` and ``--out``, and of further paths.

    Args:
        about: the step's docstring, whose first line is the description.
        further: the help text of each further option by its name, such as ``data``.
    """
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--protocol", type=Path, required=True, help="params/protocols/*.yaml")
    parser.add_argument("--backbone", type=Path, required=True, help="a backbone artifact")
    for name, meaning in further.items():
        kind = place if name == "pictures" else Path
        parser.add_argument(f"--{name}", type=kind, required=True, help=meaning)
    parser.add_argument("--out", type=place, required=True, help="where the result goes")
    return parser


# --- Run a step's ``main``


_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def run_step(main: Callable[[], None]) -> None:
    """Call ``main``; end the process with status 2 and one line on stderr for a user's mistake.

    Errors of the machine, such as a full disk or a dead loading process, also become one line. Any
    other exception is a bug of this project and keeps its traceback. SIGTERM and SIGHUP end the
    step as an exception does, so that drafts are removed.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
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


def _end(number: int, frame: FrameType | None) -> None:
    """End by an exception, so that drafts are removed; ignore a second signal."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)
