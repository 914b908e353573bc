"""Loggers that a training run can write to, and the packages behind them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Literal

from steps.command import UserError

LoggerName = Literal["tensorboard", "wandb"]
INSTALLED_BY: dict[str, str] = {
    "tensorboard": "uv sync --frozen",
    "wandb": "uv sync --frozen --group wandb",
}
"""Command that installs the package of each logger, which has the logger's name."""


def check_installed(where: str, loggers: Iterable[str]) -> None:
    """Check that the packages of loggers are installed; nothing is imported.

    Args:
        where: the key that names them, for the error.
        loggers: their names.

    Raises:
        UserError: naming the first that is missing, and the command that installs it.
    """
    for name in loggers:
        found = find_spec(name)
        # A folder of that name, such as W&B's own of its runs, counts as a package without a file.
        if found is None or found.origin is None:
            raise UserError(
                where,
                f"{name}, which is not installed",
                remedy=f"{INSTALLED_BY[name]}, or leave it out",
            )
