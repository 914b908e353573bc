from __future__ import annotations

import re
from pathlib import Path

from steps.artifacts.manifest import CodeVersion
from steps.reporting.check import check_report
from steps.reporting.explain import explain
from steps.reporting.markdown import page
from steps.reporting.render import write_report
from steps.reporting.source import Provenance, Source
from steps.reporting.summary import summarize
from tests.unit.reporting.synthetic import Synthetic, build


def _page(source: Source) -> str:
    return page(source, summarize(source.records()), with_curves=True)


def _remade(source: Source, **changed: object) -> Source:
    """The source with the last file's step as if it had run elsewhere."""
    *rest, last = source.traced
    made: Provenance = last.measured.model_copy(update=changed)
    return Source(
        source.heading, (*rest, last.model_copy(update={"measured": made})), source.curves
    )


def test_page_has_every_part_in_order(single: Synthetic) -> None:
    text = _page(single.source())
    parts = [
        "# Made-up numbers",
        "Does the report add up?",
        "| Model ",
        "## k-NN",
        "## Linear probe",
        "## Fine-tuning",
        "## Detection",
        "![Headline metric",
        "![Training loss",
        "## How to read this",
        "### Where the records come from",
        "python -m steps.report --explain reports/made_up/supervised/vit_pico/finetune",
        "python -m steps.report --experiment params/experiments/made_up.yaml",
        "python -m steps.report --check reports/made_up",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "protocol `mask_rcnn_small`, shapes_scenes, n = 1,000" in text
    assert "the spread is unknown" in text


def test_the_protocol_is_in_the_heading_where_a_task_has_several(protocols: Synthetic) -> None:
    text = _page(protocols.source())
    assert "## k-NN\n" in text
    assert "## Linear probe, protocol `linear`\n" in text
    assert "## Linear probe, protocol `linear_6`\n" in text
    assert "Sorted by top1 of Linear probe, protocol `linear`;" in text
    assert "(`linear`, protocols `linear`, `logreg`, `linear_0`" in text
    assert "--explain reports/made_up/mae/vit_pico/linear/linear\n" in text
    assert "Score (linear top1, %)" in text


def test_an_official_checkpoint_gets_a_footnote(official: Synthetic, tmp_path: Path) -> None:
    write_report(official.source(), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "◐ Imported: mae (vit_pico). These weights come from elsewhere" in text
    assert "README.md and results.csv follow" in check_report(tmp_path)
    said = explain(tmp_path / "mae/vit_pico/knn")
    assert "imported by python -m steps.import from an official file" in said
    assert "unknown epochs" in said
    assert "compute" not in said


def test_links_lead_to_the_files_of_the_report_and_to_the_params(single: Synthetic) -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", _page(single.source())))
    assert links == {
        "ranking.png",
        "curves.png",
        "records.jsonl",
        "results.csv",
        "curves.csv",
        "report.json",
        "../../params/experiments/made_up.yaml",
    }


def test_spread_is_explained_where_there_are_several_seeds(several: Synthetic) -> None:
    text = _page(several.source())
    assert "mean ± sample standard deviation over 3 seeds" in text
    assert "the spread is unknown" not in text


def test_a_collapsed_run_marks_its_rows_with_a_footnote(tmp_path: Path) -> None:
    made = build(
        tmp_path,
        methods=("random", "mae", "dino"),
        seeds=(0, 1),
        tasks=("knn", "linear"),
        collapsed=[("dino", 1)],
    )
    write_report(made.source(), tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    # The ranking, and a table and a folded one for each task.
    assert len(re.findall(r"\| dino † +\|", text)) == 5
    assert "mae †" not in text
    assert "† Collapsed: at the end of pretraining, the embeddings of dino (seed 1) hardly" in text
    # The mark stands in the records beside the page, so the page still follows from them.
    assert "README.md and results.csv follow" in check_report(tmp_path / "out")
    assert "collapsed        the embeddings" in explain(tmp_path / "out/dino/vit_pico/knn/seed1")
    assert "collapsed" not in explain(tmp_path / "out/dino/vit_pico/knn/seed0")


def test_a_report_without_collapse_says_nothing_of_it(single: Synthetic) -> None:
    assert "†" not in _page(single.source())


def test_one_version_and_device_get_no_warning(single: Synthetic) -> None:
    text = _page(single.source())
    assert "versions of the code" not in text
    assert "devices," not in text


def test_several_versions_devices_and_params_are_noted(single: Synthetic) -> None:
    code = CodeVersion(commit="a" * 40, dirty=False, digest="b" * 64)
    text = _page(
        _remade(single.source(), code=code, device="NVIDIA H200", params={"protocol": "other"})
    )
    assert "come from 2 versions of the code" in text
    assert "come from 2 devices" in text
    assert "detect records were measured under params that differ in `protocol`" in text
    assert re.search(r"\| a{12} +\| b{12} +\| NVIDIA H200 +\| detect +\| +3 \|", text)


def test_rows_that_a_task_does_not_apply_to_are_left_out(partial: Synthetic) -> None:
    text = _page(partial.source())
    before, zeroshot, retrieval = re.split("^## (?:Zero-shot|Retrieval)", text, flags=re.MULTILINE)
    assert "text tower" not in before
    assert "| mae " in before
    for section in (zeroshot, retrieval.partition("## Figures")[0]):
        assert section.count("Only for rows with a text tower.") == 1
        assert "| clip " in section
        assert "| mae " not in section
