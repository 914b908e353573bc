"""A project's folder for tests of ``workflow.new``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.processes import REPOSITORY
from workflow import new


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with params and data of its own."""
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRETEXT_DATA", raising=False)
    monkeypatch.setattr(new, "gpu_name", lambda: None)
    return tmp_path
