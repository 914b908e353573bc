"""An input artifact is the one that the params name, or the step ends in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.artifacts import publish
from steps.artifacts.manifest import check_named
from steps.command import UserError

WHERE = Path("params/recipes/small/student.yaml")
DINO = {"recipe": "dino", "backbone": "vit_small"}


def _artifact(folder: Path, node: str, **facts: str) -> Path:
    with publish(folder / "teacher", node=node, params={}, inputs={}) as draft:
        draft.facts.update(facts)
    return folder / "teacher"


def _error(artifact: Path | None, facts: dict[str, str] | None) -> str:
    with pytest.raises(UserError) as caught:
        check_named("teacher", artifact, facts, node="pretrain", where=WHERE)
    return str(caught.value)


def test_named_and_given(tmp_path: Path) -> None:
    check_named("teacher", None, None, node="pretrain", where=WHERE)
    artifact = _artifact(tmp_path, "pretrain", method="dino", **DINO)
    check_named("teacher", artifact, DINO, node="pretrain", where=WHERE)


def test_one_without_the_other(tmp_path: Path) -> None:
    assert f"{WHERE}: teacher: recipe dino, backbone vit_small, but no --teacher" in _error(
        None, DINO
    )
    message = _error(_artifact(tmp_path, "pretrain", **DINO), None)
    assert f"{WHERE} names no teacher" in message
    assert "remedy: leave out --teacher" in message


def test_another_one(tmp_path: Path) -> None:
    artifact = _artifact(tmp_path, "pretrain", recipe="mae", backbone="vit_small")
    message = _error(artifact, DINO)
    assert f"--teacher {artifact}: recipe mae, backbone vit_small | allowed: recipe dino" in message


def test_an_artifact_of_another_node(tmp_path: Path) -> None:
    message = _error(_artifact(tmp_path, "tokenizer", **DINO), DINO)
    assert "an artifact of tokenizer | allowed: pretrain" in message
