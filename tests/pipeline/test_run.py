"""A whole experiment of a minute, under Snakemake, handed to DVC, changed, pushed and pulled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm

from steps.artifacts import read_manifest, read_records
from steps.params.load import read_yaml
from tests.project import EVALUATIONS, LAST, NO_CHAIN, Project, tiny
from tests.scenery import TOKENIZERS, Scenery


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_from_images_to_table_under_both_engines(scenery: Scenery, tmp_path: Path) -> None:
    project = tiny(scenery)
    root = project.root
    project.snakemake()
    page = (root / "reports/quickstart/README.md").read_text()
    for task, protocol in EVALUATIONS:
        records, _ = read_records(root / LAST / task / f"{protocol}.json")
        assert (records[0].recipe, records[0].protocol) == ("mae", protocol)
        assert all(0 <= record.value <= 100 for record in records if record.unit == "%")
    assert "mae" in page
    assert "random" in page
    for title in ("Where the class token looks", "Detections", "Reconstructions"):
        assert f"### {title}\n" in page
    assert timm.create_model(f"local-dir:{root / LAST / 'backbone'}", pretrained=True) is not None
    assert read_manifest(root / LAST / "backbone").facts["flops"] > 0

    # What Snakemake made is DVC's after a commit, and neither engine has anything to do.
    project.run("dvc", "init", "--no-scm", "--quiet")
    project.run("dvc", "commit", "--force", "--quiet")
    assert "up to date" in project.run("dvc", "status")
    assert project.dvc_plans() == set()
    project.run("dvc", "repro")
    assert project.snakemake_plans() == set()

    # A comment re-plans nothing; a value exactly what descends from it.
    recipe = root / "params/recipes/test/mae.yaml"
    recipe.write_text("# a comment\n" + recipe.read_text())
    assert project.dvc_plans() == set()
    assert project.snakemake_plans() == set()
    _replace(recipe, "mask_ratio: 0.75", "mask_ratio: 0.5")
    stages = {f"{task}@vit_test-mae-0-{protocol}" for task, protocol in EVALUATIONS}
    stages |= {"pretrain@vit_test-mae-0", "features@vit_test-mae-0-features", "page"}
    stages |= {"diagnose@drawn0"}
    assert project.dvc_plans() == stages
    files = project.snakemake_plans()
    assert {path for path in files if path.startswith("results/")} == {
        f"{LAST}/{name}"
        for name in (
            *("backbone", "features", "layout/layout", "detect/mask_rcnn_small", "diagnose"),
            *(f"{task}/{protocol}.json" for task, protocol in EVALUATIONS),
        )
    }
    assert {path for path in files if not path.startswith("results/")} == {
        f"reports/quickstart/{name}"
        for name in (
            *("README.md", "results.csv", "records.jsonl", "curves.csv", "report.json"),
            *("ranking.png", "curves.png", "pictures.json", "pictures"),
        )
    }

    # A value of one protocol changes nothing of the others.
    _replace(recipe, "mask_ratio: 0.5", "mask_ratio: 0.75")
    logreg = root / "params/protocols/logreg.yaml"
    _replace(logreg, "max_iterations: 20", "max_iterations: 21")
    changed = {f"linear@vit_test-{method}-0-logreg" for method in ("random", "mae")}
    assert project.dvc_plans() == changed | {"page"}
    assert {path for path in project.snakemake_plans() if path.startswith("results/")} == {
        f"results/quickstart/vit_test/{method}/seed0/linear/logreg.json"
        for method in ("random", "mae")
    }
    _replace(logreg, "max_iterations: 21", "max_iterations: 20")
    assert project.dvc_plans() == set()
    assert project.snakemake_plans() == set()

    # Pushed from here and pulled elsewhere, as `make pull` does it: nothing to do there either.
    remote, clone = tmp_path / "remote", Project(tmp_path / "clone")
    project.run("dvc", "remote", "add", "--default", "store", str(remote), "--quiet")
    project.run("dvc", "push", "--quiet")
    clone.root.mkdir()
    for name in ("params", ".dvc", "reports"):
        ignored = shutil.ignore_patterns("cache", "tmp")
        shutil.copytree(root / name, clone.root / name, ignore=ignored)
    for name in ("dvc.yaml", "dvc.lock", ".dvcignore"):
        shutil.copy(root / name, clone.root)
    clone.run("dvc", "pull", "--quiet")
    clone.snakemake("--touch")
    assert clone.snakemake_plans() == set()
    assert clone.dvc_plans() == set()
    digests = [read_manifest(p.root / LAST / "backbone").digest for p in (project, clone)]
    assert digests[0] == digests[1]

    # The other engine computes the same bits.
    digest = digests[0]
    shutil.rmtree(root / LAST)
    shutil.rmtree(root / ".dvc/cache")
    project.run("dvc", "repro", f"{'pretrain'}@vit_test-mae-0")
    assert read_manifest(root / LAST / "backbone").digest == digest


@pytest.mark.slow
def test_teacher_tokenizer_and_student_in_order_under_both_engines(scenery: Scenery) -> None:
    project = tiny(scenery)
    mae = {"recipe": "mae", "backbone": "vit_test"}
    scenery.write("tokenizers/test/vqkd.yaml", {**TOKENIZERS["vqkd"], "teacher": mae})
    path = scenery.params / "experiments/quickstart.yaml"
    chain = {
        **NO_CHAIN,
        "rows": ["beit2"],
        "teachers": [mae],
        "tokenized": [{"recipe": "beit2", "backbone": "vit_test", "tokenizer": "vqkd"}],
        "distilled_tokenizers": [{"tokenizer": "vqkd", "teacher": mae}],
    }
    scenery.write(
        "experiments/quickstart.yaml",
        {**read_yaml(path), "methods": ["beit2"], "pictures": [], "chain": chain},
    )
    results = project.root / "results/quickstart"
    folders = (
        "vit_test/mae/seed0/backbone",
        "tokenizers/vqkd/seed0",
        "vit_test/beit2/seed0/backbone",
    )

    project.snakemake(target=f"results/quickstart/{folders[2]}")
    teacher, tokenizer, student = (read_manifest(results / folder) for folder in folders)
    assert tokenizer.inputs["teacher"] == teacher.digest
    assert student.inputs["tokenizer"] == tokenizer.digest

    shutil.rmtree(results)
    project.run("dvc", "init", "--no-scm", "--quiet")
    project.run("dvc", "repro", "tokenized@tokenized0-0")
    again = [read_manifest(results / folder).digest for folder in folders]
    assert again == [teacher.digest, tokenizer.digest, student.digest]
