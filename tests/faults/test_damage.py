"""What is read is what was written, and nothing of it is run: damage is named, payloads are not."""

from __future__ import annotations

import importlib
import io
import json
import pickle
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steps.artifacts import archives, publish, read_manifest, read_records, verify
from steps.artifacts.identity import Identity
from steps.artifacts.manifest import Required
from steps.artifacts.scratch import left_behind, progress, read_identity
from steps.command import UserError
from steps.data.loader import EvaluationViews, dataset_facts
from steps.data.shards import Images, ShardWriter
from steps.engine.checkpoint import FILE, Scratch
from steps.engine.monitor import METRICS, Monitor
from steps.evaluation.features import features_of, read_features
from steps.models.backbones import (
    create_backbone,
    holds_resnet,
    load_backbone,
    normalisation,
    save_backbone,
)
from steps.official.files import read_file
from steps.params.backbone import Backbone
from tests.faults.test_places import record
from tests.processes import REPOSITORY
from tests.scenery import BACKBONE, Scenery


def flip(path: Path, place: int, bits: int = 1) -> None:
    """Flip bits of a byte, counted from the end where negative."""
    content = bytearray(path.read_bytes())
    content[place] ^= bits
    path.write_bytes(content)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.ran,)


# --- artifacts by whole digest


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A backbone artifact."""
    params = Backbone.model_validate(BACKBONE)
    with publish(tmp_path / "backbone", node="pretrain", params={}, inputs={}) as draft:
        save_backbone(create_backbone(params), params, draft.path, mean=[0.5] * 3, std=[0.25] * 3)
    return tmp_path / "backbone"


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """A features artifact."""
    with publish(tmp_path / "features", node="features", params={}, inputs={}) as draft:
        for split in ("train", "val"):
            np.save(draft.path / f"{split}_cls.npy", np.ones((4, 3), np.float32))
            np.save(draft.path / f"{split}_labels.npy", np.arange(4))
    return tmp_path / "features"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _huge_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 10**15) + path.read_bytes()[8:])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit near the end": lambda path: flip(path, -3),
    "a bit near the start": lambda path: flip(path, 1),
    "cut": _cut,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "a header of 10^15 bytes": _huge_header,
    "brackets": lambda path: path.write_bytes(b"[" * 100_000),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("read", [load_backbone, holds_resnet, normalisation])
def test_a_damaged_backbone_is_named(
    damage: str, name: str, read: Callable[[Path], object], backbone: Path
) -> None:
    read(backbone)  # compared once already, and changed since
    DAMAGE[damage](backbone / name)
    with pytest.raises(UserError, match=rf"backbone/{name}: .*remedy: remove the artifact"):
        read(backbone)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["train_cls.npy", "val_labels.npy"])
def test_damaged_features_are_named(damage: str, name: str, features: Path) -> None:
    read_features(features, "train", ["cls"])
    DAMAGE[damage](features / name)
    with pytest.raises(UserError, match=f"features/{name}: "):
        read_features(features, "train", ["cls"])


@pytest.mark.parametrize("step", ["knn", "linear"])
def test_features_of_another_backbone_are_named(
    step: str, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their number would stand under the name of a backbone that it says nothing of."""
    other = tmp_path / "other"
    with publish(other, node="pretrain", params={}, inputs={}) as draft:
        (draft.path / "model.safetensors").write_bytes(b"others")
    data = tmp_path / "data"
    with publish(data, node="prepare", params={}, inputs={}) as draft:
        draft.facts.update(dataset="noise", classes=["a", "b"])
    inputs = {"backbone": backbone, "data": data}
    with publish(tmp_path / "features", node="features", params={}, inputs=inputs) as draft:
        draft.facts.update(dataset="noise", classes=2)
    features_of(tmp_path / "features", backbone, data)
    protocol = REPOSITORY / f"params/protocols/{step}.yaml"
    options = ["--protocol", protocol, "--backbone", other, "--features", tmp_path / "features"]
    options += ["--data", data, "--out", tmp_path / "out.json"]
    monkeypatch.setattr("sys.argv", [f"steps.{step}", *map(str, options)])
    with pytest.raises(UserError, match=r"features: features of another backbone.*remedy: extract"):
        importlib.import_module(f"steps.{step}").main()
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"null", b'{"node"', b"[" * 100_000, b"\xff\xfe", b'{"node": NaN}'],
)
def test_a_damaged_manifest_is_named(content: bytes, backbone: Path) -> None:
    (backbone / "manifest.json").write_bytes(content)
    for read in (read_manifest, verify, load_backbone):
        with pytest.raises(UserError, match=r"manifest.json: not a manifest"):
            read(backbone)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("digest", "0" * 64, "its digest is not"),
        ("files", {}, "its digest is not"),
        ("facts", {}, ""),
    ],
)
def test_an_edited_manifest(key: str, value: object, said: str, backbone: Path) -> None:
    path = backbone / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), key: value}), encoding="utf-8")
    if said:
        with pytest.raises(UserError, match=said):
            load_backbone(backbone)
        return
    load_backbone(backbone)  # needs no facts
    with pytest.raises(UserError, match=r"manifest.json: facts: method: missing"):
        read_manifest(backbone).facts["method"]


def test_a_set_without_facts_is_named(scenery: Scenery) -> None:
    data = scenery.images(train=4, val=4)
    path = data / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "facts": {}}), encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest.json: facts: kind: missing \| remedy"):
        dataset_facts(data)


def test_required_is_a_dict_otherwise() -> None:
    facts = Required({"a": 1}, "file", "do it")
    assert (facts.get("b"), "b" in facts, {**facts}, facts["a"]) == (None, False, {"a": 1}, 1)
    with pytest.raises(UserError, match=r"file: b: missing \| remedy: do it"):
        facts["b"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("1.0", "2.0"),
        lambda text: text.replace('"top1": 1.0', '"top1": 1.5'),
        lambda text: text.replace('"artifact": "0', '"artifact": "1'),
        lambda text: text[:-40],
        lambda text: "[" * 100_000,
        lambda text: "{}",
        lambda text: "\udcff",
    ],
)
def test_a_damaged_record_is_named(change: Callable[[str], str], tmp_path: Path) -> None:
    path = record(tmp_path / "r.json")
    read_records(path)
    text = change(path.read_text(encoding="utf-8"))
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"r\.json: .*remedy: remove it and run"):
        read_records(path)


# --- images by a checksum each


@pytest.fixture
def data(scenery: Scenery) -> Path:
    """A set of which the checksums do not enter the digest, as prepare has it."""
    return scenery.images(train=8, val=2500, size=4, captions=["a {class}"])


def test_a_flipped_image_is_named(data: Path) -> None:
    images = Images(data, "val")
    path = images.path
    for row in (0, 1023, 1024, 2499):
        (place,) = [path.read_bytes().index(images.encoded(row)[:60])]
        flip(path, place + 55)
        with pytest.raises(UserError, match=rf"val.arrow: image {row} \(val/{row}\): damaged"):
            Images(data, "val").image(row)
        assert Images(data, "val").image(row - 1 if row else 1)
        flip(path, place + 55)
        assert Images(data, "val").image(row)


def test_flipped_labels_and_captions_are_named(data: Path) -> None:
    for read in (
        lambda images: images.labels,
        lambda images: images.ids,
        lambda images: images.sizes,
        lambda images: list(images.all_captions()),
        lambda images: images.captions(1500),
    ):
        read(Images(data, "val"))
        path = data / "val.arrow"
        content = path.read_bytes()
        place = content.index(b"val/1500")
        flip(path, place + 5)
        with pytest.raises(UserError, match=r"val.arrow: damaged"):
            read(Images(data, "val"))
        path.write_bytes(content)


def _read_all(data: Path) -> None:
    images = Images(data, "val")
    for row in range(8):
        images.encoded(row)


def test_no_flipped_bit_of_a_file_of_images_passes(scenery: Scenery) -> None:
    data = scenery.images(train=8, val=8, size=4)
    path = data / "val.arrow"
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(1000):
        flip(path, draw.randrange(len(content)), 1 << draw.randrange(8))
        with pytest.raises(UserError, match=r"val\.arrow: .*remedy: "):
            _read_all(data)
        path.write_bytes(content)
    _read_all(data)


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "a header of 10^15 bytes", "a folder"])
def test_a_damaged_file_of_images_is_named(damage: str, data: Path) -> None:
    DAMAGE[damage](data / "val.arrow")
    with pytest.raises(UserError, match=r"val\.arrow: (not a whole|no such file|damaged)"):
        EvaluationViews(data, "val", 4, 1.0)


def test_damaged_checksums_are_named(data: Path) -> None:
    _cut(data / "val.crc32")
    with pytest.raises(UserError, match=r"val.arrow: damaged"):
        Images(data, "val")


def test_sets_of_before_there_were_checksums_are_read(data: Path) -> None:
    images = Images(data, "val").encoded(5)
    (data / "val.crc32").unlink()
    older = Images(data, "val")
    assert older.encoded(5) == images
    place = older.path.read_bytes().index(images[:60])
    flip(older.path, place + 1)  # no PNG any more
    with pytest.raises(UserError, match=r"val.arrow: image 5 \(val/5\): damaged"):
        Images(data, "val").image(5)


def test_checksums_are_of_the_bytes_and_enter_no_digest(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.arrow", labels=False, captions=False) as writer:
        for index in range(3):
            writer.add(str(index), bytes([index]) * 10, 1, 1)
    sums = np.fromfile(tmp_path / "a.crc32", "<u4")
    assert sums[:3].tolist() == [zlib.crc32(bytes([index]) * 10) for index in range(3)]
    assert len(sums) == 4


# --- checkpoints


def scratch(tmp_path: Path) -> Scratch:
    """A scratch folder with a checkpoint."""
    place = Scratch(tmp_path)
    tensors = {f"weight{index}": torch.randn(64, 64) for index in range(4)}
    place.save({"tensors": tensors, "state": {"step": 3}, "metrics": "{}\n"}, 3)
    return place


def test_a_checkpoint_with_any_flipped_bit_is_named(tmp_path: Path) -> None:
    place = scratch(tmp_path)
    path = tmp_path / FILE
    content = path.read_bytes()
    loaded = place.load()
    assert loaded is not None
    whole = _filled(loaded)
    draw = random.Random(0)
    named = 0
    for _ in range(150):
        flip(path, draw.randrange(len(content)), 1 << draw.randrange(8))
        try:
            found = place.load()
            assert found is not None
            assert all(torch.equal(whole[name], tensor) for name, tensor in _filled(found).items())
        except UserError as error:
            assert "remedy: remove it and run again" in str(error)  # noqa: PT017
            named += 1
        path.write_bytes(content)
    assert named > 120


def test_two_flipped_bits_of_a_tensor_are_named(tmp_path: Path) -> None:
    place = scratch(tmp_path)
    state = place.load()
    assert state is not None
    tensor = _filled(state)["weight2"]
    path = tmp_path / FILE
    start = path.read_bytes().index(tensor.numpy().tobytes())
    flip(path, start + 400, 0b11)
    with pytest.raises(UserError, match=rf"{FILE}: not a readable checkpoint: damaged: .*/data/"):
        place.load()


def _filled(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    saved = state["tensors"]
    targets = {name: torch.zeros(size, dtype=kind) for name, (size, kind) in saved.kinds().items()}
    saved.fill(targets)
    return targets


@pytest.mark.parametrize("damage", ["cut", "empty", "brackets", "a header of 10^15 bytes"])
def test_a_damaged_checkpoint_is_named(damage: str, tmp_path: Path) -> None:
    place = scratch(tmp_path)
    DAMAGE[damage](tmp_path / FILE)
    with pytest.raises(UserError, match=r"checkpoint\.pt: not a readable checkpoint: .*remedy: "):
        place.load()


@pytest.mark.parametrize("content", [{}, {"tensors": {}}, {"tensors": 5}, [1], 5, None])
def test_a_checkpoint_that_lacks_something_is_named(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / FILE)
    place = Scratch(tmp_path)

    def read() -> None:
        state = place.load()
        assert state is not None
        state["tensors"].fill({"weight": torch.zeros(3)})

    with pytest.raises(UserError, match=r"checkpoint\.pt: .*remedy: remove it and run again"):
        read()


def test_a_payload_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for path in (tmp_path / FILE, tmp_path / "other.pth"):
        torch.save({"tensors": {}, "evil": Payload(ran)}, path)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Payload(ran)))
    place = Scratch(tmp_path)
    for source in (None, tmp_path / "other.pth", tmp_path / "bare.pth"):
        with pytest.raises(UserError) as caught:
            place.load(source)
        assert "weights_only" not in str(caught.value)
    with pytest.raises(UserError, match="it holds a pickled getattr, which was not opened"):
        place.load()
    assert not ran.exists()


def test_a_payload_in_a_detector_checkpoint_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = pytest.importorskip("steps.detection.train")
    ran = tmp_path / "ran"
    torch.save({"model": {}, "epoch": 1, "evil": Payload(ran)}, tmp_path / train.CHECKPOINT)
    runner = object.__new__(train.QuietRunner)
    runner._work_dir = str(tmp_path)
    with pytest.raises(UserError, match="a pickled getattr, which was not opened"):
        runner.load_or_resume()
    assert not ran.exists()
    # mmengine's own way, which falls back to running what stands there, is not taken.
    called: list[object] = []
    monkeypatch.setattr("mmengine.runner.runner._load_checkpoint", called.append)
    with pytest.raises(UserError):
        runner.load_or_resume()
    assert called == []


@pytest.mark.parametrize("left", ["", "half", "{}\n\0\0\0", None])
def test_metrics_that_were_lost_come_back(left: str | None, tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, "t", 10, quiet=False)
    monitor.start(0, "")
    monitor.write(1, {"loss": 1.0}, 0.0)
    kept = monitor.metrics
    monitor.write(2, {"loss": 2.0}, 0.0)  # after the checkpoint
    path = tmp_path / METRICS
    path.unlink() if left is None else path.write_text(left, encoding="utf-8")
    again = Monitor(tmp_path, "t", 10, quiet=False)
    again.start(1, kept)
    assert path.read_text(encoding="utf-8") == kept == '{"step": 1, "loss": 1.0}\n'


def test_metrics_of_a_checkpoint_of_before(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    path.write_text("one\ntwo\n", encoding="utf-8")
    Monitor(tmp_path, "t", 10, quiet=False).start(1, 4)
    assert path.read_text(encoding="utf-8") == "one\n"
    with pytest.raises(UserError, match=r"metrics.jsonl: 4 bytes, and the checkpoint .* to 8"):
        Monitor(tmp_path, "t", 10, quiet=False).start(1, 8)
    assert path.read_text(encoding="utf-8") == "one\n"


@pytest.mark.parametrize(
    "content", ["", "{}", "[" * 100_000, "[]", '{"step": "x", "seconds": []}', '{"step": null}']
)
def test_damaged_notes_of_a_scratch_folder_are_none(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(".scratch/pretrain-0123456789abcdef")
    folder.mkdir(parents=True)
    for name in ("progress.json", "identity.json"):
        (folder / name).write_text(content, encoding="utf-8")
    code: dict[str, Any] = {"modules": {}, "libraries": {}}
    identity = Identity.model_validate(
        {"node": "pretrain", "subject": "", "params": {}, "inputs": {}, "seed": 0, "code": code}
    )
    assert read_identity(folder) is None
    assert progress(folder) == {}
    assert left_behind(identity) == []


# --- archives that inflate


def _entry(archive: zipfile.ZipFile, name: str, size: int) -> None:
    with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as entry:
        for _ in range(size // 2**20):
            entry.write(bytes(2**20))


def bomb(path: Path, *, program: bool, size: int, says: int | None = None) -> Path:
    """An archive that inflates to ``size`` bytes, and says that it is ``says``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        if program:
            archive.writestr("archive/code/x.py", "")
        zeros = zipfile.ZipInfo("archive/data/0")
        zeros.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(zeros, "w", force_zip64=True) as entry:
            for _ in range(size // 2**20):
                entry.write(bytes(2**20))
    if says is not None:
        content = bytearray(path.read_bytes())
        start = content.rindex(b"PK\x01\x02")
        content[start + 24 : start + 28] = struct.pack("<I", says)
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("program", [False, True])
def test_a_zip_bomb_is_refused_before_it_is_inflated(program: bool, tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb.pth", program=program, size=512 * 2**20)
    assert path.stat().st_size < 2**20
    read: tuple[Callable[[Path], Any], ...] = (read_file, archives.read)
    for one in read:
        with pytest.raises(UserError, match=r"would inflate to 5\d{8}; it was not opened"):
            one(path)
    shutil.move(path, tmp_path / FILE)
    with pytest.raises(UserError, match="would inflate"):
        Scratch(tmp_path).load()


@pytest.mark.parametrize("program", [False, True])
def test_a_zip_bomb_that_lies_is_not_inflated(program: bool, tmp_path: Path) -> None:
    import tracemalloc

    path = bomb(tmp_path / "bomb.pth", program=program, size=512 * 2**20, says=1000)
    tracemalloc.start()
    with pytest.raises(UserError):
        read_file(path)
    assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    tracemalloc.stop()


def test_an_archive_as_torch_writes_it_is_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(100_000)}, tmp_path / "a.pth")
    assert torch.equal(read_file(tmp_path / "a.pth")["weight"], torch.ones(100_000))
    module = torch.jit.script(torch.nn.Linear(300, 300))
    module.save(str(tmp_path / "b.pt"))
    assert read_file(tmp_path / "b.pt") is not None
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, buffer, _use_new_zipfile_serialization=False)
    (tmp_path / "c.pth").write_bytes(buffer.getvalue())
    assert torch.equal(read_file(tmp_path / "c.pth")["weight"], torch.ones(3))
