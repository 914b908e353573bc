"""The manifest: what an artifact holds and what it was made from."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from steps.artifacts.digest import digest_file, digest_files
from steps.artifacts.provenance import CodeVersion
from steps.command import UserError

MANIFEST = "manifest.json"
SHARDS = ".arrow"
"""The suffix of files of images."""
ANEW = "remove the artifact's folder and run its step again"


class Manifest(BaseModel):
    """Everything that can be said about an artifact without opening its files.

    ``digest`` covers ``files`` alone: two runs that computed the same thing have the same digest,
    however long they took.
    """

    model_config = ConfigDict(extra="forbid")

    node: str
    digest: str
    files: dict[str, str]
    logs: list[str] = []
    """Files that the digest leaves out: they depend on the clock, or follow from the others."""
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


class Required(dict[str, Any]):
    """Content of a file by name; a name that is not there is an error of the file, in one line."""

    def __init__(self, content: Mapping[str, Any], where: str, remedy: str) -> None:
        super().__init__(content)
        self._where, self._remedy = where, remedy

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._where}: {key}", "missing", remedy=self._remedy)


def read_manifest(artifact: Path, node: str | None = None) -> Manifest:
    """The manifest of the artifact in a folder.

    Raises:
        UserError: the folder is absent, holds no whole artifact, or one of another node; or, when
            it is asked for, a fact that is not there.
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
            str(path), f"not a manifest ({error.error_count()} errors)", remedy=ANEW
        ) from error
    if node is not None and manifest.node != node:
        raise UserError(str(artifact), f"an artifact of {manifest.node}", allowed=node)
    manifest.facts = Required(manifest.facts, f"{path}: facts", ANEW)
    return manifest


def verify(artifact: Path, node: str | None = None, *, shards: bool = True) -> Manifest:
    """Read the manifest and compare every file with its checksum.

    A process does it once, as long as no file changes.

    Args:
        artifact: its folder.
        node: the step that must have made it.
        shards: files of images too; they are large, and a reader holds each image to a checksum of
            its own (:mod:`steps.data.shards`).

    Raises:
        UserError: a file is missing or its bytes are not those that the step wrote.
    """
    manifest = read_manifest(artifact, node)
    if digest_files(manifest.files) != manifest.digest:
        raise UserError(
            str(artifact / MANIFEST), "its digest is not that of its files", remedy=ANEW
        )
    states = []
    for name in (*manifest.files, *manifest.logs):
        path = artifact / name
        if not path.is_file():
            raise UserError(str(path), "missing", remedy=ANEW)
        found = path.stat()
        states.append((name, found.st_size, found.st_mtime_ns, found.st_ino))
    files = {n: d for n, d in manifest.files.items() if shards or not n.endswith(SHARDS)}
    _compare(artifact, tuple(files.items()), tuple(states))
    return manifest


@functools.lru_cache(maxsize=64)
def _compare(artifact: Path, files: tuple[tuple[str, str], ...], states: object) -> None:
    """Compare digests; ``states`` tells files that have changed since from those that have not."""
    for name, digest in files:
        if digest_file(artifact / name) != digest:
            raise UserError(
                str(artifact / name), "bytes differ from the manifest's checksum", remedy=ANEW
            )
