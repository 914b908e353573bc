"""A whole experiment of a minute, under Snakemake, handed to DVC, changed, pushed and pulled."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import timm

from steps.artifacts import read_manifest, read_records
from steps.params.load import read_yaml
from tests.project import EVALUATIONS, LAST, SETS, Project, measured, record, tiny
from tests.scenery import RECIPES, TOKENIZERS, Scenery


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_from_images_to_table_under_both_engines(scenery: Scenery, tmp_path: Path) -> None:
    project = tiny(scenery)
    root = project.root
    # Nobody's business but its own experiment's.
    every = " ".join([*RECIPES, "vit_test", "shapes", "knn", "linear"])
    scenery.params.joinpath("experiments/broken.yaml").write_text(f"{{ {every}: [nonsense")
    project.snakemake()
    page = (root / "reports/quickstart/README.md").read_text()
    for task, protocol in EVALUATIONS:
        records, _ = read_records(root / record(LAST, task, protocol))
        assert (records[0].recipe, records[0].protocol) == ("mae", protocol)
        assert all(0 <= record.value <= 100 for record in records if record.unit == "%")
    assert "mae" in page
    assert "random" in page
    for title in ("Where the class token looks", "Detections", "Reconstructions"):
        assert f"### {title}\n" in page
    assert timm.create_model(f"local-dir:{root / LAST / 'backbone'}", pretrained=True) is not None
    assert read_manifest(root / LAST / "backbone").facts["flops"] > 0

    # What Snakemake made is DVC's after a commit, and neither engine has anything to do.
    project.dvc()
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
    row = "shapes-test-vit_test-mae-seed0"
    stages = {
        f"{task}-{row}-{SETS[task].replace('/', '-')}-{protocol}" for task, protocol in EVALUATIONS
    }
    stages |= {f"pretrain-{row}", f"features-{row}-shapes-features", f"diagnose-{row}-shapes"}
    stages |= {"report-quickstart"}
    assert project.dvc_plans() == stages
    files = project.snakemake_plans()
    assert {path for path in files if path.startswith("results/")} == {
        *(f"{LAST}/{name}" for name in ("backbone", "features/shapes/features")),
        *(f"{LAST}/{name}" for name in ("layout/shapes_scenes/layout", "diagnose/shapes")),
        f"{LAST}/detect/shapes_scenes/mask_rcnn_small",
        *(path for each in EVALUATIONS for path in measured(LAST, *each)),
    }
    assert {path for path in files if not path.startswith("results/")} == {
        f"reports/quickstart/{name}"
        for name in (
            *("README.md", "results.csv", "records.jsonl", "curves.csv", "report.json"),
            *("ranking.png", "curves.png", "pictures.json", "pictures"),
            *("decisions.parquet", "images.parquet"),
        )
    }

    # A value of one protocol changes nothing of the others.
    _replace(recipe, "mask_ratio: 0.5", "mask_ratio: 0.75")
    logreg = root / "params/protocols/logreg.yaml"
    _replace(logreg, "max_iterations: 20", "max_iterations: 21")
    rows = {method: LAST.replace("mae", method) for method in ("random", "mae")}
    changed = {f"linear-{row.replace('mae', method)}-shapes-features-logreg" for method in rows}
    assert project.dvc_plans() == changed | {"report-quickstart"}
    assert {path for path in project.snakemake_plans() if path.startswith("results/")} == {
        path for folder in rows.values() for path in measured(folder, "linear", "logreg")
    }
    _replace(logreg, "max_iterations: 21", "max_iterations: 20")
    assert project.dvc_plans() == set()
    assert project.snakemake_plans() == set()

    # An experiment that shares rows, asked of either engine, makes only what is its own.
    experiment = read_yaml(scenery.params / "experiments/quickstart.yaml")
    experiment["methods"] = ["random", "mae", "simclr"]
    scenery.write("experiments/second.yaml", experiment)
    second = project.snakemake_plans("--config", "experiment=second")
    assert second
    simclr = LAST.replace("mae", "simclr")
    assert all(path.startswith((simclr, "reports/second/")) for path in second), second
    project.dvc("second")
    own = f"pretrain-{row.replace('mae', 'simclr')}"
    assert project.dvc_plans(own) == {own}
    for task, protocol in EVALUATIONS:
        name = f"{task}-{row}-{SETS[task].replace('/', '-')}-{protocol}"
        assert project.dvc_plans(name) == set()
    project.dvc()

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
    project.run("dvc", "repro", f"pretrain-{row}")
    assert read_manifest(root / LAST / "backbone").digest == digest


@pytest.mark.slow
def test_teacher_tokenizer_and_student_in_order_under_both_engines(scenery: Scenery) -> None:
    project = tiny(scenery)
    mae = {"recipe": "mae", "backbone": "vit_test"}
    scenery.write("tokenizers/test/vqkd.yaml", {**TOKENIZERS["vqkd"], "teacher": mae})
    path = scenery.params / "experiments/quickstart.yaml"
    scenery.write(
        "experiments/quickstart.yaml", {**read_yaml(path), "methods": ["beit2"], "pictures": []}
    )
    results = project.root / "results"
    folders = (
        "pretrained/shapes/test/vit_test/mae/seed0/backbone",
        "tokenizers/shapes/test/vqkd/seed0/tokenizer",
        "pretrained/shapes/test/vit_test/beit2/seed0/backbone",
    )

    project.snakemake(target=f"results/{folders[2]}")
    teacher, tokenizer, student = (read_manifest(results / folder) for folder in folders)
    assert tokenizer.inputs["teacher"] == teacher.digest
    assert student.inputs["tokenizer"] == tokenizer.digest

    shutil.rmtree(results)
    project.dvc()
    project.run("dvc", "repro", "pretrain-shapes-test-vit_test-beit2-seed0")
    again = [read_manifest(results / folder).digest for folder in folders]
    assert again == [teacher.digest, tokenizer.digest, student.digest]

    # Another experiment on the same tokenizer, with the teacher as a row: both are there.
    experiment = read_yaml(path)
    scenery.write(
        "experiments/other.yaml", {**experiment, "methods": ["mae", "beit2"], "seeds": [0]}
    )
    made = {f"results/{folder}" for folder in folders}
    plans = project.snakemake_plans("--config", "experiment=other")
    assert plans
    assert not made & plans
    project.dvc("other")
    assert project.dvc_plans("pretrain-shapes-test-vit_test-beit2-seed0") == set()
