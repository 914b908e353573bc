"""Settings of Snakemake's ``--config``."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from steps.command import UserError
from steps.params.load import closest, shortened
from steps.params.names import unprintable


def check_settings(config: Mapping[str, object], known: Collection[str]) -> None:
    """Check that settings are text under known keys.

    Raises:
        UserError: naming the key at fault.
    """
    for key, value in config.items():
        if key not in known:
            close = closest(str(key), known)
            raise UserError(
                "--config",
                f"unknown key '{key}'",
                allowed=", ".join(known),
                remedy=f"did you mean '{close}'?" if close else "leave it out",
            )
        if not isinstance(value, str) or not value or unprintable(value):
            raise UserError(
                f"--config {key}",
                f"{shortened(repr(value))} ({type(value).__name__})",
                allowed="text that is printable and not empty",
                remedy=f"where YAML takes it for something else: --config '{key}=\"…\"'",
            )
