"""Golden cases: every folder under --golden-root that has a case.json."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-root",
        type=Path,
        default=DATA,
        help="folder of recorded cases (default: tests/golden/data)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        root: Path = metafunc.config.getoption("--golden-root")
        cases = sorted(path.parent for path in root.glob("*/case.json"))
        if not cases:
            raise pytest.UsageError(f"--golden-root {root}: no case folder in it")
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])
