"""Kill whole engines at random moments, give the same command again, and compare the results.

    python -m tests.faults.kills --kills 200 --out benchmarks/results/2026-11-27-kills.md

Experiments at the size of seconds are run once, under Snakemake, and never stopped. Then, for
each kind of node and each engine in turn, the result of a node is removed, the engine is started
for it and killed with SIGKILL, with all that it started, at a random moment of the node's step; up
to three times in a row, and then the same command runs to its end. What it made must have the
digest of the run that was never stopped, and no draft and no scratch folder may be left. It goes
on until every kind of node was struck under both engines, and as often as was asked in all.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steps.artifacts import read_records, verify
from steps.artifacts.manifest import code_version, digest_file, digest_value
from steps.params.checks import load_plan
from steps.params.load import read_yaml
from tests.processes import REPOSITORY, environment
from tests.project import BIN, LAST, Project, measured, record, tiny
from tests.scenery import BACKBONE, Scenery
from tests.unit.models.official.test_reading import official
from workflow.dvc import Stages

ENGINES = ("snakemake", "dvc")
EXPERIMENTS = ("quickstart", "more", "official", "within")
MOST = 3
"""Kills in a row."""
CLIP = LAST.replace("/mae/", "/clip/")
KEPT = LAST.replace("/mae/", "/clip-e1/")
IMPORTED = "results/imported/vit_imported/mae_official/seed0/backbone"


@dataclass(frozen=True)
class Target:
    """A node to kill: what it makes, in the experiment that asks for it."""

    node: str
    experiment: str
    outs: tuple[str, ...]


def targets() -> list[Target]:
    """One of each kind of node, last in the DAG first: what a node makes anew is then no input of
    one that is still to come."""

    def task(name: str, protocol: str, *more: str) -> Target:
        out = record(LAST, name, protocol)
        drawn = (out.removesuffix(".json") for _ in more)
        return Target(name, "quickstart", (*measured(LAST, name, protocol), *drawn))

    def text(name: str, protocol: str) -> Target:
        out = f"{CLIP}/{name}/shapes/{protocol}"
        return Target(name, "more", (f"{out}.json", f"{out}.parquet"))

    page = ("README.md", "results.csv", "records.jsonl", "curves.csv", "report.json")
    pages = (*page, "pictures.json", "ranking.png", "curves.png", "pictures")
    pages += ("decisions.parquet", "images.parquet")
    return [
        Target("report", "quickstart", tuple(f"reports/quickstart/{name}" for name in pages)),
        text("zeroshot", "zeroshot_shapes"),
        text("retrieval", "retrieval"),
        task("knn", "knn"),
        task("linear", "linear"),
        task("finetune", "finetune"),
        task("geometry", "geometry"),
        task("segment", "segment"),
        task("layout", "layout", "pictures"),
        task("detect", "mask_rcnn_small", "pictures"),
        Target("diagnose", "quickstart", (f"{LAST}/diagnose/shapes",)),
        Target("features", "quickstart", (f"{LAST}/features/shapes/features",)),
        Target("import", "official", (IMPORTED,)),
        Target("kept", "more", (f"{KEPT}/backbone",)),
        Target("pretrain", "quickstart", (f"{LAST}/backbone",)),
        Target("tokenizer", "more", ("results/tokenizers/shapes/test/dalle/seed0/tokenizer",)),
        Target("budget", "within", ("results/budgets/within",)),
        Target("prepare", "quickstart", ("results/data/shapes",)),
    ]


class Kills:
    """A project with results, whose nodes are killed."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.random = root, random.Random(seed)
        scenery = Scenery(root)
        self.project: Project = tiny(scenery)
        experiment = read_yaml(scenery.params / "experiments/quickstart.yaml")
        scenery.write("experiments/quickstart.yaml", {**experiment, "methods": ["mae"]})
        size = {"patch_size": 4, "model_args": {**BACKBONE["model_args"], "num_heads": 3}}
        scenery.write("backbones/vit_imported.yaml", {**BACKBONE, **size})
        (root / "data/official").mkdir(parents=True)
        torch.save(official("mae"), root / "data/official/mae.pth")
        imported = {
            "name": "mae_official",
            "format": "mae",
            "checkpoint": "official/mae.pth",
            "backbone": "vit_imported",
        }
        more: dict[str, Any] = {
            **experiment,
            "methods": ["clip", "beit"],
            "tasks": {"knn": ["knn"], "zeroshot": ["zeroshot_shapes"], "retrieval": ["retrieval"]},
            "pictures": [],
        }
        scenery.write("experiments/more.yaml", more)
        scenery.write("experiments/within.yaml", {**more, "budget": {"images": 600}})
        more |= {
            "methods": [{"imported": imported}],
            "backbones": ["vit_imported"],
            "tasks": {"knn": ["knn"]},
        }
        scenery.write("experiments/official.yaml", more)
        # Checkpoints at every step of what trains, some seconds of it, and no lone log lines.
        scenery.recipe("mae", epochs=4, checkpoint_seconds=1e-9)
        scenery.tokenizer("dalle", epochs=4)
        scenery.recipe("clip", epochs=2, keep_epochs=[1])
        self.written = ""
        self.seconds: dict[str, float] = {}
        self.expected: dict[str, dict[str, str]] = {}

    def whole(self) -> None:
        """The run that is never stopped."""
        self._snakemake()
        for target in targets():
            self.expected[target.node] = self.found(target)
            self.seconds[target.node] = 3.0
            for out in target.outs:
                _copy(self.root / out, self.root / "kept" / out)

    def found(self, target: Target) -> dict[str, str]:
        """The digest of each output: of what does not depend on the clock."""
        return {out: _digest(self.root / out) for out in target.outs}

    def settle(self, engine: str) -> None:
        """Hand the results to an engine: it has nothing to do."""
        if engine == "snakemake":
            self._snakemake("--touch")
            return
        for experiment in EXPERIMENTS:
            self.project.dvc(experiment)
            self.written = experiment
            stages = [self._stage(each) for each in targets() if each.experiment == experiment]
            self.project.run("dvc", "commit", "--force", "--quiet", *stages)

    def _snakemake(self, *options: str) -> None:
        """Make the targets, and what stands behind them."""
        for experiment in EXPERIMENTS:
            outs = [out for each in targets() if each.experiment == experiment for out in each.outs]
            of = ("--config", f"experiment={experiment}")
            self.project.snakemake(*outs[1:], *options, *of, target=outs[0])

    def _stage(self, target: Target) -> str:
        plan = load_plan(target.experiment, self.root / "params")
        for stage in Stages(plan).all():
            if target.outs[0] in (*stage.results, *stage.committed):
                return stage.name
        raise ValueError(f"no stage of {target}")

    def command(self, engine: str, target: Target) -> list[str]:
        """The engine's command for a node."""
        if engine == "dvc":
            if self.written != target.experiment:
                self.project.dvc(target.experiment)
                self.written = target.experiment
            return ["dvc", "repro", "--single-item", "--force", self._stage(target)]
        return [
            *("snakemake", "--snakefile", str(REPOSITORY / "workflow/Snakefile")),
            *("--profile", str(REPOSITORY / "workflow/profiles/default"), "--cores", "1"),
            *(*target.outs, "--config", f"experiment={target.experiment}"),
        ]

    def round(self, engine: str, target: Target, kills: int) -> int:
        """Kill a node so many times, let it end, compare; how many kills struck its step.

        Then the first run's results are put back: a report has the seconds of what it reports on,
        which no second run repeats.
        """
        for out in target.outs:
            _remove(self.root / out)
        command = self.command(engine, target)
        struck = sum(self._kill(command, target.node) for _ in range(kills))
        self._finish(command, target.node)
        found = self.found(target)
        if found != self.expected[target.node]:
            raise SystemExit(f"{engine}, {target.node}: {found}, not {self.expected[target.node]}")
        left = [*self.root.glob("results/**/.*.????????"), *self.root.glob(".scratch/*")]
        left += self.root.glob("reports/**/.*.????????")
        if left:
            raise SystemExit(f"{engine}, {target.node}: left {left}")
        for out in target.outs:
            _remove(self.root / out)
            _copy(self.root / "kept" / out, self.root / out)
        return struck

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        variables = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=environment(**variables),
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "engine.log").open("wb"),
            start_new_session=True,
        )

    def _kill(self, command: list[str], node: str) -> bool:
        """Kill the engine at a random moment of a node's step; False where that ended before."""
        engine = self._start(command)
        while engine.poll() is None and not _runs(engine.pid, node):
            time.sleep(0.01)
        until = time.monotonic() + self.random.uniform(0, self.seconds[node])
        while engine.poll() is None and time.monotonic() < until and _runs(engine.pid, node):
            time.sleep(0.005)
        struck = _runs(engine.pid, node)
        _kill_session(engine.pid)
        engine.wait()
        return struck

    def _finish(self, command: list[str], node: str) -> None:
        """Run a command to its end, and learn how long the node's step takes."""
        engine, times = self._start(command), []
        while engine.poll() is None:
            if _runs(engine.pid, node):
                times.append(time.monotonic())
            time.sleep(0.02)
        if engine.returncode != 0:
            said = (self.root / "engine.log").read_text(encoding="utf-8", errors="replace")
            raise SystemExit(f"{' '.join(command)}:\n{said}")
        if times:
            self.seconds[node] = times[-1] - times[0]


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _copy(path: Path, to: Path) -> None:
    """Copy a file or a folder with its times, by which Snakemake tells what is up to date."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, to)
    else:
        shutil.copy2(path, to)


def _digest(path: Path) -> str:
    if (path / "manifest.json").is_file():
        return verify(path).digest
    if path.suffix == ".json" and path.parent.parent.parent.name != "reports":
        try:
            records, _ = read_records(path)
        except Exception:
            return digest_file(path)
        steady = [each.model_dump(exclude={"device_seconds"}) for each in records]
        return digest_value(steady)
    if path.is_dir():
        files = [each for each in sorted(path.iterdir()) if each.name != ".snakemake_timestamp"]
        return digest_value({each.name: digest_file(each) for each in files})
    return digest_file(path)


def _session(leader: int) -> Iterator[tuple[int, bytes]]:
    """Processes of a session, with their command lines."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int(
                (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[3]
            )
            line = (folder / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
        if session == leader and line:
            yield int(folder.name), line


def _runs(leader: int, node: str) -> bool:
    """Whether a step of a kind runs in a session."""
    words = f"\0-m\0steps.{node}\0".encode()
    return any(words in line for _, line in _session(leader))


def _kill_session(leader: int) -> None:
    """Kill all processes of a session: all at once, then any that had a group of its own."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
    for process, _ in list(_session(leader)):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def table(struck: Counter[tuple[str, str]], rounds: Counter[tuple[str, str]]) -> list[str]:
    """Kills by node and engine; every round that ended has passed."""
    lines = [
        "| node | kills, Snakemake | ended alike | kills, DVC | ended alike |",
        "| --- | --- | --- | --- | --- |",
    ]
    for target in targets():
        cells = []
        for engine in ENGINES:
            key = (target.node, engine)
            cells += [str(struck[key]), f"{rounds[key]} of {rounds[key]}"]
        lines.append(f"| {target.node} | {' | '.join(cells)} |")
    return lines


def figures(
    struck: Counter[tuple[str, str]], rounds: Counter[tuple[str, str]], seconds: float
) -> str:
    """A page of what has been killed so far, and of what became of it."""
    code = code_version()
    lines = [
        f"# kills, {datetime.datetime.now(datetime.UTC).date().isoformat()}",
        "",
        f"- commit: {code.commit}{' with uncommitted changes' if code.dirty else ''}",
        f"- hardware: {len(os.sched_getaffinity(0))} CPU cores",
        f"- command: python -m tests.faults.kills {' '.join(sys.argv[1:])}",
        f"- {struck.total()} kills with SIGKILL of an engine and all its processes, each while the "
        f"node's step ran; {rounds.total()} times the same command then ran to its end, and "
        f"{rounds.total()} times with the digests of a run that was never stopped, no draft left "
        f"and no scratch folder; {seconds / 60:.0f} minutes",
        "",
        *table(struck, rounds),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="at least so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", nargs="+", help="only these kinds")
    parser.add_argument("--out", type=Path, help="a markdown file for the figures, so far")
    options = parser.parse_args()
    chosen = [each for each in targets() if options.nodes is None or each.node in options.nodes]
    struck: Counter[tuple[str, str]] = Counter()
    rounds: Counter[tuple[str, str]] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kills = Kills(Path(folder), options.seed)
        kills.whole()
        print(f"the whole run: {time.monotonic() - started:.0f} s", flush=True)
        pairs = [(each.node, engine) for engine in ENGINES for each in chosen]
        while struck.total() < options.kills or not all(struck[pair] for pair in pairs):
            for engine in ENGINES:
                kills.settle(engine)
                for target in chosen:
                    key = (target.node, engine)
                    if struck.total() >= options.kills and struck[key]:
                        continue
                    struck[key] += kills.round(engine, target, kills.random.randint(1, MOST))
                    rounds[key] += 1
                    print(f"{engine} {target.node}: {struck[key]} kills", flush=True)
                    if options.out is not None:
                        text = figures(struck, rounds, time.monotonic() - started)
                        options.out.write_text(text, encoding="utf-8")
    print(figures(struck, rounds, time.monotonic() - started))


if __name__ == "__main__":
    main()
