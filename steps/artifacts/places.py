"""Places for results: an artifact replaces an artifact, a record a record, and nothing else.

Steps ask before any work, and :func:`steps.artifacts.publish` asks again before it replaces.
"""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from steps.artifacts.drafts import sweep
from steps.artifacts.manifest import MANIFEST, Manifest, read_manifest
from steps.artifacts.scratch import SCRATCH
from steps.command import UserError

ALLOWED = "an artifact of {}, an empty folder, or nothing"
_OF_ENGINES = (".snakemake_timestamp",)
"""Files that an engine puts into a folder which it takes for a result of its own."""
_LOOKS = 100
"""Looks at a place that other processes replace just then."""


def decisions_beside(record: Path) -> Path:
    """The file of the decisions behind a record file."""
    return record.with_suffix(".parquet")


def check_places(
    options: Namespace, node: str, *, record: bool = False, decisions: bool = False
) -> None:
    """Refuse the ``--out`` (and ``--pictures``) of a step's command before it works.

    Drafts that killed runs of the same command left are removed.

    Args:
        options: of the command line. Every other path in it is something that the step reads.
        node: of the artifacts to make: what ``steps.import`` makes has that of another step.
        record: ``--out`` is a record file.
        decisions: beside it goes a file of decisions.

    Raises:
        UserError: something else stands there, or the place cannot be written to.
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
    """Refuse a place that an artifact of a node may not take.

    Raises:
        UserError: naming what stands there.
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
            # Another process replaced it meanwhile: what was seen is of neither.
    raise _refusal(out, "a place that other processes replace without end", "one step at a time")


def _check_what_stands(out: Path, node: str) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise _refusal(out, "a file", ALLOWED.format(node))
    if not any(out.iterdir()):
        return
    if not (out / MANIFEST).is_file():
        raise _refusal(out, "a folder that is no artifact", ALLOWED.format(node))
    manifest = read_manifest(out)
    if manifest.node != node:
        raise _refusal(out, f"an artifact of {manifest.node}", f"one of {node}")
    own = {MANIFEST, *manifest.files, *manifest.logs, *_OF_ENGINES}
    found = (path.relative_to(out) for path in sorted(out.rglob("*")) if not _is_folder(path))
    if stray := next((path for path in found if str(path) not in own), None):
        raise _refusal(out, f"an artifact with a file that is not its own: {stray}", "one without")


def check_record(out: Path, read: Iterable[Path] = ()) -> None:
    """Refuse a place that a record file may not take.

    Raises:
        UserError: naming what stands there.
    """
    _check_way(out, read)
    if out.is_dir():
        raise _refusal(out, "a folder", "a record file (.json), or nothing")
    if out.exists() and not (out.is_file() and _is_record(out)):
        raise _refusal(out, "a file that is no record file", "a record file, or nothing")


def check_decisions(record: Path, read: Iterable[Path] = ()) -> None:
    """Refuse a record file beside which its decisions have no place.

    Raises:
        UserError: naming what stands there.
    """
    out = decisions_beside(record)
    if out == record:
        raise _refusal(record, "the name of its decisions", "a record file (.json)")
    _check_way(out, read)
    if not os.path.lexists(out):
        return
    # pyarrow takes long to import for what is rarely asked.
    from steps.artifacts.decisions import is_decisions

    if not (out.is_file() and is_decisions(out)):
        found = "a folder" if out.is_dir() else "a file that holds no decisions"
        raise _refusal(out, found, "the decisions behind a record, or nothing")


def _check_way(out: Path, read: Iterable[Path]) -> None:
    """Refuse a link, what holds things in use or lies in them, and what cannot be written."""
    if out.is_symlink():
        raise _refusal(
            out, f"a link to {out.resolve()}", "a place of its own", "give what it names"
        )
    place, here = out.resolve(), Path.cwd()
    if place == here or place in here.parents:
        raise _refusal(out, "the working folder, or one that it is in", "a folder of its own")
    scratch = SCRATCH.resolve()
    if place == scratch or scratch in place.parents:
        raise _refusal(out, "in the scratch folder, which is cleared", "a place outside it")
    for path in read:
        other = path.resolve()
        if place == other or place in other.parents:
            raise _refusal(out, f"is or holds {path}, which this step reads", "another place")
        if other in place.parents:
            raise _refusal(out, f"in {path}, which this step reads", "a place outside it")
    above = next(path for path in place.parents if os.path.lexists(path))
    if not above.is_dir():
        raise _refusal(out, f"below {above}, which is a file", "a place in a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _refusal(out, f"below {above}, which cannot be written to", "a place that can")


def _mark(out: Path) -> tuple[int, int] | None:
    """What tells a folder from another that took its name. A number alone is soon given again."""
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
    """Nothing was done yet: what stands there is as it was."""
    remedy = remedy or "give another --out, or remove what stands there if it is of no use"
    return UserError(str(out), found, allowed=allowed, remedy=remedy)
