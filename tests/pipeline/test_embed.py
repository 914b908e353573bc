"""Features of any images in one file, and the sheet of their neighbours, through the command."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from steps import embed
from steps.command import UserError
from steps.data.views import centre_crop, normalise, to_tensor
from steps.evaluation import embeddings, neighbours
from steps.evaluation.embeddings import read_rows
from steps.models.backbones import load_backbone
from steps.models.features import frozen_features
from tests.unit.detection.conftest import make_backbone

Step = Callable[..., subprocess.CompletedProcess[str]]


def photo(index: int) -> Image.Image:
    """A picture like no other, of a size of its own."""
    coarse = np.random.default_rng(index).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((70 + 5 * index, 90), Image.Resampling.NEAREST)


def photos(folder: Path, count: int = 6) -> list[str]:
    """Pictures at two depths; their names in order."""
    (folder / "b/deep").mkdir(parents=True)
    names = [f"a{i}.png" if i % 2 else f"b/deep/{i} <&>.png" for i in range(count)]
    for index, name in enumerate(names):
        photo(index).save(folder / name)
    return sorted(names)


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A small vision transformer as it is initialised."""
    return make_backbone(tmp_path / "backbone", depth=2)


def run(*arguments: object) -> None:
    """The command, in this process."""
    saved, sys.argv = sys.argv, ["embed", *map(str, arguments)]
    try:
        embed.main()
    finally:
        sys.argv = saved


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_through_the_command(
    workers: int, backbone: Path, tmp_path: Path, step: Step
) -> None:
    names = photos(tmp_path / "photos")
    (tmp_path / "photos/notes.txt").write_text("no image")
    options = ["--backbone", backbone, "--images", "photos", "--out", "found/all.parquet"]
    done = step("embed", *options, "--batch-size", "4", "--workers", workers, "--neighbours", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "found/all.parquet: 6 images\n"
    table = pq.read_table(tmp_path / "found/all.parquet")
    assert [str(field.type) for field in table.schema] == [
        "string",
        "list<element: float>",
        "list<element: float>",
    ]
    assert table["name"].to_pylist() == names
    model = load_backbone(backbone)
    for row in table.to_pylist():
        with Image.open(tmp_path / "photos" / row["name"]) as image:
            pixels = to_tensor(centre_crop(image, 64, 1.0))
        with torch.inference_mode():
            inputs = normalise(pixels.unsqueeze(0), [0.5] * 3, [0.25] * 3)
            wanted = frozen_features(model, inputs, ("cls", "mean"))
        for column, pooling in (("class_token", "cls"), ("mean_token", "mean")):
            found = torch.tensor([row[column]])
            torch.testing.assert_close(found, wanted[pooling], atol=1e-5, rtol=0)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == [
        "all.neighbours.html",
        "all.neighbours.png",
        "all.parquet",
    ]
    page = (tmp_path / "found/all.neighbours.html").read_text()
    # Six queries with three neighbours each; near-duplicates come on top.
    assert page.count("data:image/jpeg;base64,") >= 6 * 4
    assert "b/deep/0 &lt;&amp;&gt;.png" in page
    assert "<&>" not in page
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    sheet = Image.open(io.BytesIO((tmp_path / "found/all.neighbours.png").read_bytes()))
    assert sheet.size == (4 * 118 + 12, 6 * 132 + 6)


def test_the_end_of_a_long_name_is_shown() -> None:
    found = neighbours.Neighbours([0], [[(0.5, 1)]], [], 0, every_pair=True)
    pictures = dict.fromkeys((0, 1), Image.new("RGB", (4, 4)))
    names = ["val2017/000000000139.jpg", "short.jpg"]
    page = neighbours.page(found, pictures, names, "photos")
    assert "<br>…00000000139.jpg<" in page
    assert 'title="val2017/000000000139.jpg"' in page
    assert "<b>0.500</b><br>short.jpg<" in page


def test_lists_tars_and_another_size(backbone: Path, tmp_path: Path) -> None:
    names = photos(tmp_path / "photos")
    (tmp_path / "some.txt").write_text(f"photos/{names[3]}\nphotos/{names[0]}\n")
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(tmp_path / "photos", "in")
    options = ["--backbone", backbone, "--workers", 0, "--size", 96]
    run(*options, "--images", tmp_path / "some.txt", "--out", tmp_path / "list.parquet")
    run(*options, "--images", tmp_path / "*.tar", "--out", tmp_path / "tar.parquet")
    listed, packed = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("list", "tar"))
    assert listed["name"].to_pylist() == [f"photos/{names[3]}", f"photos/{names[0]}"]
    tokens = dict(zip(packed["name"].to_pylist(), packed["class_token"].to_pylist(), strict=True))
    assert len(tokens) == 6
    for name, token in zip((names[3], names[0]), listed["class_token"].to_pylist(), strict=True):
        np.testing.assert_allclose(tokens[f"photos/in/{name}"], token, atol=1e-5)
    assert listed.schema.metadata[b"size"] == b"96"


def test_row_groups_are_streamed(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "ROWS", 2)
    names = photos(tmp_path / "photos")
    out = tmp_path / "all.parquet"
    options = ["--backbone", backbone, "--images", tmp_path / "photos", "--out", out]
    run(*options, "--workers", 0, "--batch-size", 2)
    assert [len(rows) for rows in read_rows(out)] == [2, 2, 2]
    everything = torch.cat(list(read_rows(out)))
    found = neighbours.find_neighbours(out, names, 2, 3)
    assert found.queries == [0, 2, 5]
    unit = torch.nn.functional.normalize(everything)
    cosines = unit @ unit.T - 2 * torch.eye(6)
    for query, nearest in zip(found.queries, found.nearest, strict=True):
        assert [index for _, index in nearest] == cosines[query].topk(2).indices.tolist()


def niceness(image: Image.Image) -> Image.Image:
    """A picture whose red says how nice the process is that looks at it."""
    return Image.new("RGB", (4, 4), (os.getpriority(os.PRIO_PROCESS, 0), 0, 0))


def test_files_that_are_no_images_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos(tmp_path / "photos", 2)
    for name in ("1.HEIC", "2.HEIC"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    assert len(embeddings.images_at(str(tmp_path / "photos"))) == 2
    assert "files that are no images by their names: {'.heic': 2}" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="the forward pass needs no cores")
def test_decoding_gives_way_to_the_forward_pass(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 2)
    items = embeddings.images_at(str(tmp_path / "photos"))
    own = os.getpriority(os.PRIO_PROCESS, 0)
    for workers, expected in ((0, own), (1, 19)):
        ((seen, _),) = embeddings.batches(items, niceness, batch_size=2, workers=workers)
        assert seen is not None
        assert seen[:, 0].unique().tolist() == [expected]


@pytest.mark.parametrize("most", [50_000, 1])
def test_near_duplicates_are_counted_once(
    most: int, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "EVERY_PAIR", most)
    folder, out = tmp_path / "photos", tmp_path / "all.parquet"
    names = photos(folder)
    photo(1).save(folder / "copy.png")
    names = sorted([*names, "copy.png"])
    run("--backbone", backbone, "--images", folder, "--out", out, "--workers", 0)
    unit = torch.nn.functional.normalize(torch.cat(list(read_rows(out))))
    cosines = unit @ unit.T
    bound = float(cosines[names.index("a1.png")].sort().values[-3]) + 1e-4
    monkeypatch.setattr(neighbours, "DUPLICATE", max(bound, 0.99))
    wanted = int((cosines.triu(1) > max(bound, 0.99)).sum())
    found = neighbours.find_neighbours(out, names, 1, len(names))
    assert found.count == wanted >= 1
    assert found.every_pair == (most > 1)
    assert (names.index("a1.png"), names.index("copy.png")) in {
        pair for _, *pair in [(c, (i, j)) for c, i, j in found.duplicates] for pair in pair
    }
    monkeypatch.setattr(neighbours, "LISTED", 0)
    assert neighbours.find_neighbours(out, names, 1, len(names)).count == wanted


def test_a_damaged_image_is_named(backbone: Path, tmp_path: Path, step: Step) -> None:
    names = photos(tmp_path / "photos")
    whole = (tmp_path / "photos/a1.png").read_bytes()
    (tmp_path / "photos/a1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos/a3.png").write_bytes(b"text")
    options = ["--backbone", backbone, "--images", "photos", "--out", "all.parquet"]
    done = step("embed", *options)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: photos: a1.png: ")
    assert line.endswith("remedy: remove or repair it, or leave such images out with --on-bad skip")
    assert "a3.png" not in line
    assert not list(tmp_path.glob("*.parquet"))
    done = step("embed", *options, "--on-bad", "skip")
    assert done.returncode == 0, done.stderr
    assert "left out: a1.png: " in done.stderr
    assert "left out: a3.png: not an image of a known format" in done.stderr
    assert "2 left out" in done.stderr
    kept = [name for name in names if name not in ("a1.png", "a3.png")]
    assert pq.read_table(tmp_path / "all.parquet")["name"].to_pylist() == kept


def test_a_timm_folder_and_its_errors(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "photos")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ours, theirs = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    options = ["--images", tmp_path / "photos", "--workers", 0]
    run(*options, "--backbone", backbone, "--out", ours)
    run(*options, "--backbone", f"timm:{backbone}", "--out", theirs)
    for mine, other in zip(read_rows(ours), read_rows(theirs), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=0)
    run(*options, "--backbone", f"timm:{backbone}/model.safetensors", "--out", theirs, "--size", 96)
    out = tmp_path / "out.parquet"
    (tmp_path / "empty").mkdir()
    for name, said in (
        ("timm:vit_tiny_patch16_22", r"timm has no such model.*allowed: vit_tiny_patch16_224"),
        ("timm:vit_tiny_patch16_224", r"timm cannot load its weights .*allowed: .* a network"),
        ("timm:vit_tiny_patch16_224.none", r"Invalid pretrained tag \(none\)"),
        (f"timm:{tmp_path / 'empty'}", r"timm cannot load its weights .*config\.json"),
        (tmp_path / "empty", r"without manifest\.json.*steps\.import"),
        (tmp_path / "none", "no such folder"),
    ):
        with pytest.raises(UserError, match=said):
            run(*options, "--backbone", name, "--out", out)
    assert not out.exists()


def test_places_and_images_that_are_refused(backbone: Path, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("")
    (tmp_path / "bare").mkdir()
    (tmp_path / "broken.txt").write_text("gone.png\n")
    (tmp_path / "taken.parquet").write_bytes(b"PAR1")
    (tmp_path / "new.neighbours.png").write_bytes(b"mine")
    for images, out, said in (
        ("none", "new", "nothing there.*allowed: a folder of images"),
        ("empty", "new", "no image, other files"),
        ("*.tar", "new", "nothing there"),
        ("bare", "new", "an empty folder"),
        ("broken.txt", "new", "gone.png: no such file"),
        ("photos", "taken", "taken.parquet: stands there already"),
        ("photos", "new", "new.neighbours.png: stands there already"),
    ):
        with pytest.raises(UserError, match=said):
            run(
                *("--backbone", backbone, "--images", tmp_path / images, "--workers", 0),
                *("--out", tmp_path / f"{out}.parquet"),
                *(("--neighbours", 2) if "neighbours" in said else ()),
            )
    with pytest.raises(UserError, match=r"allowed: NAME\.parquet"):
        run("--backbone", backbone, "--images", tmp_path / "photos", "--out", tmp_path / "a.npy")
    with pytest.raises(UserError, match="--size 65: 65 px does not divide"):
        run(
            *("--backbone", backbone, "--images", tmp_path / "photos", "--size", 65),
            *("--out", tmp_path / "new.parquet"),
        )
    assert (tmp_path / "taken.parquet").read_bytes() == b"PAR1"
    assert (tmp_path / "new.neighbours.png").read_bytes() == b"mine"
    assert not (tmp_path / "new.parquet").exists()


@pytest.mark.parametrize("node", ["embed", "export", "visualize"])
def test_help_has_an_example(node: str, step: Step) -> None:
    done = step(node, "--help")
    assert done.returncode == 0
    assert f"python -m steps.{node} --backbone .../backbone" in done.stdout
