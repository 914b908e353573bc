"""Made-up experiments, each written once a session; a test that changes files builds its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.reporting.source import ScaledRow
from tests.unit.reporting.synthetic import Synthetic, build


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Four methods, one backbone, one seed, every task."""
    return build(tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Two methods, two backbones, three seeds, k-NN and linear probing."""
    return build(
        tmp_path_factory.mktemp("several"),
        methods=("random", "mae"),
        backbones=("vit_pico", "vit_nano"),
        seeds=(0, 1, 2),
        tasks=("knn", "linear"),
    )


@pytest.fixture(scope="session")
def protocols(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Two methods and linear probing by nine protocols, the first one best."""
    return build(
        tmp_path_factory.mktemp("protocols"),
        methods=("random", "mae"),
        tasks=("knn", "linear"),
        protocols={"linear": ("linear", "logreg", *(f"linear_{n}" for n in range(7)))},
    )


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """A method of ours on two backbones, and an official checkpoint of one."""
    return build(
        tmp_path_factory.mktemp("official"),
        methods=("dino", "mae"),
        backbones=("vit_pico", "vit_nano"),
        tasks=("knn",),
        imported=("mae",),
    )


@pytest.fixture
def small(tmp_path: Path) -> Synthetic:
    """Two methods and k-NN, for a test to damage."""
    return build(tmp_path, methods=("random", "mae"), tasks=("knn",))


@pytest.fixture(scope="session")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Two methods, and tasks that apply to one of them alone."""
    return build(
        tmp_path_factory.mktemp("partial"),
        methods=("mae", "clip"),
        tasks=("linear", "zeroshot", "retrieval"),
        text_methods=("clip",),
    )


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Two methods on two backbones, at three lengths, on a quarter of the images and on all."""
    points = [
        ScaledRow(recipe=recipe, length=length, data_share=share)
        for recipe in ("mae", "dino")
        for length in (0.5, 1.0, 2.0)
        for share in (0.25, 1.0)
    ]
    return build(
        tmp_path_factory.mktemp("study"),
        methods=("random",),
        backbones=("vit_pico", "vit_nano"),
        tasks=("knn", "linear"),
        scaling={f"{p.recipe}-x{p.length:g}-d{100 * p.data_share:g}": p for p in points},
    )
