"""Write the params of an experiment on your own images.

    python -m workflow.new mine data/mine
    python -m workflow.new smears data/smears/annotations.json data/smears/images
    python -m workflow.new scans data/scans --format folder
    python -m workflow.new cells data/photos data/crops/labels.csv

It looks at what lies at the paths: class folders, images without labels, a .txt list of images, a
.csv table of images and labels, Hugging Face's parquet files, WebDataset's tar files, COCO's JSON
with its images. It writes params/datasets/NAME.yaml, also NAME_labels.yaml for labels beside images
without, and NAME_boxes.yaml for boxes, and params/experiments/NAME.yaml with its reasons, and
prints the command that runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from steps.command import UserError, run_step
from steps.data.sources.source import ENVIRONMENT
from steps.params.base import Count
from steps.params.checks import load_plan
from steps.params.load import option
from steps.params.names import NAME_RULE, is_name
from steps.params.plan import ROOT, Plan
from workflow.estimate import CORES, Size, estimated_seconds, in_words
from workflow.proposal import Proposal, dataset_text, experiment_text, own_sets, propose
from workflow.readings import FORMATS, read_paths
from workflow.table_files import Columns

_ENDINGS = ("", "_labels", "_boxes", "_masks")
"""Ends of the names of an experiment's sets."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``python -m workflow.new``."""
    about, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m workflow.new",
        description=about,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="of the experiment and its set")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders and files of images")
    parser.add_argument(
        "--format", choices=FORMATS, help="the reading, where a path can be read in two ways"
    )
    parser.add_argument(
        "--label-column",
        action="append",
        default=[],
        help="the column of a table that holds the labels; given several times, columns of 0 and 1 "
        "that are labels each",
    )
    parser.add_argument("--image-column", help="the column of the images, where several name some")
    parser.add_argument(
        "--tiles",
        type=option(Count),
        metavar="SIDE",
        help="cut unlabelled images into squares of so many pixels; else they are shrunk whole",
    )
    parser.add_argument("--regime", help="folder of recipes; chosen by device and images")
    parser.add_argument("--backbone", help="params/backbones/<backbone>.yaml; the regime's own")
    parser.add_argument("--params", type=Path, default=ROOT, help="the params folder")
    options = parser.parse_args(arguments)
    files = _files(options.name, options.params)
    columns = Columns(options.label_column, options.image_column)
    sets = own_sets(read_paths(options.paths, options.format, columns))
    proposal = propose(
        options.name,
        sets,
        gpu_name(),
        options.regime,
        options.backbone,
        options.params,
        options.tiles,
    )
    print(write(proposal, files, options.params, _command(options)), end="")


def _command(options: argparse.Namespace) -> str:
    """The command line, for the first comment of what it writes."""
    words = [options.name, *options.paths]
    for key in ("format", "label_column", "image_column", "tiles", "regime", "backbone"):
        value = getattr(options, key)
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                words += [f"--{key.replace('_', '-')}", str(each)]
    return shlex.join(["python", "-m", "workflow.new", *words])


def _files(name: str, root: Path) -> dict[str, Path]:
    """The files that may be written: of each set by its name, and of the experiment by "".

    Raises:
        UserError: the name is none, there is no params folder, or a file exists.
    """
    if not is_name(f"{name}{max(_ENDINGS, key=len)}"):
        raise UserError(
            "NAME", f"{name[:80]!a}", allowed=NAME_RULE, remedy="give another, of 57 characters"
        )
    if not (root / "recipes").is_dir():
        raise UserError(
            f"--params {root}",
            "no folder of params",
            allowed="params/ of this project",
            remedy="run the command in the project's folder",
        )
    files = {f"{name}{end}": root / f"datasets/{name}{end}.yaml" for end in _ENDINGS}
    files[""] = root / f"experiments/{name}.yaml"
    for path in files.values():
        if os.path.lexists(path):
            raise _exists(path)
    return files


def _exists(path: Path) -> UserError:
    return UserError(
        str(path),
        "exists, and nothing is overwritten",
        allowed="a NAME that no params file has",
        remedy="choose another NAME, or remove the file",
    )


def gpu_name() -> str | None:
    """Name of the first GPU that torch can use; None: there is none."""
    # Importing torch takes seconds, and tells nothing where no driver is.
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        return None
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def write(proposal: Proposal, files: dict[str, Path], root: Path, command: str) -> str:
    """Write the files of a proposal, all of them or none, once they make a plan.

    Args:
        proposal: the experiment.
        files: their paths, as ``_files`` gives them.
        root: the params folder.
        command: the command line, for their first comment.

    Returns:
        Lines for the user: the files, the time, the command to run.

    Raises:
        UserError: the plan refuses them, or a file exists by now.
    """
    name, sets = proposal.name, proposal.sets
    run = _run(name, root)
    named = sets.named(name)
    texts = {files[key]: dataset_text(each, command) for key, each in named.items()}
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, "params")
        shutil.copytree(root, trial)
        for path, text in texts.items():
            (trial / path.relative_to(root)).write_text(text, encoding="utf-8")
        draft = trial / f"experiments/{name}.yaml"
        draft.parent.mkdir(exist_ok=True)
        draft.write_text(experiment_text(proposal, command, run, ""), encoding="utf-8")
        plan = _checked(name, trial, root)
        sizes = {
            key: Size(each.train, each.val, each.decode_seconds) for key, each in named.items()
        }
        time = _time(plan, sizes)
    texts[files[""]] = experiment_text(proposal, command, run, time)
    _place(texts)
    lines = [
        f"{path}: {each.words}; {each.train:,} images to train, {each.val:,} to validate"
        for path, each in zip(texts, named.values(), strict=False)
    ]
    methods, tasks = ", ".join(proposal.content["methods"]), ", ".join(proposal.content["tasks"])
    lines.append(f"{files['']}: {methods} on {proposal.backbone}; {tasks}")
    return "\n".join([*lines, time, run, ""])


def _run(name: str, root: Path) -> str:
    """The command that runs the experiment, from any shell."""
    settings = {"experiment": name}
    if root != ROOT:
        settings["params"] = str(root)
    if data_root := os.environ.get(ENVIRONMENT):
        settings["data_root"] = data_root
    # Snakemake reads the values as YAML, and takes 123 for a number.
    values = {
        key: value if isinstance(yaml.safe_load(value), str) else json.dumps(value)
        for key, value in settings.items()
    }
    words = [shlex.quote(f"{key}={value}") for key, value in values.items()]
    return f"uv run snakemake report --config {' '.join(words)}"


def _checked(name: str, trial: Path, root: Path) -> Plan:
    """The plan of the drafts; its errors name the files that would be written."""
    try:
        return load_plan(name, trial)
    except UserError as error:
        line = re.sub(re.escape(str(trial)), str(root), str(error))
        raise UserError.of(line) from error


def _time(plan: Plan, sizes: dict[str, Size]) -> str:
    """The estimated time and its ground."""
    seconds = estimated_seconds(plan, sizes)
    if seconds is None:
        return "The time is not estimated: these recipes were not measured for the quickstart."
    return (
        f"About {in_words(seconds)} on {CORES} CPU cores, by the quickstart's seconds per image of "
        "each recipe and task, and the time to decode some of these images."
    )


def _place(texts: dict[Path, str]) -> None:
    """Write every file, or none; none that exists is replaced."""
    placed: list[Path] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                with open(handle, "w", encoding="utf-8") as file:
                    file.write(text)
                os.chmod(draft, 0o644)
                os.link(draft, path)  # Unlike a rename, it fails if the path exists.
                placed.append(path)
            finally:
                os.unlink(draft)
    except BaseException as error:
        for path in placed:
            with suppress(OSError):
                path.unlink()
        if isinstance(error, FileExistsError):
            raise _exists(Path(str(error.filename2 or error.filename))) from error
        raise


if __name__ == "__main__":
    run_step(main)
