"""Hold an input artifact to what the params name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from steps.artifacts.manifest import read_manifest
from steps.command import UserError


def check_named(
    key: str, artifact: Path | None, facts: Mapping[str, str] | None, *, node: str, where: Path
) -> None:
    """Raise unless an artifact is given exactly where the params name one, and is that one.

    Args:
        key: of the params, and the option of the command line.
        artifact: what the command line gives.
        facts: what the artifact's manifest must say of it, such as its recipe; None where the
            params name nothing.
        node: the step that makes such artifacts.
        where: the params file.

    Raises:
        UserError: one is there without the other, or the artifact is another.
    """
    if facts is None:
        if artifact is None:
            return
        raise UserError(
            f"--{key} {artifact}",
            f"{where} names no {key}",
            remedy=f"leave out --{key}, or add the key '{key}' to {where}",
        )
    wanted = ", ".join(f"{name} {value}" for name, value in facts.items())
    if artifact is None:
        raise UserError(
            f"{where}: {key}",
            f"{wanted}, but no --{key} is given",
            remedy=f"give --{key} DIR, the artifact that steps.{node} made of it",
        )
    manifest = read_manifest(artifact, node)
    found = {name: manifest.facts.get(name) for name in facts}
    if found != dict(facts):
        raise UserError(
            f"--{key} {artifact}",
            ", ".join(f"{name} {value}" for name, value in found.items()),
            allowed=f"{wanted}, as {where} names it",
            remedy=f"give the artifact that steps.{node} made of it",
        )
