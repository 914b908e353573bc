"""List scratch folders of killed steps, resume from a checkpoint of older code, remove the rest.

    python -m workflow.scratch
    python -m workflow.scratch --take-up .scratch/pretrain-0123456789abcdef
    python -m workflow.scratch --sweep

A killed step resumes when the same command runs again. After a change of its code or of a library
it starts from the beginning. ``--take-up`` lets it resume even so, and its manifest then names the
step at which the code changed (``facts.code_changed``).
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steps.artifacts.identity import Identity
from steps.artifacts.scratch import SCRATCH, in_use, progress, read_identity, take_up
from steps.command import UserError, run_step


@dataclass(frozen=True)
class Left:
    """A scratch folder and its use."""

    folder: Path
    subject: str
    state: str
    useless: bool = False
    """True if no run can resume from it."""
    changed: tuple[str, ...] = ()
    """Changed modules and libraries, if only these keep the same command from resuming."""
    step: int | None = None
    out: str = ""

    def __str__(self) -> str:
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return f"{self.folder}  {size / 2**20:.1f} MiB  {self.subject}: {self.state}"


def scratch_folders() -> Iterator[Left]:
    """Every scratch folder, sorted by name."""
    for folder in sorted(path for path in SCRATCH.glob("*") if path.is_dir()):
        identity, step = read_identity(folder), progress(folder).get("step")
        if in_use(folder):
            yield Left(folder, folder.name, "running")
        elif identity is None:
            yield Left(folder, folder.name, "of an earlier version", useless=True)
        elif step is None:
            yield Left(folder, _subject(identity), "holds no checkpoint", useless=True)
        else:
            yield _with_checkpoint(folder, identity, step)


def _with_checkpoint(folder: Path, identity: Identity, step: int) -> Left:
    subject, out = _subject(identity), Path(identity.out)
    result = out / "manifest.json" if out.is_dir() else out
    if result.is_file() and result.stat().st_mtime > (folder / "progress.json").stat().st_mtime:
        return Left(folder, subject, f"step {step}; {out} was made since", useless=True)
    try:
        now = identity.now()
    except UserError as error:
        return Left(folder, subject, f"step {step}; {error}", useless=True)
    if asked := identity.differences(now):
        return Left(folder, subject, f"step {step}; {', '.join(asked)} changed", useless=True)
    changed = tuple(identity.code.changes(now.code))
    state = f"step {step}; the same command goes on"
    if changed:
        state = f"step {step}; of other code ({', '.join(changed)} changed): --take-up {folder}"
    return Left(folder, subject, state, changed=changed, step=step, out=identity.out)


def _subject(identity: Identity) -> str:
    return f"{identity.node} {identity.subject}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workflow.scratch", description=(__doc__ or "").splitlines()[0]
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--take-up", type=Path, metavar="FOLDER", help="let the run of today's code go on from it"
    )
    group.add_argument(
        "--sweep", action="store_true", help="remove what nothing can take up any more"
    )
    options = parser.parse_args()
    if options.take_up is not None:
        folder, step, changed = take_up(options.take_up)
        print(f"{folder}: the next run goes on at step {step}; its manifest will say that the code")
        print(f"changed there: {', '.join(changed)}")
        return
    for left in scratch_folders():
        if options.sweep and left.useless:
            print(f"removed {left}")
            shutil.rmtree(left.folder)
        elif not options.sweep:
            print(f"{left}{' (--sweep removes it)' if left.useless else ''}")


if __name__ == "__main__":
    run_step(main)
