"""Write an artifact beside its final path and rename it when it is whole."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from steps.artifacts.manifest import (
    MANIFEST,
    Manifest,
    code_version,
    device_name,
    digest_file,
    digest_files,
    library_versions,
    peak_memory_mib,
    read_manifest,
)
from steps.artifacts.scratch import SCRATCH
from steps.command import UserError
from steps.command.machine import writing

# --- Drafts: a step writes beside the final path and renames when it is done
# A draft is a private folder ``.NAME.xxxxxxxx`` beside ``NAME``. The process that fills it holds a
# lock in it, which ends with the process. So a draft without a held lock is of a killed step.


_NEW, _OLD, _LOCK = "new", "old", "lock"
_ATTEMPTS = 100
"""Attempts to replace a result that another process replaces at the same time."""


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """Yield an unused path for the file or folder that :func:`put` moves to ``out``.

    The draft is always removed. ``out`` stays as it was unless :func:`put` replaced it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        # Lock it before it has its name, so that no process finds it unlocked.
        with (folder / f"{_LOCK}.{_NEW}").open("w", encoding="utf-8") as lock:
            with suppress(OSError):  # Without locks drafts of running steps cannot be told apart.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Path(lock.name).rename(folder / _LOCK)
            yield folder / _NEW
    finally:
        _settle(folder, out)


def put(draft: Path, out: Path) -> None:
    """Move a whole draft to ``out``, replacing what is there.

    A folder cannot be renamed over a non-empty one, so there are two renames, between which ``out``
    is absent. A kill at that moment leaves both in the draft, and :func:`sweep` restores the old
    one.
    """
    for attempt in range(_ATTEMPTS):
        try:
            if draft.is_dir() and out.exists():
                out.rename(draft.with_name(f"{_OLD}{attempt}"))
            draft.replace(out)
            break
        except OSError as error:
            # Another process replaces it too; the last one wins.
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
            if not draft.exists() or attempt + 1 == _ATTEMPTS:
                raise
    sync(out.parent)


def sweep(out: Path) -> None:
    """Remove drafts of ``out`` that killed steps left, and restore what one of them moved."""
    mine = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}")
    for folder in out.parent.iterdir() if out.parent.is_dir() else ():
        if mine.fullmatch(folder.name):
            with suppress(OSError), (folder / _LOCK).open("r+", encoding="utf-8") as lock:
                if _free(lock):
                    _settle(folder, out)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(out: Path, content: bytes) -> None:
    """Write a file whole, or leave it unchanged."""
    sweep(out)
    with draft_of(out) as draft:
        draft.write_bytes(content)
        sync(draft)
        put(draft, out)


def _free(lock: IO[str]) -> bool:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return True


def _settle(folder: Path, out: Path) -> None:
    """Remove a draft, and restore what it moved away unless something has replaced that."""
    moved = sorted(folder.glob(f"{_OLD}*"), key=lambda path: int(path.name[3:]))
    if moved and not os.path.lexists(out):
        with suppress(OSError):  # Another process may just have put its own.
            moved[-1].rename(out)
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except BaseException:  # A signal: finish this first.
        shutil.rmtree(folder, ignore_errors=True)
        raise


# --- Paths of results: an artifact replaces only an artifact, a record only a record
# Steps check before any work, and :func:`steps.artifacts.publish` checks again before it replaces.


ALLOWED = "an artifact of {}, an empty folder, or nothing"
_OF_ENGINES = (".snakemake_timestamp",)
"""Files that an engine adds to a folder of results."""
_LOOKS = 100
"""Attempts to read a path that other processes are replacing."""


def decisions_beside(record: Path) -> Path:
    """Path of the decisions of a record file."""
    return record.with_suffix(".parquet")


def check_places(
    options: Namespace, node: str, *, record: bool = False, decisions: bool = False
) -> None:
    """Refuse the ``--out`` (and ``--pictures``) of a step's command before it works.

    Drafts of killed runs of the same command are removed.

    Args:
        options: of the command line. Every other path in it is an input.
        node: of the artifact; ``steps.import`` makes artifacts of other nodes.
        record: ``--out`` is a record file.
        decisions: a file of decisions is written beside it.

    Raises:
        UserError: the path holds something else, or cannot be written to.
    """
    given: dict[str, list[Path]] = {}
    for name, value in vars(options).items():
        values = value if isinstance(value, list) else [value]
        given[name] = [each for each in values if isinstance(each, Path)]
    for name in ("out", "pictures"):
        others = [path for other, paths in given.items() if other != name for path in paths]
        for place in given.get(name, []):
            written = [place]
            if record and name == "out":
                check_record(place, others)
                if decisions:
                    written.append(decisions_beside(place))
                    check_decisions(place, others)
            else:
                check_artifact(place, node, others)
            if int(os.environ.get("RANK", "0")) == 0:
                for each in written:
                    sweep(each)


def check_artifact(out: Path, node: str, read: Iterable[Path] = ()) -> None:
    """Refuse a path that an artifact of a node may not replace.

    Raises:
        UserError: naming what is there.
    """
    _check_way(out, read)
    for _ in range(_LOOKS):
        before = _mark(out)
        try:
            _check_what_stands(out, node)
            return
        except (UserError, FileNotFoundError):
            if _mark(out) == before:
                raise
            # Another process replaced it meanwhile, so the content read may mix both.
    raise _refusal(out, "a path that other processes keep replacing", "one step at a time")


def _check_what_stands(out: Path, node: str) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise _refusal(out, "a file", ALLOWED.format(node))
    if not any(out.iterdir()):
        return
    if not (out / MANIFEST).is_file():
        raise _refusal(out, "a folder that is not an artifact", ALLOWED.format(node))
    manifest = read_manifest(out)
    if manifest.node != node:
        raise _refusal(out, f"an artifact of {manifest.node}", f"one of {node}")
    own = {MANIFEST, *manifest.files, *manifest.logs, *_OF_ENGINES}
    found = (path.relative_to(out) for path in sorted(out.rglob("*")) if not _is_folder(path))
    if stray := next((path for path in found if str(path) not in own), None):
        raise _refusal(out, f"an artifact with a foreign file: {stray}", "one without")


def check_record(out: Path, read: Iterable[Path] = ()) -> None:
    """Refuse a path that a record file may not replace.

    Raises:
        UserError: naming what is there.
    """
    _check_way(out, read)
    if out.is_dir():
        raise _refusal(out, "a folder", "a record file (.json), or nothing")
    if out.exists() and not (out.is_file() and _is_record(out)):
        raise _refusal(out, "a file that is not a record file", "a record file, or nothing")


def check_decisions(record: Path, read: Iterable[Path] = ()) -> None:
    """Refuse a record file whose decisions would replace something else.

    Raises:
        UserError: naming what is there.
    """
    out = decisions_beside(record)
    if out == record:
        raise _refusal(record, "the name of its decisions", "a record file (.json)")
    _check_way(out, read)
    if not os.path.lexists(out):
        return
    # Imported here: pyarrow is slow to import and rarely needed.
    from steps.artifacts.decisions import is_decisions

    if not (out.is_file() and is_decisions(out)):
        found = "a folder" if out.is_dir() else "a file that holds no decisions"
        raise _refusal(out, found, "the decisions behind a record, or nothing")


def _check_way(out: Path, read: Iterable[Path]) -> None:
    """Refuse links, parents or children of paths in use, and paths that cannot be written."""
    if out.is_symlink():
        raise _refusal(
            out, f"a link to {out.resolve()}", "a path that is not a link", "give its target"
        )
    place, here = out.resolve(), Path.cwd()
    if place == here or place in here.parents:
        raise _refusal(out, "the working folder, or one that contains it", "another folder")
    scratch = SCRATCH.resolve()
    if place == scratch or scratch in place.parents:
        raise _refusal(out, "in the scratch folder, which is cleared", "a path outside it")
    for path in read:
        other = path.resolve()
        if place == other or place in other.parents:
            raise _refusal(out, f"is or contains {path}, which this step reads", "another path")
        if other in place.parents:
            raise _refusal(out, f"in {path}, which this step reads", "a path outside it")
    above = next(path for path in place.parents if os.path.lexists(path))
    if not above.is_dir():
        raise _refusal(out, f"below {above}, which is a file", "a path in a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _refusal(out, f"below {above}, which cannot be written to", "a writable path")


def _mark(out: Path) -> tuple[int, int] | None:
    """Identity of a folder, to detect another of the same name. Inode numbers are reused."""
    try:
        found = out.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns


def _is_record(path: Path) -> bool:
    try:
        Manifest.model_validate(json.loads(path.read_bytes())["manifest"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError):
        return False
    return True


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _refusal(out: Path, found: str, allowed: str, remedy: str = "") -> UserError:
    """Error for a refused path, before anything is changed."""
    remedy = remedy or "give another --out, or remove what is there if you do not need it"
    return UserError(str(out), found, allowed=allowed, remedy=remedy)


class Draft:
    """A folder under construction. Put files into ``path``, facts into ``facts``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self.logs: set[str] = set()
        """Names of files that depend on the clock; they are outside the digest."""
        self.seconds_before = 0.0
        """Wall time of the step before the draft, killed processes included."""


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
    """Yield a :class:`Draft`; on a clean exit add its manifest and rename it to ``out``.

    It replaces only an artifact of the same node. On an exception the draft is removed and ``out``
    is unchanged.

    Args:
        out: the folder to publish.
        node: the step's name.
        params: the resolved params as JSON values.
        inputs: input artifacts by role.
        sources: the params files by role.
        seed: the seed, if the step has one.

    Raises:
        UserError: an input is not a whole artifact, ``out`` is something else, or writing fails.
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
