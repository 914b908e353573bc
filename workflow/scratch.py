"""List what killed steps left in .scratch, take a checkpoint of older code up, sweep the rest.

    python -m workflow.scratch
    python -m workflow.scratch --take-up .scratch/pretrain-0123456789abcdef
    python -m workflow.scratch --sweep

A killed step goes on by itself when the same command runs again. After a change of its code or of
a library it starts anew: ``--take-up`` lets it go on all the same, and its manifest then says at
which step the code changed (``facts.code_changed``).
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steps.artifacts.scratch import SCRATCH, in_use, progress, read_identity, take_up
from steps.command import UserError, run_step


@dataclass(frozen=True)
class Left:
    """A scratch folder and what can become of it."""

    folder: Path
    subject: str
    state: str
    useless: bool
    """Whether nothing can take it up any more."""

    def __str__(self) -> str:
        size = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        return f"{self.folder}  {size / 2**20:.1f} MiB  {self.subject}: {self.state}"


def scratch_folders() -> Iterator[Left]:
    """Every scratch folder, in the order of their names."""
    for folder in sorted(path for path in SCRATCH.glob("*") if path.is_dir()):
        identity, step = read_identity(folder), progress(folder).get("step")
        subject = folder.name if identity is None else f"{identity.node}, {identity.subject}"
        if in_use(folder):
            yield Left(folder, subject, "running", useless=False)
        elif identity is None:
            yield Left(
                folder, subject, "of an earlier version, which no run takes up", useless=True
            )
        elif step is None:
            yield Left(folder, subject, "holds no checkpoint", useless=True)
        else:
            useless, state = _state(folder, step)
            yield Left(folder, subject, f"step {step}, {state}", useless)


def _state(folder: Path, step: int) -> tuple[bool, str]:
    """Whether a checkpoint is of no use, and why or how it is taken up."""
    identity = read_identity(folder)
    assert identity is not None
    out = Path(identity.out)
    result = out / "manifest.json" if out.is_dir() else out
    if result.is_file() and result.stat().st_mtime > (folder / "progress.json").stat().st_mtime:
        return True, f"but the result has been made since: {out}"
    try:
        now = identity.now()
    except UserError as error:
        return True, f"but {error}"
    if asked := identity.differences(now):
        return True, f"but {', '.join(asked)} changed"
    if changed := identity.code.changes(now.code):
        return False, f"of other code ({', '.join(changed)} changed): --take-up {folder}"
    return False, "the same command goes on"


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
            shutil.rmtree(left.folder)
            print(f"removed {left}")
        elif not options.sweep:
            print(f"{left}{' (--sweep removes it)' if left.useless else ''}")


if __name__ == "__main__":
    run_step(main)
