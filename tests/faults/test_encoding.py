"""Text is UTF-8, whatever the machine's locale is."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import REPOSITORY, command, environment

ROOMS = ("steps", "workflow", "benchmarks")
TEXT = {"read_text", "write_text", "open", "NamedTemporaryFile"}
NO_TEXT = {"Image", "os", "tarfile", "archive", "state"}
"""What else has a method ``open``: here, and always of bytes."""


def without_encoding(source: str) -> Iterator[int]:
    """Lines that open a file of text in the encoding of the locale."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function, name = node.func, getattr(node.func, "id", "")
        if isinstance(function, ast.Attribute):
            name = function.attr
            if isinstance(function.value, ast.Name) and function.value.id in NO_TEXT:
                continue
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        modes = [given["mode"]] if "mode" in given else node.args[:2]
        is_bytes = "text" not in name and any(
            isinstance(mode, ast.Constant) and str(mode.value) in ("rb", "wb", "ab", "r+b")
            for mode in modes
        )
        if name in TEXT and "encoding" not in given and not is_bytes:
            yield node.lineno


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("path.read_text()", [1]),
        ("path.write_text('x')", [1]),
        ("open(path)", [1]),
        ("path.open('w')", [1]),
        ("path.open('rb'); open(p, 'wb'); path.read_text(encoding='utf-8')", []),
        ("path.open('a', encoding='utf-8')", []),
    ],
)
def test_the_scan_finds_it(source: str, lines: list[int]) -> None:
    assert list(without_encoding(source)) == lines


def test_every_file_of_text_has_its_encoding() -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{line}"
        for room in ROOMS
        for path in (REPOSITORY / room).rglob("*.py")
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_params_in_a_locale_without_utf8(tmp_path: Path) -> None:
    text = (REPOSITORY / "params/datasets/shapes.yaml").read_text(encoding="utf-8")
    small = text.replace("train: ", "train: 24 # ").replace("val: ", "val: 24 # ")
    (tmp_path / "d.yaml").write_text(f"# caf\u00e9 \u2713\n{small}", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        command("steps.prepare", "--dataset", "d.yaml", "--out", "out"),
        cwd=tmp_path,
        env=environment(**plain),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "out/manifest.json").is_file()
