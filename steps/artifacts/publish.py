"""Write an artifact next to its place and rename it there when it is whole."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steps.artifacts.digest import digest_file, digest_files
from steps.artifacts.drafts import draft_of, put, sync
from steps.artifacts.manifest import MANIFEST, Manifest, read_manifest
from steps.artifacts.places import check_artifact
from steps.artifacts.provenance import (
    code_version,
    device_name,
    library_versions,
    peak_memory_mib,
)
from steps.command.machine import writing


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

    An artifact of the node that stood at ``out`` is replaced, and nothing else is. On an exception
    nothing is left behind and what stood there stays.

    Args:
        out: the folder to publish.
        node: the step's name.
        params: the resolved params (JSON values), all that decided the content.
        inputs: input artifacts by role.
        sources: the params files by role.
        seed: the seed, where the step has one.

    Raises:
        UserError: an input is not a whole artifact, something else stands at ``out``, or the disk
            does not take it.
    """
    check_artifact(out, node, inputs.values())
    digests = {role: read_manifest(path).digest for role, path in inputs.items()}
    started = time.monotonic()
    with writing(out), draft_of(out) as path:
        path.mkdir()
        draft = Draft(path)
        yield draft
        names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
        files = {name: digest_file(path / name) for name in names if name not in draft.logs}
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
        (path / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for file in path.rglob("*"):
            sync(file)
        sync(path)
        check_artifact(out, node, inputs.values())
        put(path, out)
