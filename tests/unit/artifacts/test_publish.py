"""An artifact is whole or absent, and says what it was made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.artifacts import publish, read_manifest, verify
from steps.command import UserError


def _publish(out: Path, text: str, clock: str = "now") -> None:
    with publish(out, node="test", params={"a": 1}, inputs={}, seed=3) as draft:
        (draft.path / "sub").mkdir()
        (draft.path / "sub/content.txt").write_text(text)
        (draft.path / "timing.txt").write_text(clock)
        draft.logs.add("timing.txt")
        draft.facts["n"] = 2


def test_manifest(tmp_path: Path) -> None:
    _publish(tmp_path / "out", "content")
    manifest = verify(tmp_path / "out")
    assert manifest.files.keys() == {"sub/content.txt"}
    assert (manifest.node, manifest.seed, manifest.facts) == ("test", 3, {"n": 2})
    assert len(manifest.code.digest) == 64
    assert manifest.libraries["python"]


def test_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    _publish(tmp_path / "a", "content", "monday")
    _publish(tmp_path / "b", "content", "tuesday")
    _publish(tmp_path / "c", "other")
    a, b, c = (read_manifest(tmp_path / name).digest for name in "abc")
    assert a == b != c


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _publish(out, "old")

    def fail() -> None:
        with publish(out, node="test", params={}, inputs={}) as draft:
            (draft.path / "content.txt").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (out / "sub/content.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_replacing(tmp_path: Path) -> None:
    _publish(tmp_path / "out", "old")
    _publish(tmp_path / "out", "new")
    assert (tmp_path / "out/sub/content.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_changed_bytes_are_found(tmp_path: Path) -> None:
    _publish(tmp_path / "out", "content")
    (tmp_path / "out/sub/content.txt").write_text("tampered")
    with pytest.raises(UserError, match=r"sub/content.txt: bytes differ"):
        verify(tmp_path / "out")


def test_inputs_must_be_whole(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (
        pytest.raises(UserError, match="not a whole artifact"),
        publish(tmp_path / "out", node="t", params={}, inputs={"data": tmp_path / "in"}),
    ):
        pass
    assert not (tmp_path / "out").exists()


def test_an_artifact_of_another_node(tmp_path: Path) -> None:
    _publish(tmp_path / "out", "content")
    with pytest.raises(UserError, match="an artifact of test"):
        read_manifest(tmp_path / "out", "pretrain")
