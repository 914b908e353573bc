"""An artifact is replaced only by an artifact, a record by a record; the killed leave no drafts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from steps.artifacts import Record, publish, read_manifest, read_records, verify, write_records
from steps.artifacts.publish import (
    check_artifact,
    check_places,
    check_record,
    draft_of,
    put,
    sweep,
    write_whole,
)
from steps.command import UserError, place
from steps.prepare import main as prepare
from steps.report import main as report
from tests.processes import REPOSITORY, command, environment
from tests.scenery import Scenery
from tests.unit.reporting.synthetic import build

ARROW = "results/.out.*/new/train.arrow"
SHAPES = (REPOSITORY / "params/datasets/shapes.yaml").read_text(encoding="utf-8")


def artifact(out: Path, text: str = "old", node: str = "prepare") -> Path:
    """A whole artifact of one file."""
    with publish(out, node=node, params={}, inputs={}) as draft:
        (draft.path / "content.txt").write_text(text, encoding="utf-8")
    return out


def record(out: Path, value: float = 1.0) -> Path:
    """A whole record file."""
    measured = Record(
        task="knn",
        protocol="knn",
        metric="top1",
        value=value,
        unit="%",
        n=4,
        seed=0,
        method="mae",
        recipe="mae",
        kind="Generative",
        backbone="vit_test",
        scale="ViT-Test",
        dataset="shapes",
        pretrain_dataset="shapes",
        epochs=1.0,
        images_seen=4,
        flops=1.0,
        device_seconds=1.0,
        artifact="0" * 64,
    )
    write_records(out, [measured], node="knn", params={}, inputs={}, started=0.0)
    return out


def _folder(out: Path) -> None:
    out.mkdir()
    (out / "precious").write_text("mine", encoding="utf-8")


def _other_manifest(out: Path) -> None:
    out.mkdir()
    (out / "manifest.json").write_text('{"name": "a web page"}', encoding="utf-8")


def _artifact_and_more(out: Path) -> None:
    artifact(out)
    (out / "notes.txt").write_text("mine", encoding="utf-8")


def _artifact_and_a_folder(out: Path) -> None:
    artifact(out)
    _folder(out / "sub")


def _linked(out: Path) -> None:
    artifact(out.with_name("elsewhere"))
    out.symlink_to("elsewhere")


def _dangling(out: Path) -> None:
    out.symlink_to("nowhere")


STANDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder with a file": (_folder, "a folder that is not an artifact"),
    "a folder with a folder": (lambda out: (out / "sub").mkdir(parents=True), "not an artifact"),
    "a manifest of something else": (_other_manifest, "not a manifest"),
    "an artifact of another step": (
        lambda out: artifact(out, node="pretrain"),
        "an artifact of pretrain",
    ),
    "an artifact with a user's file": (_artifact_and_more, "with a foreign file: notes.txt"),
    "an artifact with a user's folder": (
        _artifact_and_a_folder,
        "with a foreign file: sub/precious",
    ),
    "a file": (lambda out: out.write_text("mine", encoding="utf-8"), "a file"),
    "an empty file": (lambda out: out.touch(), "a file"),
    "a record": (record, "a file"),
    "a link to an artifact": (_linked, "a link to"),
    "a link to nothing": (_dangling, "a link to"),
    "a FIFO": (os.mkfifo, "a file"),
}


def _all(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("stands", STANDS)
def test_what_is_no_artifact_is_not_replaced(stands: str, tmp_path: Path) -> None:
    make, said = STANDS[stands]
    out = tmp_path / "out"
    make(out)
    before = _all(tmp_path)
    with pytest.raises(UserError, match=said) as caught:
        check_places(Namespace(out=out), "prepare")
    assert str(out) in str(caught.value)
    assert "remedy:" in str(caught.value)
    with pytest.raises(UserError, match=said):
        artifact(out)
    assert _all(tmp_path) == before


@pytest.mark.parametrize("stands", STANDS)
def test_what_is_no_record_is_not_replaced(stands: str, tmp_path: Path) -> None:
    make, _ = STANDS[stands]
    out = tmp_path / "out"
    make(out)
    before = _all(tmp_path)
    if stands == "a record":
        record(out, 2.0)
        assert read_records(out)[0][0].value == 2.0
        return
    with pytest.raises(UserError):
        check_places(Namespace(out=out), "knn", record=True)
    with pytest.raises(UserError):
        record(out)
    assert _all(tmp_path) == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/", "a/.", "a/..", "a.", "a\n", "a\x00", "/"])
def test_names_that_are_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d.yaml").write_text(SHAPES, encoding="utf-8")
    with pytest.raises(UserError, match=r"--out .*not the name of a result"):
        place(name)
    with pytest.raises(UserError, match=r"--out .*not the name of a result"):
        prepare(["--dataset", "d.yaml", "--out", name])
    assert [path.name for path in tmp_path.iterdir()] == ["d.yaml"]


def test_places_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "above/here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    data = artifact(here / "results/data")
    Path("file").touch()
    for out, said in {
        "../here": "the working folder",
        "../../above": "the working folder",
        str(here): "the working folder",
        "results": "is or contains",
        "results/data": "is or contains",
        "results/../results/data": "is or contains",
        "results/data/out": "which this step reads",
        "file/out": "which is a file",
        ".scratch/out": "the scratch folder",
        ".scratch": "the scratch folder",
    }.items():
        for record_file in (False, True):
            options = Namespace(out=Path(out), data=data, checkpoint=[Path("x")], seed=0)
            with pytest.raises(UserError, match=said):
                check_places(options, "prepare", record=record_file)
    pictures = Namespace(out=Path("a/b.json"), pictures=Path("a"), data=data)
    with pytest.raises(UserError, match="which this step reads"):
        check_places(pictures, "detect", record=True)
    assert _all(here).keys() == {
        *("file", "results", "results/data", "results/data/content.txt"),
        "results/data/manifest.json",
    }


def test_what_may_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_artifact(out, "prepare")
    out.mkdir()  # as engines do
    check_artifact(out, "prepare")
    artifact(out)
    (out / ".snakemake_timestamp").touch()
    check_artifact(out, "prepare")
    artifact(out, "new")
    assert (out / "content.txt").read_text(encoding="utf-8") == "new"
    assert not (out / ".snakemake_timestamp").exists()
    check_record(tmp_path / "r.json")
    record(tmp_path / "r.json")
    check_record(tmp_path / "r.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "r.json"]


def test_a_place_that_was_taken_while_the_step_worked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with (
        pytest.raises(UserError, match="a folder that is not an artifact"),
        publish(out, node="prepare", params={}, inputs={}),
    ):
        _folder(out)
    assert [path.name for path in out.iterdir()] == ["precious"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_every_step_refuses_before_it_works(
    step: Callable[..., subprocess.CompletedProcess[str]], scenery: Scenery
) -> None:
    """Of what else is asked nothing is there: the place is looked at first."""
    _folder(scenery.root / "precious")
    other = {"--protocol": "x.yaml", "--backbone": "b", "--data": "d", "--features": "f"}
    options: dict[str, dict[str, str]] = {
        "prepare": {"--dataset": "x.yaml"},
        "tokenizer": {"--tokenizer": "x.yaml", "--data": "d", "--seed": "0"},
        "pretrain": {"--recipe": "x.yaml", "--backbone": "b", "--data": "d", "--seed": "0"},
        "import": {"--format": "mae", "--checkpoint": "x.pth"},
        "diagnose": {"--backbone": "b", "--data": "d"},
        "knn": other,
        "linear": other,
        "layout": {**other, "--pictures": "p"},
        "export": {"--backbone": "b", "--to": "timm"},
    }
    options["layout"].pop("--features")
    without = ("finetune", "geometry", "detect", "segment", "zeroshot", "retrieval")
    for node in ("features", *without, "decode", "bias"):
        options[node] = {name: value for name, value in other.items() if name != "--features"}
    for node in ("prepare", "knn", "detect"):  # as processes: the others in one, below
        words = [word for pair in options[node].items() for word in pair]
        done = step(node, *words, "--out", "precious")
        (line,) = done.stderr.splitlines()
        assert (done.returncode, line[:16]) == (2, "error: precious:"), done.stderr
    script = (
        "import importlib, json, sys\n"
        "for node, words in json.load(open('options.json', encoding='utf-8')).items():\n"
        "    sys.argv = ['x', *words]\n"
        "    try:\n"
        "        importlib.import_module(f'steps.{node}').main()\n"
        "    except Exception as error:\n"
        "        print(f'{node}: {error}')\n"
    )
    words = {
        node: [*(word for pair in given.items() for word in pair), "--out", "precious"]
        for node, given in options.items()
    }
    (scenery.root / "options.json").write_text(json.dumps(words), encoding="utf-8")
    done = subprocess.run(
        [command("x")[0], "-c", script],
        cwd=scenery.root,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    said = done.stdout.splitlines()
    assert len(said) == len(options)
    for line in said:
        assert line.split(": ")[1] == "precious", line
    assert _all(scenery.root / "precious") == {"precious": b"mine"}


def _heed() -> None:
    """Take signals as a terminal's command does: nohup and & leave some of them ignored."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.slow
def test_the_draft_of_a_killed_step_goes_when_it_starts_again(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(SHAPES, encoding="utf-8")
    arguments = ("--dataset", "d.yaml", "--out", "results/out")
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        older = set(tmp_path.glob("results/.out.*"))
        process = subprocess.Popen(
            command("steps.prepare", *arguments),
            cwd=tmp_path,
            env=environment(),
            stderr=subprocess.DEVNULL,
            preexec_fn=_heed,
        )
        deadline = time.monotonic() + 60
        while not {path.parents[1] for path in tmp_path.glob(ARROW)} - older:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert not older & set(tmp_path.glob("results/.out.*")), "an older draft stayed"
        process.send_signal(number)
        process.wait(60)
        left = list(tmp_path.glob("results/.*"))
        assert len(left) == (number == signal.SIGKILL), (number, left)


def test_the_draft_of_a_running_step_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with draft_of(out) as draft:
        draft.mkdir()
        sweep(out)
        assert draft.is_dir()
        artifact(out, "of another process meanwhile")
        assert draft.is_dir()
        # A lock counts for a process, and more than one may look.
        looking = subprocess.run(
            [
                *command("x")[:1],
                "-c",
                "from steps.artifacts.publish import sweep; from pathlib import Path; "
                f"sweep(Path({str(out)!r}))",
            ],
            env=environment(),
            check=True,
        )
        assert looking.returncode == 0
        assert draft.is_dir()
    assert not draft.exists()


def test_what_only_looks_like_a_draft_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    kept = (".out.notes", ".out.abcdefgh", ".out.x.abcdefgh", ".outabcdefgh", "out.abcdefgh")
    for name in kept:
        _folder(tmp_path / name)
    sweep(out)
    artifact(out)
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "out"}


def _forked(work: Callable[[], object]) -> int:
    """A process that ends after its work: an error there must not go on as a second pytest."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def _end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    out = artifact(tmp_path / "out", "old")
    digest = read_manifest(out).digest

    def killed_between() -> None:
        rename = Path.rename

        def killed(path: Path, target: Path) -> Path:
            if path == out:
                rename(path, target)
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        Path.rename = killed  # type: ignore[assignment, method-assign]
        artifact(out, "new")

    assert _end(_forked(killed_between)) == -signal.SIGKILL
    assert not out.exists()
    check_places(Namespace(out=out), "prepare")
    assert read_manifest(out).digest == digest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_processes_that_replace_one_artifact_at_once(tmp_path: Path) -> None:
    out = artifact(tmp_path / "out", "first")

    def replaced(name: str) -> None:
        for _ in range(15):
            artifact(out, name)

    children = [_forked(partial(replaced, name)) for name in "abc"]
    assert [_end(child) for child in children] == [0, 0, 0]
    verify(out)
    assert (out / "content.txt").read_text(encoding="utf-8") in ("a", "b", "c")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("there", [False, True])
def test_what_another_process_replaces_is_looked_at_again(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two renames a result is absent: that is no error of who looks just then."""
    out = artifact(tmp_path / "out")
    looked = []

    def replaced(path: Path, pattern: str) -> Iterator[Path]:
        looked.append(path)
        if len(looked) == 1:
            out.rename(tmp_path / "away")
            if there:
                artifact(out, "new")
            raise FileNotFoundError(out)
        return iter([])

    monkeypatch.setattr(Path, "rglob", replaced)
    check_artifact(out, "prepare")
    assert looked


def test_a_second_rename_that_fails_puts_the_old_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = artifact(tmp_path / "out", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        artifact(out, "new")
    assert (out / "content.txt").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "page.md"
    write_whole(file, b"old")

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["steps.artifacts.publish"], "sync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, b"new")
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


@pytest.mark.parametrize(("mask", "folder", "file"), [(0o077, 0o700, 0o600), (0o022, 0o755, 0o644)])
def test_the_umask_is_kept(mask: int, folder: int, file: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        out = artifact(tmp_path / "out")
        written = record(tmp_path / "r.json")
    finally:
        os.umask(before)
    assert out.stat().st_mode & 0o777 == folder
    assert {path.stat().st_mode & 0o777 for path in (*out.iterdir(), written)} == {file}


def test_put_of_a_folder_over_nothing_and_over_an_empty_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        with draft_of(out) as draft:
            draft.mkdir()
            put(draft, out)
        assert out.is_dir()


def _page(out: Path) -> None:
    out.mkdir()
    (out / "README.md").write_text("mine", encoding="utf-8")


def _pictures(out: Path) -> None:
    (out / "pictures").mkdir(parents=True)
    (out / "pictures/me.jpg").write_bytes(b"mine")


def _other_report(out: Path) -> None:
    _page(out)
    (out / "report.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    "stands", [_folder, _page, _pictures, _other_report, lambda out: out.touch(), artifact]
)
def test_a_report_replaces_only_a_report(
    stands: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    stands(out)
    before = _all(tmp_path)
    words = ["--experiment", "none.yaml", "--results", "results", "--out", str(out)]
    with pytest.raises(UserError, match=rf"{out}: (a file|no report, and it holds)"):
        report(words)
    assert _all(tmp_path) == before


def test_a_report_replaces_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = build(tmp_path, methods=("random", "mae"), tasks=("knn",))
    out = tmp_path / "reports/a"
    words = ["--experiment", str(made.params), "--results", str(made.results), "--out", str(out)]
    report(words)
    whole = _all(out)
    report(words)
    for name in ("report.json", "README.md"):  # as engines do, which promise themselves these
        (out / name).unlink()
    report(words)
    assert _all(out) == whole
