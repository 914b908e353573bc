"""The options that all tasks on a backbone have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


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
        parser.add_argument(f"--{name}", type=Path, required=True, help=meaning)
    parser.add_argument("--out", type=Path, required=True, help="where the result goes")
    return parser
