from __future__ import annotations

from pathlib import Path

import pytest

from steps.artifacts import read_manifest
from steps.command import UserError
from steps.reporting.explain import explain
from steps.reporting.render import write_report
from tests.unit.reporting.synthetic import Synthetic


@pytest.fixture(scope="module")
def report(several: Synthetic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports") / "made_up"
    write_report(several.source(), out)
    return out


def test_a_cell_leads_to_its_files_digests_and_params(several: Synthetic, report: Path) -> None:
    text = explain(report / "mae/vit_nano/linear/top1/seed1")
    artifact = several.row("mae", 1, "vit_nano") / "backbone"
    manifest = read_manifest(artifact)
    assert "mae / vit_nano / linear / seed 1" in text
    assert "top1    71.2 %   (exactly 71.2)" in text
    assert "vit_nano/mae/seed1/linear/shapes/features/linear.json" in text
    assert text.count(manifest.digest) == 3  # artifact, input of linear, output of pretrain
    assert manifest.code.commit in text
    assert manifest.code.digest in text
    assert "name: linear" in text
    assert "recipe: mae" in text
    assert "top5" not in text


def test_a_cell_without_seed_shows_all_of_them(report: Path) -> None:
    text = explain(report / "mae/vit_pico/knn")
    assert [f"knn / seed {seed}" in text for seed in (0, 1, 2)] == [True] * 3
    assert "top1_k10" in text


def test_seed_and_metric_come_in_either_order(report: Path) -> None:
    assert explain(report / "mae/vit_pico/knn/seed2/top5") == explain(
        report / "mae/vit_pico/knn/top5/seed2"
    )


@pytest.mark.parametrize(
    ("cell", "close"),
    [
        ("mea/vit_pico/linear", "mae/vit_pico/linear"),
        ("mae/vit_pico/knn/top2", "mae/vit_pico/knn/top"),
        ("mae/vit_pico/knn/seed9", "mae/vit_pico/knn/seed"),
        ("mae/vit_nano", "mae/vit_nano/"),
    ],
)
def test_an_unknown_cell_gets_the_cells_there_are_and_the_closest(
    report: Path, cell: str, close: str
) -> None:
    with pytest.raises(UserError) as error:
        explain(report / cell)
    message = str(error.value)
    assert "no such cell" in message
    assert f"did you mean {report / close}" in message
    assert "allowed: " in message


def test_a_protocol_narrows_a_task_down(protocols: Synthetic, tmp_path: Path) -> None:
    write_report(protocols.source(), tmp_path)
    assert explain(tmp_path / "mae/vit_pico/linear").count("record file") == 9
    text = explain(tmp_path / "mae/vit_pico/linear/logreg/top1")
    assert text.count("record file") == 1
    assert "linear/shapes/features/logreg.json" in text
    assert "protocol         logreg" in text
    with pytest.raises(UserError, match=r"did you mean .*/mae/vit_pico/linear/logreg"):
        explain(tmp_path / "mae/vit_pico/linear/logreeg")


def test_a_path_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no report's report\.json on this path"):
        explain(tmp_path / "mae/vit_pico/knn")
