"""Write an artifact next to its place and rename it there when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steps.artifacts.digest import digest_file, digest_files
from steps.artifacts.manifest import MANIFEST, Manifest, read_manifest
from steps.artifacts.provenance import (
    code_version,
    device_name,
    library_versions,
    peak_memory_mib,
)


class Draft:
    """A folder under construction. Put files into ``path``, facts into ``facts``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self.logs: set[str] = set()
        """Names of files whose bytes depend on the clock; they do not enter the digest."""
        self.seconds_before = 0.0
        """Wall time of the step before the draft was begun, in killed processes too."""


@contextmanager
def publish(
    out: Path,
    *,
    node: str,
    params: Mapping[str, Any],
    inputs: Mapping[str, Path],
    sources: Mapping[str, Path] | None = None,
    seed: int | None = None,
) -> Iterator[Draft]:
    """Yield a :class:`Draft`; on a clean exit give it a manifest and rename it to ``out``.

    An artifact that stood at ``out`` is replaced. On an exception nothing is left behind and what
    stood there stays.

    Args:
        out: the folder to publish.
        node: the step's name.
        params: the resolved params (JSON values), all that decided the content.
        inputs: input artifacts by role.
        sources: the params files by role.
        seed: the seed, where the step has one.

    Raises:
        UserError: an input is not a whole artifact.
    """
    digests = {role: read_manifest(path).digest for role, path in inputs.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Draft(Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)))
    started = time.monotonic()
    try:
        yield draft
        names = sorted(
            str(path.relative_to(draft.path)) for path in draft.path.rglob("*") if path.is_file()
        )
        files = {name: digest_file(draft.path / name) for name in names if name not in draft.logs}
        manifest = Manifest(
            node=node,
            digest=digest_files(files),
            files=files,
            logs=sorted(draft.logs),
            params=dict(params),
            sources={role: str(path) for role, path in (sources or {}).items()},
            inputs=digests,
            facts=draft.facts,
            seed=seed,
            code=code_version(),
            libraries=library_versions(),
            device=device_name(),
            wall_seconds=round(draft.seconds_before + time.monotonic() - started, 3),
            peak_memory_mib=peak_memory_mib(),
        )
        (draft.path / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        _replace(draft.path, out)
    finally:
        shutil.rmtree(draft.path, ignore_errors=True)


def _replace(draft: Path, out: Path) -> None:
    draft.chmod(0o755)  # mkdtemp makes private folders; an artifact is for everyone to read
    for path in draft.rglob("*"):
        if path.is_file():
            _sync(path)
    if out.exists():
        # A folder cannot be renamed over a full one. Between the two renames ``out`` is absent,
        # never half there.
        old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
        out.rename(old / out.name)
        draft.rename(out)
        shutil.rmtree(old)
    else:
        draft.rename(out)
    _sync(out.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
