from __future__ import annotations

import json
import shutil

import pytest

from steps.command import UserError
from steps.reporting.collect import collect
from tests.unit.reporting.synthetic import Synthetic, write_backbone, write_task


def test_every_record_is_collected_with_both_its_makers(several: Synthetic) -> None:
    source = several.source()
    # 2 methods x 2 backbones x 3 seeds x (3 k-NN metrics + 2 linear ones).
    assert source.records().height == 60
    assert {item.measured.node for item in source.traced} == {"knn", "linear"}
    assert {item.pretrained.node for item in source.traced} == {"pretrain"}
    for item in source.traced:
        assert {record.artifact for record in item.records} == {item.pretrained.digest}
        assert (several.results / item.source).is_file()


def test_order_is_the_experiments_own(several: Synthetic) -> None:
    sources = [item.source for item in several.source().traced]
    assert sources[:4] == [
        "pretrained/shapes/small/vit_pico/random/seed0/knn/shapes/features/knn.json",
        "pretrained/shapes/small/vit_pico/random/seed1/knn/shapes/features/knn.json",
        "pretrained/shapes/small/vit_pico/random/seed2/knn/shapes/features/knn.json",
        "pretrained/shapes/small/vit_nano/random/seed0/knn/shapes/features/knn.json",
    ]
    assert (
        sources[-1]
        == "pretrained/shapes/small/vit_nano/mae/seed2/linear/shapes/features/linear.json"
    )


def test_every_protocol_of_a_task_is_collected(protocols: Synthetic) -> None:
    sources = [item.source for item in protocols.source().traced]
    assert sources[2:5] == [
        "pretrained/shapes/small/vit_pico/random/seed0/linear/shapes/features/linear.json",
        "pretrained/shapes/small/vit_pico/mae/seed0/linear/shapes/features/linear.json",
        "pretrained/shapes/small/vit_pico/random/seed0/linear/shapes/features/logreg.json",
    ]
    assert len(sources) == 2 * 10


def test_missing_files_are_all_counted_and_the_first_is_named(small: Synthetic) -> None:
    small.file("random", "knn").unlink()
    shutil.rmtree(small.row("mae"))
    with pytest.raises(UserError) as error:
        small.source()
    message = str(error.value)
    assert (
        "pretrained/shapes/small/vit_pico/random/seed0/knn/shapes/features/knn.json: missing"
        in message
    )
    assert "3 of the experiment's 4 files missing" in message
    assert "2 of knn, 1 of pretrain" in message
    assert "run python -m steps.knn" in message


def test_a_backbone_trained_anew_makes_its_records_stale(small: Synthetic) -> None:
    write_backbone(small.row("mae") / "backbone", "mae", "vit_pico", 0, steps=41)
    with pytest.raises(
        UserError, match=r"mae/seed0/knn/shapes/features/knn\.json: measured on the backbone"
    ):
        small.source()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"protocol": "knn_old"}, r"knn\.json: protocol: 'knn_old' .*'knn'"),
        ({"recipe": "dino"}, r"knn\.json: recipe: 'dino' .*'mae'"),
        ({"task": "linear"}, r"knn\.json: task: 'linear'"),
        ({"seed": 5}, r"knn\.json: seed: 5"),
    ],
)
def test_records_of_another_cell_are_refused(
    small: Synthetic, changed: dict[str, object], message: str
) -> None:
    write_task(small.row("mae"), "knn", **changed)
    with pytest.raises(UserError, match=message):
        small.source()


def test_a_record_that_stands_twice_is_refused(small: Synthetic) -> None:
    write_task(small.row("mae"), "knn", metric="top1")
    with pytest.raises(UserError, match="mae/vit_pico/knn/knn/top1/seed0 stands twice"):
        small.source()


def test_an_edited_number_is_refused(small: Synthetic) -> None:
    path = small.file("mae", "knn")
    body = json.loads(path.read_text())
    body["records"][0]["value"] = 99.0
    path.write_text(json.dumps(body))
    with pytest.raises(UserError, match="not those that the step wrote"):
        collect(small.heading, small.paths)


def test_records_of_a_task_that_does_not_apply_are_not_missed(partial: Synthetic) -> None:
    assert [item.source for item in partial.source().traced] == [
        "pretrained/shapes/small/vit_pico/mae/seed0/linear/shapes/features/linear.json",
        "pretrained/shapes/small/vit_pico/clip/seed0/linear/shapes/features/linear.json",
        "pretrained/shapes/small/vit_pico/clip/seed0/zeroshot/shapes/zeroshot.json",
        "pretrained/shapes/small/vit_pico/clip/seed0/retrieval/shapes/retrieval.json",
    ]
