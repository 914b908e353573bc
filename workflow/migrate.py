"""Move results of an earlier version, which lay under the name of their experiment.

    python -m workflow.migrate quickstart

A result is moved to its path of today if it is whole and made of the experiment's current params,
and of inputs that exist or were moved too. For every other result of the experiment it prints the
reason and the command that makes it.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from steps.artifacts import read_manifest, verify
from steps.artifacts.manifest import Manifest
from steps.artifacts.records import read_records
from steps.command import UserError, run_step
from steps.params.checks import load_plan
from steps.params.dag import Pretraining
from steps.params.paths import RESULTS, Paths
from steps.params.plan import ROOT, Plan
from workflow.dvc import Stage, Stages
from workflow.made import asked


class Migration:
    """Results of an experiment in an earlier layout, and their new paths."""

    def __init__(self, plan: Plan, old: Path) -> None:
        self.old = old
        self.stages = list(Stages(plan).all())
        self.params = {str(each.path): each.params for each in asked(plan)}
        self.rows = dict(self._rows(plan))

    def _rows(self, plan: Plan) -> Iterator[tuple[str, Path]]:
        """Folder of each row now and in the earlier layout."""
        paths = Paths(plan.experiment)
        for backbone, method, seed in plan.rows():
            folder = self.old / backbone / method / f"seed{seed}"
            yield paths.row(backbone, method, seed), folder
        for node in plan.needs:
            for seed in plan.experiment.seeds:
                if isinstance(node, Pretraining):
                    folder = self.old / node.backbone / node.recipe / f"seed{seed}"
                    yield paths.pretrained(node.backbone, node.recipe, seed), folder

    def before(self, path: str) -> Path | None:
        """Earlier path of a result; None if it had none of its own."""
        for row, folder in self.rows.items():
            if path.startswith(f"{row}/"):
                parts = path.removeprefix(f"{row}/").split("/")
                # The set, and the protocol of features, had no part in a path.
                return folder.joinpath(*(parts[:1] if parts[0] in _ONCE else (parts[0], parts[-1])))
        parts = path.split("/")
        if parts[1] == "tokenizers":
            name, seed, kind = parts[-3:]
            middle = (name, seed) if kind == "tokenizer" else (name, "diagnose", seed)
            return self.old.joinpath("tokenizers", *middle)
        return None

    def run(self) -> Iterator[tuple[str, str]]:
        """Move results that still hold; yield every result with its outcome."""
        for stage in self.stages:
            results = stage.results
            before = [self.before(path) for path in results]
            if not results or None in before:
                continue
            if all(Path(path).exists() for path in results):
                yield results[0], "there"
                continue
            if reason := self._reason(stage, results, [path for path in before if path]):
                yield results[0], f"{reason}: {stage.command}"
                continue
            for path, source in zip(results, before, strict=True):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                assert source is not None
                source.rename(path)
            yield results[0], "moved"

    def _reason(self, stage: Stage, results: list[str], before: list[Path]) -> str:
        """Reason that a stage's results are not moved; empty if they are."""
        for path, source in zip(results, before, strict=True):
            if source.suffix == ".parquet":
                return "measured before decisions were kept"
            if not source.exists():
                return f"no {source}"
            try:
                manifest = read_records(source)[1] if source.is_file() else verify(source)
            except UserError as error:
                return str(error)
            if path in self.params and self.params[path] != manifest.params:
                return "made by other params"
            if _other_file(stage, manifest):
                return "made of another official file"
            if reason := _inputs(stage, manifest):
                return reason
            name = manifest.facts.get("recipe", "")
            if path.endswith("/backbone") and name and f"/{name}/seed" not in path:
                return f"made under the name {name}"
        return ""


_ONCE = ("backbone", "features", "diagnose")
"""Results of which a row had one, for any dataset and protocol."""


def _other_file(stage: Stage, manifest: Manifest) -> bool:
    """True if the experiment names another official checkpoint."""
    if stage.step != "import":
        return False
    name = Path(str(stage.options["--official"])).name
    made = manifest.params
    return made.get("format") != stage.options["--format"] or name not in made.get("official", {})


def _inputs(stage: Stage, manifest: Manifest) -> str:
    """Inputs of a result that differ from those on disk."""
    for role, digest in manifest.inputs.items():
        if role not in stage.inputs:
            return f"made of a {role}, which it is not made of today"
        path = stage.inputs[role]
        try:
            found = read_manifest(Path(path)).digest
        except UserError:
            return f"its {role} {path} is not there"
        if found != digest:
            return f"made of another {role} than {path}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workflow.migrate", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("experiment", help="params/experiments/<experiment>.yaml")
    parser.add_argument("--params", type=Path, default=ROOT, help="the params folder")
    parser.add_argument("--results", type=Path, help="the old folder; results/<experiment>")
    options = parser.parse_args()
    migrate(load_plan(options.experiment, options.params), options.results)


def migrate(plan: Plan, old: Path | None = None) -> None:
    """Move results that still hold, and print one line per result.

    Raises:
        UserError: the folder does not have an earlier layout.
    """
    old = old or Path(RESULTS, plan.name)
    if not any(old.glob("*/*/seed*/*")):
        found = ", ".join(sorted(path.name for path in old.glob("*"))) or "nothing"
        raise UserError(
            str(old),
            f"holds {found}" if old.is_dir() else "no such folder",
            allowed="results of an earlier version: <backbone>/<recipe>/seed<k>/",
            remedy="name the folder with --results",
        )
    counts: Counter[str] = Counter()
    for path, became in Migration(plan, old).run():
        counts[became if became in ("moved", "there") else "to make anew"] += 1
        print(f"{path}: {became}")
    for folder in sorted((path for path in old.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    left = sorted(str(path) for path in old.rglob("*") if path.is_file())
    if left:
        print(f"{len(left)} files are left in {old}, which nothing reads any more")
    else:
        old.rmdir()


if __name__ == "__main__":
    run_step(main)
