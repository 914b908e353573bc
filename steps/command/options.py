"""The options that all tasks on a backbone have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from steps.command.errors import UserError


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
