"""Proof of value: what a change of code that should change no behaviour must leave as it is.

    python -m tests.proof            # compare with tests/proof.json, and say each difference
    python -m tests.proof --write    # record: in the commit that means to change something

It holds three things: the options of every step with defaults and choices; the nodes of every
committed experiment under Snakemake and under DVC; the metrics and digests that the steps give at
the size of seconds, on one thread. Digests hold on one kind of machine with one set of libraries:
elsewhere only metrics are compared, to 1e-3, and that is said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from steps.artifacts import read_manifest, read_records
from steps.artifacts.manifest import digest_value
from tests.engines import dvc_nodes, snakemake_nodes
from tests.pipeline.runs import Run, run_all
from tests.processes import REPOSITORY, environment
from tests.project import PROTOCOLS, tiny
from tests.scenery import RECIPES, Scenery
from tests.unit.models.official.test_reading import official

FILE = Path(__file__).with_suffix(".json")
WHOLE = ("quickstart",)
"""Experiments whose nodes are kept one by one; of the others, their count and a digest."""
LIBRARIES = ("torch", "torchvision", "timm", "numpy", "pillow", "onedl-mmcv", "onedl-mmdetection")
TOLERANCE = 1e-3
"""Relative tolerance of a metric on another kind of machine."""


class _ParserError(Exception):
    """Holds the parser of a step, which ends where it would read its command line."""


def commands() -> dict[str, dict[str, Any]]:
    """Options of every step: what ``--help`` lists, with defaults and choices."""
    found = {}
    original = argparse.ArgumentParser.parse_args

    def capture(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> Any:
        raise _ParserError(parser)

    argparse.ArgumentParser.parse_args = capture  # type: ignore[assignment]
    try:
        for file in sorted((REPOSITORY / "steps").glob("[!_]*.py")):
            step: Any = importlib.import_module(f"steps.{file.stem}")
            try:
                step.main()
            except _ParserError as captured:
                found[file.stem] = _options(captured.args[0])
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
    return found


def _options(parser: argparse.ArgumentParser) -> dict[str, Any]:
    return {
        "/".join(action.option_strings) or action.dest: {
            "default": str(action.default),
            "choices": None if action.choices is None else [str(c) for c in action.choices],
            "required": action.required,
            "nargs": action.nargs,
            "type": getattr(action.type, "__name__", None),
        }
        for action in parser._actions
        if action.dest != "help"
    }


def nodes() -> dict[str, dict[str, Any]]:
    """Nodes of the committed experiments by engine."""
    found = {}
    for file in sorted((REPOSITORY / "params/experiments").glob("*.yaml")):
        found[file.stem] = {"snakemake": _listed(file.stem, snakemake_nodes(REPOSITORY, file.stem))}
    found["quickstart"]["dvc"] = _listed("quickstart", dvc_nodes(REPOSITORY))
    return found


def _listed(experiment: str, found: dict[str, Any]) -> dict[str, Any]:
    table = {
        command: {"inputs": sorted(node.inputs), "outputs": sorted(node.outputs)}
        for command, node in sorted(found.items())
    }
    listed: dict[str, Any] = {
        "counts": dict(sorted(Counter(command.split()[2] for command in table).items())),
        "digest": digest_value(table),
    }
    return {**listed, "nodes": table} if experiment in WHOLE else listed


def results(root: Path) -> dict[str, dict[str, Any]]:
    """Digests and metrics of every node at the size of seconds, on one thread."""
    scenery = Scenery(root)
    run_all(list(_runs(scenery)), root)
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((root / "out").iterdir()):
        if path.is_dir():
            manifest = read_manifest(path)
            found[path.name] = {"digest": manifest.digest, "facts": _steady(manifest.facts)}
        elif path.suffix == ".json":
            records, _ = read_records(path)
            found[path.stem] = {
                "digest": digest_value([_steady(record.model_dump()) for record in records]),
                "metrics": {record.metric: record.value for record in records},
            }
    return found


def _steady(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts that do not depend on the clock."""
    return {name: value for name, value in facts.items() if name != "device_seconds"}


def _runs(scenery: Scenery) -> Iterator[Run]:
    """Every step, each method and tokenizer, in an order in which inputs come first."""
    root = scenery.root
    tiny(scenery)
    out, params = root / "out", scenery.params

    def run(node: str, *arguments: object) -> Run:
        return Run(str(root), node, [str(argument) for argument in arguments])

    for name in ("shapes", "shapes_scenes"):
        file = params / f"datasets/{name}.yaml"
        yield run("prepare", "--dataset", file, "--out", out / name)
    shapes, scenes = ("--data", out / "shapes"), ("--data", out / "shapes_scenes")

    def pretrained(name: str, *options: object) -> Run:
        backbone = ("--backbone", params / "backbones/vit_test.yaml")
        recipe = ("--recipe", params / f"recipes/test/{name}.yaml", *backbone)
        return run("pretrain", *recipe, *shapes, *options, "--seed", 0, "--out", out / name)

    def tokenizer(name: str, *options: object) -> Run:
        file = ("--tokenizer", params / f"tokenizers/test/{name}.yaml")
        return run("tokenizer", *file, *shapes, *options, "--seed", 0, "--out", out / name)

    yield pretrained("random")
    yield tokenizer("dalle")
    yield tokenizer("vqkd", "--teacher", out / "random")
    needs: dict[str, tuple[object, ...]] = {
        "dino_distilled": ("--teacher", out / "dino"),
        "beit": ("--tokenizer", out / "dalle"),
        "beit2": ("--tokenizer", out / "vqkd"),
    }
    for name in sorted(set(RECIPES) - {"random"}, key=lambda name: (name in needs, name)):
        yield pretrained(name, *needs.get(name, ()))
    torch.save(official("mae"), root / "mae.pth")
    checkpoint = ("--checkpoint", root / "mae.pth", "--heads", 3)
    yield run("import", "--format", "mae", *checkpoint, "--out", out / "official")

    features, mae = out / "features", ("--backbone", out / "mae")
    protocol = ("--protocol", params / "protocols/features.yaml")
    yield run("features", *protocol, *mae, *shapes, "--out", features)
    files = dict.fromkeys(("knn", "linear"), ("--features", features, *shapes))
    drawn = {"detect", "layout"}
    for task, names in PROTOCOLS.items():
        for name in names:
            given = files.get(task, scenes if task in {*drawn, "segment"} else shapes)
            if task in drawn:
                given = (*given, "--pictures", out / f"{task}-pictures")
            protocol = ("--protocol", params / f"protocols/{name}.yaml")
            yield run(task, *protocol, *mae, *given, "--out", out / f"{task}-{name}.json")
    for task, name in (("zeroshot", "zeroshot_shapes"), ("retrieval", "retrieval")):
        given = ("--protocol", params / f"protocols/{name}.yaml", "--backbone", out / "clip")
        yield run(task, *given, *shapes, "--out", out / f"{task}.json")
    for name in ("mae", "droppos", "mp3", "beit", "beit2"):
        given = ("--backbone", out / name, *needs.get(name, ()), *shapes)
        yield run("diagnose", *given, "--out", out / f"diagnose-{name}")
    for name in ("dalle", "vqkd"):
        given = ("--tokenizer", out / name, *shapes)
        yield run("diagnose", *given, "--out", out / f"diagnose-{name}")


def machine() -> dict[str, str]:
    """Versions and hardware that the last bits of a float depend on."""
    from importlib import metadata

    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "architecture": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        **{name: metadata.version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def record() -> dict[str, Any]:
    """All that is held."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "machine": machine(),
            "commands": commands(),
            "nodes": nodes(),
            "results": results(Path(folder)),
        }


def differences(recorded: Any, found: Any, where: str = "", tolerance: float = 0.0) -> list[str]:
    """A line for each leaf that differs.

    Args:
        recorded: the committed value.
        found: the value now.
        where: the path of both.
        tolerance: of floats, relative.
    """
    if isinstance(recorded, dict) and isinstance(found, dict):
        lines = []
        for key in [*recorded, *(key for key in found if key not in recorded)]:
            path = f"{where}: {key}" if where else str(key)
            if key not in found:
                lines.append(f"{path}: gone")
            elif key not in recorded:
                lines.append(f"{path}: new")
            else:
                lines += differences(recorded[key], found[key], path, tolerance)
        return lines
    if tolerance and isinstance(recorded, float) and isinstance(found, float):
        close = abs(recorded - found) <= tolerance * max(1.0, abs(recorded), abs(found))
        return [] if close else [f"{where}: {recorded!r}, now {found!r}"]
    return [] if recorded == found else [f"{where}: {recorded!r}, now {found!r}"]


def compare(recorded: dict[str, Any], found: dict[str, Any]) -> tuple[list[str], str]:
    """Differences, and what was not compared, if anything."""
    other = differences(recorded["machine"], found["machine"])
    if not other:
        return differences(recorded, found), ""
    lines: list[str] = []
    for part in ("commands", "nodes"):
        lines += differences(recorded[part], found[part], part)
    lines += differences(
        _undigested(recorded["results"]), _undigested(found["results"]), "results", TOLERANCE
    )
    return lines, f"digests of results, since they are of another machine ({'; '.join(other)})"


def _undigested(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _undigested(value) for key, value in found.items() if key != "digest"}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"record in {FILE.name}")
    options = parser.parse_args()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        # Threads change the order of sums, and with it the last bits.
        again = [sys.executable, "-m", "tests.proof", *sys.argv[1:]]
        sys.exit(subprocess.run(again, env=environment(), check=False).returncode)
    found = record()
    if options.write:
        FILE.write_text(json.dumps(found, indent=1) + "\n")
        print(f"recorded in {FILE}")
        return
    lines, uncompared = compare(json.loads(FILE.read_text()), found)
    print(*lines, sep="\n")
    print(f"{len(lines)} differences" + (f"; not compared: {uncompared}" if uncompared else ""))
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
