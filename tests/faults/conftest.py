"""The data root of a test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that datasets' paths start from."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("PRETEXT_DATA", str(folder))
    return folder
