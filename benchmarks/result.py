"""A dated benchmark file: what was run, on what, by which code, and what came out."""

from __future__ import annotations

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

from steps.artifacts.manifest import code_version, library_versions

FOLDER = Path(__file__).parent / "results"


class Result:
    """Rows of one benchmark; ``write`` makes a JSON file and a markdown table beside it."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.command = " ".join(["python", *command[1:]])
        self.rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        """Add a row; all rows have the same keys."""
        self.rows.append(row)

    def write(self) -> str:
        """Write both files and return the markdown."""
        code = code_version()
        about = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "commit": code.commit + (" with uncommitted changes" if code.dirty else ""),
            "hardware": _hardware(),
            "command": self.command,
            "libraries": library_versions(),
        }
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"{about['date']}-{self.name}"
        path.with_suffix(".json").write_text(
            json.dumps({**about, "rows": self.rows}, indent=2) + "\n", encoding="utf-8"
        )
        lines = [f"# {self.name}, {about['date']}", ""]
        lines += [f"- {key}: {about[key]}" for key in ("commit", "hardware", "command")]
        columns = list(self.rows[0])
        lines += [
            "",
            "| " + " | ".join(columns) + " |",
            "| " + " | ".join("---" for _ in columns) + " |",
        ]
        lines += ["| " + " | ".join(str(row[key]) for key in columns) + " |" for row in self.rows]
        text = "\n".join(lines) + "\n"
        path.with_suffix(".md").write_text(text, encoding="utf-8")
        return text


def _hardware() -> str:
    cores = len(os.sched_getaffinity(0))
    name = f"{cores} CPU cores ({platform.machine()})"
    try:
        import torch
    except ImportError:
        return name
    if torch.cuda.is_available():
        name += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return name
