"""The manifest: what an artifact holds and what it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from steps.artifacts.digest import digest_file
from steps.artifacts.provenance import CodeVersion
from steps.command import UserError

MANIFEST = "manifest.json"


class Manifest(BaseModel):
    """Everything that can be said about an artifact without opening its files.

    ``digest`` covers ``files`` alone: two runs that computed the same thing have the same digest,
    however long they took. ``logs`` holds files whose content depends on the clock.
    """

    model_config = ConfigDict(extra="forbid")

    node: str
    digest: str
    files: dict[str, str]
    logs: list[str] = []
    params: dict[str, Any]
    sources: dict[str, str] = {}
    """The params files by role; empty in artifacts from before it was kept."""
    inputs: dict[str, str]
    """Digest of each input artifact, by its role."""
    facts: dict[str, Any] = {}
    """What later steps and tables need to know: counts, classes, images seen, FLOPs."""
    seed: int | None = None
    code: CodeVersion
    libraries: dict[str, str]
    device: str
    wall_seconds: float
    peak_memory_mib: float


def read_manifest(artifact: Path, node: str | None = None) -> Manifest:
    """The manifest of the artifact in a folder.

    Raises:
        UserError: the folder is absent, holds no whole artifact, or one of another node.
    """
    path = artifact / MANIFEST
    if not artifact.is_dir():
        raise UserError(
            str(artifact), "no such artifact folder", remedy="run the step that makes it first"
        )
    if not path.is_file():
        raise UserError(
            str(artifact),
            f"no {MANIFEST}, so this is not a whole artifact",
            remedy="remove the folder and run its step again",
        )
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            str(path), f"not a manifest ({error.error_count()} errors)", remedy="make it anew"
        ) from error
    if node is not None and manifest.node != node:
        raise UserError(str(artifact), f"an artifact of {manifest.node}", allowed=node)
    return manifest


def verify(artifact: Path) -> Manifest:
    """Read the manifest and check every file against its checksum.

    Raises:
        UserError: a file is missing or its bytes are not those that the step wrote.
    """
    manifest = read_manifest(artifact)
    for name, digest in manifest.files.items():
        path = artifact / name
        if not path.is_file():
            raise UserError(str(path), "missing", remedy="run the step that makes it again")
        if digest_file(path) != digest:
            raise UserError(
                str(path), "bytes differ from the manifest's checksum", remedy="make it anew"
            )
    return manifest
