"""A disk that is full, read-only or gone, loaders that die, locks that are not there: one line."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from steps.artifacts import archives, publish
from steps.artifacts.publish import draft_of, sweep
from steps.artifacts.scratch import in_use, locked
from steps.command import UserError, run_step
from steps.command.machine import REMEDIES, of_machine, writing
from steps.data import loader
from steps.data.loader import BatchPlan, TrainingViews, _collate, training_batches
from steps.data.text import Captions
from steps.engine import devices
from steps.engine.checkpoint import FILE, Scratch
from steps.evaluation.frozen import FrozenBackbone
from steps.params.load import validate
from steps.params.methods.clip import CLIPParams
from steps.params.views import View
from tests.faults.test_places import artifact, record
from tests.processes import REPOSITORY, command, environment
from tests.scenery import RECIPES, Scenery

ROOT = os.geteuid() == 0 and shutil.which("unshare") is not None
as_root = pytest.mark.skipif(not ROOT, reason="mounts a small disk, as root")


def _in_namespace(mount: str, arguments: list[str], folder: Path) -> Any:
    """A command with a mount of its own, on which it prints what it left."""
    listed = f"ls -AR {mount.split()[-1]}"
    script = f'mount -t tmpfs {mount} || exit 99; "$@"; rc=$?; {listed}; exit $rc'
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "bash", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The error that a process ended with, of one line, without a traceback of ours."""
    lines = done.stderr.replace("\0", "").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert f"{REPOSITORY}/steps/" not in done.stderr, done.stderr
    assert done.returncode == 2
    return errors[0]


# --- errors of the system


@pytest.mark.parametrize("number", sorted(REMEDIES))
def test_errors_of_the_machine_in_a_line(number: int, tmp_path: Path) -> None:
    text = os.strerror(number)
    for error in (
        OSError(number, text),
        OSError(number, text, "named"),
        RuntimeError(f"Error while serializing: I/O error: {text} (os error {number})"),
        OSError(f"[Errno {number}] Error writing bytes to file. Detail: [errno {number}] {text}"),
    ):
        with (
            pytest.raises(UserError, match=r"the machine says: .* \| remedy: ") as caught,
            writing(tmp_path / "out"),
        ):
            raise error
        assert "named" in str(caught.value) or str(tmp_path / "out") in str(caught.value)


@pytest.mark.parametrize("error", [OSError(errno.ENOENT, "x", "y"), RuntimeError("x"), KeyError(5)])
def test_errors_of_the_code_keep_their_traceback(error: Exception, tmp_path: Path) -> None:
    assert of_machine(error, "x") is None
    with pytest.raises(type(error)), writing(tmp_path):
        raise error


@pytest.mark.parametrize("kind", ["EOFError", "ConnectionResetError", "FileNotFoundError"])
def test_a_batch_of_a_process_that_is_gone(kind: str) -> None:
    code = compile(f"raise {kind}", "/lib/multiprocessing/resource_sharer.py", "exec")
    with pytest.raises((EOFError, OSError)) as caught:
        exec(code)
    assert "one ended unexpectedly" in str(of_machine(caught.value, "x"))


def _full(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Every fsync fails, where a write may be held back until then."""

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_nothing_is_lost_on_a_disk_that_fails(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, file = artifact(tmp_path / "out", "old"), record(tmp_path / "r.json", 1.0)
    (tmp_path / "scratch").mkdir()
    place = Scratch(tmp_path / "scratch")
    place.save({"tensors": {"w": torch.ones(3)}}, 1)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    with monkeypatch.context() as patch:
        _full(patch, number)
        for write in (
            lambda: artifact(out, "new"),
            lambda: record(file, 2.0),
            lambda: place.save({"tensors": {"w": torch.zeros(3)}}, 2),
            lambda: place.mark(2),
        ):
            with pytest.raises(UserError, match=rf"{tmp_path}.*{os.strerror(number)}.*remedy"):
                write()
    left = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert left == before, "something was lost, or a draft was left"
    artifact(out, "new")
    record(file, 2.0)
    place.save({"tensors": {"w": torch.zeros(3)}}, 2)
    assert place.load() is not None


def test_torch_hides_why_a_write_failed_and_we_do_not(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to("/dev/full")
    draft = tmp_path / "checkpoint.new"
    draft.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        archives.save({"w": torch.ones(10**6)}, tmp_path / FILE)
    assert not draft.is_symlink()


@pytest.mark.long
@as_root
@pytest.mark.parametrize(
    ("mount", "said"),
    [("-o size=100k tmpfs results", "No space left on device"), ("-o ro tmpfs results", "written")],
)
def test_steps_on_a_small_or_read_only_disk(mount: str, said: str, scenery: Scenery) -> None:
    root = scenery.root
    data = scenery.images(train=600, val=16)
    data = data.rename(root / "noise")
    recipe = scenery.recipe("mae", epochs=1, knn=None)
    outs = [root / "backbone", "results/out"]
    done = subprocess.run(
        command("steps.pretrain", *scenery.pretrain_arguments(recipe, data, Path(outs[0]))),
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    poolings = {"poolings": ["cls", "mean"], "crop_fraction": 1.0}
    protocol = scenery.write("protocols/features.yaml", poolings)
    given = ("--protocol", protocol, "--backbone", outs[0], "--data", data, "--out", outs[1])
    done = _in_namespace(mount, command("steps.features", *given), root)
    assert said in one_line(done)
    assert done.stdout.split() == ["results:"], "a draft was left"


@pytest.mark.long
@as_root
def test_a_checkpoint_on_a_full_disk(scenery: Scenery) -> None:
    root = scenery.root
    data = scenery.images(train=48)
    recipe = scenery.recipe("mae", epochs=3, knn=None, checkpoint_seconds=1e-3)
    (root / ".scratch").mkdir()
    arguments = scenery.pretrain_arguments(recipe, data, root / "out")
    mount = "-o size=200k tmpfs .scratch"
    done = _in_namespace(mount, command("steps.pretrain", *arguments), root)
    line = one_line(done)
    assert "checkpoint" in line
    assert "No space left on device" in line
    assert "checkpoint.new" not in done.stdout
    assert not (root / "out").exists()


@pytest.mark.long
@as_root
def test_a_full_dev_shm_ends_in_a_line(scenery: Scenery) -> None:
    data = scenery.images(train=64)
    recipe = scenery.recipe("mae", epochs=2, knn=None, workers=2)
    arguments = scenery.pretrain_arguments(recipe, data, scenery.root / "out")
    # Too small for semaphores, then for images.
    for size in ("16k", "120k"):
        mount = f"-o size={size} tmpfs /dev/shm"
        done = _in_namespace(mount, command("steps.pretrain", *arguments), scenery.root)
        assert "/dev/shm" in one_line(done)


# --- processes that load


def _views(scenery: Scenery, captions: Captions | None = None) -> TrainingViews:
    data = scenery.images(train=64, captions=["a {class}", "the {class}"])
    view = View.model_validate({"area": [0.2, 1.0]})
    return TrainingViews(data, [view], 32, 0, captions)


def _batches(views: TrainingViews, workers: int) -> Any:
    plan = BatchPlan(global_batch=8, rank=0, world=1, accumulation=1)
    return training_batches(views, plan, seed=0, start=0, stop=8, workers=workers)


def _ended(batches: Any) -> UserError:
    """The line for how a loader's batches end, as ``run_step`` prints it."""
    try:
        for _ in batches:
            time.sleep(0.3)
    except UserError as error:
        return error
    except Exception as error:
        if (said := of_machine(error, "x")) is None:
            raise
        return said
    raise AssertionError("it went on")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SIGKILL", "one (was ended from outside .Killed.|ended unexpectedly)"),
        ("SIGBUS", "(no room in shared memory ./dev/shm.|one ended unexpectedly)"),
        pytest.param(
            "SIGSEGV",
            "one (was ended from outside .Segmentation fault.|ended unexpectedly)",
            marks=pytest.mark.long,
        ),
        ("SIGSTOP", "no images for 2 seconds"),
    ],
)
def test_a_worker_that_ends_or_stands_still_ends_in_a_line(
    name: str, said: str, scenery: Scenery
) -> None:
    assert loader.STALL_SECONDS == 600
    _views(scenery)
    script = (
        f"from tests.faults.test_machine import strike; strike({str(scenery.root)!r}, {name!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    # Which of the two is heard of first is chance: the signal, or that a batch does not come.
    line = one_line(done)
    assert re.match(rf"error: the processes that load images \(workers\): {said}", line), line


def test_a_batch_that_is_announced_and_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a process stands still that has yet to hand over a batch's memory."""
    monkeypatch.setattr(loader, "STALL_SECONDS", 0)
    silent, kept = os.pipe()

    def batches() -> Iterator[bytes]:
        yield b"first"
        yield os.read(silent, 1)

    try:
        heard = loader.heard(batches())
        assert next(heard) == b"first"
        with pytest.raises(RuntimeError) as caught:
            next(heard)
    finally:
        os.close(silent)
        os.close(kept)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert "no images for 0 seconds" in str(of_machine(caught.value, "x"))


def strike(root: str, name: str) -> None:
    """Send a signal to a process that loads, and go on, as a step does."""
    loader.STALL_SECONDS = 2

    def main() -> None:
        view = View.model_validate({"area": [0.2, 1.0]})
        views = TrainingViews(Path(root) / "results/data/noise", [view], 32, 0)
        batches = _batches(views, workers=1)
        next(batches)
        (child,) = multiprocessing.active_children()
        assert child.pid is not None
        # As if the process had it: torch takes this lock to tell its processes to end.
        iterator = batches.gi_frame.f_locals["batches"]
        iterator._workers_done_event._cond.acquire()
        os.kill(child.pid, getattr(signal, name))
        for _ in batches:
            time.sleep(0.3)

    run_step(main)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named_through_a_worker(workers: int, scenery: Scenery) -> None:
    views = _views(scenery)
    path = views.images.path
    content = bytearray(path.read_bytes())
    content[content.index(views.images.encoded(5)[:60]) + 50] ^= 1
    path.write_bytes(content)
    said = str(_ended(_batches(TrainingViews(path.parent, views.views, 32, 0), workers)))
    assert said.startswith(f"{path}: image 5 (train/5): damaged: ")
    assert "remedy: " in said


def test_batches_are_put_into_shared_memory_where_an_error_is_heard(scenery: Scenery) -> None:
    """A tensor that is not there yet is moved by a thread, whose error is only printed."""
    views = _views(scenery)
    for samples in DataLoader(
        views, batch_sampler=[[(0, 1), (0, 2)]], num_workers=1, collate_fn=_shared
    ):
        assert samples


def _shared(items: Any) -> bool:
    samples = _collate(items)
    return all(tensor.is_shared() for tensor in (*samples.views, samples.labels))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_loaders_work_however_processes_start(method: str, scenery: Scenery) -> None:
    data = scenery.images(train=64, captions=["a {class}"])
    recipe = RECIPES["clip"]["method"]
    params = validate(recipe, CLIPParams, "clip")
    context = params.text_tower.context_length
    captions = Captions(data, params.vocabulary, context, params.prompts, 0, "clip")
    copy = pickle.loads(pickle.dumps(captions))
    assert torch.equal(copy(0, 3), captions(0, 3))
    script = f"""
import multiprocessing
from tests.faults.test_machine import spawned
if __name__ == "__main__":
    multiprocessing.set_start_method({method!r})
    spawned({str(scenery.root)!r})
"""
    file = scenery.root / "main.py"
    file.write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(file)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def spawned(root: str) -> None:
    """In a process whose loaders are no forks: they give what none gives."""
    scenery = Scenery(Path(root))
    data = Path(root) / "results/data/noise"
    params = validate(RECIPES["clip"]["method"], CLIPParams, "clip")
    context = params.text_tower.context_length
    captions = Captions(data, params.vocabulary, context, params.prompts, 0, "clip")
    view = View.model_validate({"area": [0.2, 1.0]})
    views = TrainingViews(data, [view], 32, 0, captions).only(torch.arange(60))
    pairs = zip(_batches(views, 0), _batches(views, 1), strict=True)
    for _, (one, other) in zip(range(3), pairs, strict=False):
        assert one.text is not None
        assert other.text is not None
        assert torch.equal(one.views[0], other.views[0])
        assert torch.equal(one.text, other.text)
        assert torch.equal(one.labels, other.labels)
    assert scenery


# --- locks


def _no_locks(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        _no_locks(patch)
        with pytest.raises(UserError, match=r"no lock \(No locks available\).*lockd"):
            locked(tmp_path).__enter__()
        assert not in_use(tmp_path)
        artifact(tmp_path / "out")  # needs none
        artifact(tmp_path / "out")
        with draft_of(tmp_path / "out") as draft:
            draft.mkdir()
            sweep(tmp_path / "out")
            assert draft.is_dir()
    with locked(tmp_path):
        assert in_use(tmp_path)


def test_a_lock_on_a_gpu_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    # As another user made it: to be read, not to be written. What opens it to write is found out.
    theirs = tmp_path / "pretext-gpu-0.lock"
    theirs.touch(mode=0o444)
    opened: list[int] = []
    original = os.open

    def watched(path: Any, flags: int, *rest: int) -> int:
        if str(path) == str(theirs):
            assert not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        opened.append(flags)
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", watched)
    devices.claim_gpu()
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "0"
    devices.claim_gpu()
    assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "1"
    assert (tmp_path / "pretext-gpu-1.lock").stat().st_mode & 0o777 == 0o644
    devices.claim_gpu()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ, "all are taken: shared"
    while devices._claimed:
        os.close(devices._claimed.pop())


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EACCES])
def test_a_gpu_that_cannot_be_locked_is_shared(
    number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    _no_locks(monkeypatch, number)
    devices.claim_gpu()
    assert "GPU 0 is shared: it cannot be locked" in caplog.text
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


# --- a scratch folder that goes


@pytest.mark.slow
def test_a_scratch_folder_removed_under_a_run(scenery: Scenery) -> None:
    data = scenery.images(train=64)
    recipe = scenery.recipe("mae", epochs=2000, checkpoint_seconds=0.2, knn=None)
    process = subprocess.Popen(
        command("steps.pretrain", *scenery.pretrain_arguments(recipe, data, scenery.root / "out")),
        cwd=scenery.root,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(scenery.root.glob(".scratch/*/checkpoint.pt")):
        assert process.poll() is None
        time.sleep(0.01)
    (folder,) = scenery.root.glob(".scratch/*")
    folder.rename(scenery.root / "gone")
    _, stderr = process.communicate(timeout=300)
    done = subprocess.CompletedProcess([], process.returncode, "", stderr)
    assert "removed while the step ran | remedy: " in one_line(done)
    assert not (scenery.root / "out").exists()


def test_features_have_the_bytes_that_numpy_writes(tmp_path: Path) -> None:
    from steps.evaluation import features as module

    arrays = [np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32) for _ in range(3)]
    batches = [(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4)) for _ in arrays]
    left = iter(arrays)

    class Views:
        labels = np.arange(12)

        def __len__(self) -> int:
            return 12

    backbone: Any = torch.nn.Linear(2, 2)
    backbone.num_features = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "evaluation_batches", lambda *_: batches)
        patch.setattr(
            module, "frozen_features", lambda *_: {"cls": torch.from_numpy(next(left).copy())}
        )
        views: Any = Views()
        module.extract(
            FrozenBackbone(backbone, [0.5] * 3, [0.5] * 3, 32),
            views,
            tmp_path,
            "val",
            poolings=["cls"],
            batch_size=4,
        )
    np.save(tmp_path / "expected.npy", np.concatenate(arrays))
    np.save(tmp_path / "labels.npy", np.arange(12))
    for found, expected in (("val_cls", "expected"), ("val_labels", "labels")):
        written = (tmp_path / f"{found}.npy").read_bytes()
        assert written == (tmp_path / f"{expected}.npy").read_bytes()


def test_a_step_that_publishes_nothing_leaves_nothing(
    tmp_path: Path, step: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with pytest.raises(SystemExit), publish(tmp_path / "out", node="n", params={}, inputs={}):
        raise SystemExit(143)
    assert list(tmp_path.iterdir()) == []
