"""An experiment with every params file that it names, read and checked together.

This is what "checked before any work" stands on: the Snakefile builds the plan of its experiment
when it is read, and each step checks the experiments that its own params file is part of, so that
a misspelt key in a fine-tuning protocol does not wait for the end of pretraining.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.base import Params
from steps.params.dataset import Dataset
from steps.params.detection import Detection
from steps.params.experiment import Experiment
from steps.params.load import load
from steps.params.protocols import KNN, Features, Finetune, Linear
from steps.params.recipe import Recipe
from steps.params.training import Training

ROOT = Path("params")
PROTOCOLS: dict[str, type[Params]] = {
    "features": Features,
    "knn": KNN,
    "linear": Linear,
    "finetune": Finetune,
    "detect": Detection,
}
"""The params model of each task's protocol."""

AnyDataset: Any = Dataset
"""A union, which type checkers do not take for a type."""

T = TypeVar("T")


class Plan:
    """A checked experiment.

    Args:
        name: ``<root>/experiments/<name>.yaml``.
        root: the params folder.

    Raises:
        UserError: naming the file and the key at fault.
    """

    def __init__(self, name: str, root: Path = ROOT) -> None:
        self.name = name
        self.root = root
        self.experiment = load(experiment_file(name, root), Experiment)
        self.datasets: dict[str, Params] = {
            n: load(self.dataset_file(n), AnyDataset) for n in self.dataset_names()
        }
        self.backbones = {
            n: load(self.backbone_file(n), Backbone) for n in self.experiment.backbones
        }
        self.recipes = {n: load(self.recipe_file(n), Recipe) for n in self.experiment.methods}
        self.protocols: dict[str, Params] = {
            task: load(self.protocol_file(task), PROTOCOLS[task]) for task in self.tasks()
        }
        self._check_sizes()

    def tasks(self) -> dict[str, str]:
        """Each node downstream of the backbone with its protocol's name."""
        tasks = {str(task): name for task, name in self.experiment.tasks.items()}
        if "knn" in tasks or "linear" in tasks:
            return {"features": self.experiment.features, **tasks}
        return tasks

    def dataset_names(self) -> list[str]:
        """The prepared sets that the experiment reads."""
        names = [self.experiment.dataset]
        if "detect" in self.experiment.tasks and self.experiment.detection_dataset is not None:
            names.append(self.experiment.detection_dataset)
        return list(dict.fromkeys(names))

    def dataset_file(self, name: str) -> Path:
        return self.root / "datasets" / f"{name}.yaml"

    def backbone_file(self, name: str) -> Path:
        return self.root / "backbones" / f"{name}.yaml"

    def recipe_file(self, name: str) -> Path:
        return self.root / "recipes" / self.experiment.regime / f"{name}.yaml"

    def protocol_file(self, task: str) -> Path:
        return self.root / "protocols" / f"{self.tasks()[task]}.yaml"

    def rows(self) -> Iterator[tuple[str, str, int]]:
        """Every backbone artifact of the experiment: (backbone, recipe, seed)."""
        for backbone in self.experiment.backbones:
            for recipe in self.experiment.methods:
                for seed in self.experiment.seeds:
                    yield backbone, recipe, seed

    def resolved(self, **names: str) -> dict[str, Any]:
        """The values of some of the plan's params, by role: what an engine compares.

        ``names`` gives dataset, backbone, recipe or task.
        """
        groups: dict[str, Mapping[str, Params]] = {
            "dataset": self.datasets,
            "backbone": self.backbones,
            "recipe": self.recipes,
            "task": self.protocols,
        }
        return {role: groups[role][name].resolved() for role, name in names.items()}

    def _check_sizes(self) -> None:
        """Every view of every recipe must fit the patches of every backbone."""
        trainings: list[tuple[Path, Training]] = [
            (self.recipe_file(name), recipe.training)
            for name, recipe in self.recipes.items()
            if recipe.training is not None
        ]
        if isinstance(finetune := self.protocols.get("finetune"), Finetune):
            trainings.append((self.protocol_file("finetune"), finetune.training))
        for path, training in trainings:
            for index, view in enumerate(training.views):
                for name, backbone in self.backbones.items():
                    size = view.size or backbone.image_size
                    if size % backbone.patch_size:
                        raise UserError(
                            f"{path}: training.views[{index}].size",
                            f"{size} px does not divide into the {backbone.patch_size} px "
                            f"patches of backbone {name}",
                            allowed=f"a multiple of {backbone.patch_size}",
                        )


def load_checked(path: Path, model: type[T]) -> T:
    """Read a step's params file, and check every experiment that names it.

    Raises:
        UserError: this file, or another one of such an experiment, is at fault.
    """
    params = load(path, model)
    own = path.resolve()
    root = next((folder for folder in own.parents if (folder / "experiments").is_dir()), None)
    if root is not None:
        for file in sorted((root / "experiments").glob("*.yaml")):
            # Its own text tells whether an experiment names the file: one that does not parse
            # must not stop a step that has nothing to do with it.
            if own.stem in file.read_text():
                Plan(file.stem, root)
    return params


def experiment_file(name: str, root: Path = ROOT) -> Path:
    """Where an experiment's params stand."""
    return root / "experiments" / f"{name}.yaml"
