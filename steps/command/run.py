"""Run a step's ``main`` and turn a :class:`UserError` into one line and exit status 2."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from steps.command.errors import UserError


def run_step(main: Callable[[], None]) -> None:
    """Call ``main``; end the process with status 2 and one line on stderr for a user's mistake.

    Any other exception keeps its traceback: it is a bug of ours, and hiding where it came from
    would help nobody.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("timm").setLevel(logging.WARNING)  # three lines for each backbone it loads
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
