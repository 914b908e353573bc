"""The manifest: contents of an artifact, its inputs, and the code that made it."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from steps.command import UserError

# --- SHA-256 of files and of values


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_value(value: object) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_files(files: Mapping[str, str]) -> str:
    """One digest for a set of files given as {relative path: digest}."""
    return digest_value(sorted(files.items()))


# --- Code, libraries, device and memory behind an artifact


ROOT = Path(__file__).resolve().parents[2]
_LIBRARIES = ("torch", "torchvision", "timm", "lightning", "numpy", "pyarrow", "pillow")
_DETECTION_LIBRARIES = ("onedl-mmcv", "onedl-mmengine", "onedl-mmdetection")


class CodeVersion(BaseModel):
    """The commit, if ``steps/`` differs from it, and the digest of the sources."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    commit: str
    dirty: bool
    digest: str


@functools.cache
def code_version() -> CodeVersion:
    """Version of the running code; ``commit`` is "unknown" outside a git checkout."""
    sources = {
        str(path.relative_to(ROOT)): digest_file(path)
        for path in sorted((ROOT / "steps").rglob("*.py"))
    }
    commit = _git("rev-parse", "HEAD") or "unknown"
    dirty = bool(_git("status", "--porcelain", "--", "steps"))
    return CodeVersion(commit=commit, dirty=dirty, digest=digest_files(sources))


def library_versions() -> dict[str, str]:
    """Versions of Python and of the loaded libraries that change numbers."""
    names = _LIBRARIES + (_DETECTION_LIBRARIES if "mmdet" in sys.modules else ())
    names += ("tokenizers",) if "tokenizers" in sys.modules else ()
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def device_name() -> str:
    """Device of the step: the GPU's name if torch used one, else the machine type."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return f"cpu ({platform.machine()})"


def peak_memory_mib() -> float:
    """Peak memory of this process in MiB: on the GPU if one was used, else resident memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(round(torch.cuda.max_memory_allocated() / 2**20, 1))
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


# --- The manifest


MANIFEST = "manifest.json"
SHARDS = ".arrow"
"""Suffix of files of images."""
ANEW = "remove the artifact's folder and run its step again"


class Manifest(BaseModel):
    """Description of an artifact.

    ``digest`` covers only ``files``, so two runs that computed the same have the same digest.
    """

    model_config = ConfigDict(extra="forbid")

    node: str
    digest: str
    files: dict[str, str]
    logs: list[str] = []
    """Files outside the digest, which depend on the clock or follow from the others."""
    params: dict[str, Any]
    sources: dict[str, str] = {}
    """Params files by role; empty in artifacts of earlier versions."""
    inputs: dict[str, str]
    """Digest of each input artifact by role."""
    facts: dict[str, Any] = {}
    """Facts for later steps and tables: counts, classes, images seen, FLOPs."""
    seed: int | None = None
    code: CodeVersion
    libraries: dict[str, str]
    device: str
    wall_seconds: float
    peak_memory_mib: float


class Required(dict[str, Any]):
    """Content of a file by name. A missing name is an error of the file."""

    def __init__(self, content: Mapping[str, Any], where: str, remedy: str) -> None:
        super().__init__(content)
        self._where, self._remedy = where, remedy

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._where}: {key}", "missing", remedy=self._remedy)


def read_manifest(artifact: Path, node: str | None = None) -> Manifest:
    """Read the manifest of an artifact.

    Raises:
        UserError: the folder is absent, or holds no whole artifact or one of another node. Access
            to a missing fact raises too.
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

    A process does so once, unless a file changes.

    Args:
        artifact: its folder.
        node: the step that must have made it.
        shards: check files of images too. They are large, and each image has a checksum that its
            reader compares (:mod:`steps.data.shards`).

    Raises:
        UserError: a file is missing or differs from the one that the step wrote.
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
    """Compare digests. ``states`` tell if files have changed since the last comparison."""
    for name, digest in files:
        if digest_file(artifact / name) != digest:
            raise UserError(
                str(artifact / name), "bytes differ from the manifest's checksum", remedy=ANEW
            )


# --- Compare an input artifact with the params


def check_named(
    key: str, artifact: Path | None, facts: Mapping[str, str] | None, *, node: str, where: Path
) -> None:
    """Check that an artifact is given exactly if the params name one, and is that one.

    Args:
        key: of the params, and of the command's option.
        artifact: path given on the command line.
        facts: required facts of the artifact's manifest, such as its recipe; None if the params
            name nothing.
        node: the step that makes such artifacts.
        where: the params file.

    Raises:
        UserError: one is given without the other, or the artifact is another.
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
