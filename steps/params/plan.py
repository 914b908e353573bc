"""An experiment with every params file that it names, read together.

``steps.params.checks.load_plan`` reads and checks it. Engines call that before any work, so that a
misspelt key in a fine-tuning protocol does not wait for the end of pretraining.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from steps.command import UserError
from steps.params.backbone import Backbone
from steps.params.base import Params
from steps.params.budget import Budget
from steps.params.dag import Node, Pretraining, Tokenizer, follow
from steps.params.dataset import Dataset
from steps.params.experiment import Experiment, load_experiment
from steps.params.load import closest, load, shortened
from steps.params.names import NAME_RULE, is_name, unprintable
from steps.params.recipe import Recipe, ScaledRecipe
from steps.params.tasks import PROTOCOLS, TASKS, ResourceTable
from steps.params.tokenizers import TokenizerRecipe

ROOT = Path("params")
WATCHING = ("on_collapse", "loggers")
"""Keys of a training that say how it is watched; a finished one does not run again for them."""
AnyDataset: Any = Dataset
"""A union, which type checkers do not accept as a type."""

T = TypeVar("T")


class Plan:
    """Params of an experiment, and the nodes that they ask for.

    Each file is valid by itself; ``steps.params.checks.load_plan`` also checks that they fit
    together.

    Args:
        name: ``<root>/experiments/<name>.yaml``.
        root: the params folder.

    Raises:
        UserError: naming the file and the key at fault.
    """

    def __init__(self, name: str, root: Path = ROOT) -> None:
        _check_asked(name, root)
        self.name = name
        self.root = root
        self.file = root / "experiments" / f"{name}.yaml"
        self.experiment: Experiment = load_experiment(self.file)
        self.scaled = self.experiment.scaled
        """Pretrainings that change their recipe, by name."""
        self.kept = self.experiment.kept
        """Rows of weights that a pretraining keeps along its way, by name."""
        self.scaled_tokenizers: dict[str, ScaledRecipe] = {}
        """Tokenizers within a budget, by name."""
        self.datasets: dict[str, Any] = {
            n: load(self.dataset_file(n), AnyDataset) for n in self.dataset_names()
        }
        self.backbones = {
            n: load(self.backbone_file(n), Backbone) for n in self.experiment.backbones
        }
        self.recipes = {n: self._recipe(n) for n in self.experiment.recipes}
        self.tokenizers: dict[str, TokenizerRecipe] = {}
        rows = [
            Pretraining(backbone, recipe)
            for backbone, recipe, _ in self.rows()
            if recipe in self.recipes
        ]
        self.needs = self._needs(rows)
        """Every pretraining and tokenizer, with the nodes that it needs directly."""
        self.protocols: dict[str, Params] = {
            name: load(self.protocol_file(name), PROTOCOLS[task])
            for task, names in self.tasks().items()
            for name in names
        }
        """The params of each protocol by name."""
        self.resources = self._resources()
        """Scheduler resources of the jobs."""

    def tasks(self) -> dict[str, list[str]]:
        """The protocols of each node downstream of a backbone, by name."""
        tasks = {str(task): names for task, names in self.experiment.tasks.items()}
        if any(TASKS[task].features for task in tasks):
            return {"features": [self.experiment.features], **tasks}
        return tasks

    def dataset_names(self) -> list[str]:
        """The prepared sets that the experiment reads."""
        experiment = self.experiment
        own = [experiment.sets_of(task) for task in TASKS if task in experiment.tasks]
        return list(dict.fromkeys([experiment.dataset, *chain.from_iterable(own)]))

    def dataset_file(self, name: str) -> Path:
        return self.root / "datasets" / f"{name}.yaml"

    def backbone_file(self, name: str) -> Path:
        return self.root / "backbones" / f"{name}.yaml"

    def recipe_file(self, name: str) -> Path:
        """The file of a recipe, or of the recipe behind a row of a scaling study, of a budget or of
        kept weights."""
        name = self.kept[name].recipe if name in self.kept else name
        stem = self.scaled[name].recipe if name in self.scaled else name
        return self.root / "recipes" / self.experiment.regime / f"{stem}.yaml"

    def recipe_of(self, name: str) -> Recipe | None:
        """The recipe that trained a row's weights; None for an imported row."""
        return self.recipes.get(self.kept[name].recipe if name in self.kept else name)

    def recipe_options(self, name: str) -> list[str]:
        """Options of ``steps.pretrain`` that change the recipe: length, budget, share of images."""
        return self.scaled[name].options if name in self.scaled else []

    def tokenizer_file(self, name: str) -> Path:
        """The file of a tokenizer, within a budget or not."""
        stem = self.scaled_tokenizers[name].recipe if name in self.scaled_tokenizers else name
        return self.root / "tokenizers" / self.experiment.regime / f"{stem}.yaml"

    def tokenizer_options(self, name: str) -> list[str]:
        """Options of ``steps.tokenizer`` for a tokenizer within a budget."""
        scaled = self.scaled_tokenizers.get(name)
        return [] if scaled is None else scaled.options

    def budget_of(self, node: Node) -> Budget | None:
        """The budget of a pretraining or a tokenizer."""
        if isinstance(node, Tokenizer):
            scaled = self.scaled_tokenizers.get(node.name)
        else:
            scaled = self.scaled.get(node.recipe)
        return None if scaled is None else scaled.budget

    def protocol_file(self, name: str) -> Path:
        return self.root / "protocols" / f"{name}.yaml"

    def rows(self, task: str | None = None) -> Iterator[tuple[str, str, int]]:
        """Every row of the experiment or of a task: (backbone, recipe, seed).

        For an official checkpoint its name takes the place of the recipe.
        """
        experiment = self.experiment
        recipes = experiment.names if task is None else self.methods_of(task)
        for backbone in experiment.backbones:
            for recipe in recipes:
                if experiment.has_row(recipe, backbone):
                    for seed in experiment.seeds:
                        yield backbone, recipe, seed

    def methods_of(self, task: str) -> list[str]:
        """The methods that a task applies to; tasks on text need a text tower."""
        names = self.experiment.names
        if "text" in TASKS[task].needs:
            return [
                name for name in names if (recipe := self.recipe_of(name)) and recipe.method.text
            ]
        return names

    def drawn(self) -> list[Node]:
        """Nodes that ``steps.diagnose`` draws for the page with the first seed: pretrainings, then
        their tokenizers."""
        rows: list[Node] = [
            Pretraining(backbone, recipe)
            for backbone in self.experiment.backbones
            for recipe in self.experiment.pictured
            if recipe in self.recipes and self.recipes[recipe].method.drawn
        ]
        behind = (other for row in rows for other in self.needs[row])
        return [*rows, *dict.fromkeys(other for other in behind if isinstance(other, Tokenizer))]

    def evaluations(self) -> Iterator[tuple[tuple[str, str, int], str, str, str]]:
        """Every (row, task, protocol, set) that is measured."""
        for task, protocol in self.experiment.evaluations():
            for dataset in self.experiment.sets_of(task):
                for row in self.rows(task):
                    yield row, task, protocol, dataset

    def extractions(self) -> Iterator[tuple[tuple[str, str, int], str]]:
        """Every (row, set) whose frozen features are extracted."""
        if "features" in self.tasks():
            for dataset in self.experiment.sets_of("features"):
                for row in self.rows():
                    yield row, dataset

    def knn_set(self, node: Node) -> str | None:
        """The set of ``training.knn`` of a pretraining, if it is not ``dataset``: the first of
        ``evaluate_on``, where that one has labels and ``dataset`` has none."""
        sets = self.experiment.evaluate_on
        if sets is None or isinstance(node, Tokenizer):
            return None
        training = self.recipes[node.recipe].training
        if training is None or training.knn is None:
            return None
        labelled = [self.datasets[name].has_labels for name in (self.experiment.dataset, sets[0])]
        return sets[0] if labelled == [False, True] else None

    def resolved(self, **names: str) -> dict[str, Any]:
        """The values of params that an engine compares, by role: all but those that only say how
        a training is watched.

        Args:
            names: of a dataset, backbone, recipe, tokenizer or protocol, by role.
        """
        groups: dict[str, Mapping[str, Params]] = {
            "dataset": self.datasets,
            "backbone": self.backbones,
            "recipe": self.recipes,
            "tokenizer": self.tokenizers,
            "protocol": self.protocols,
        }
        found = {role: groups[role][name].resolved() for role, name in names.items()}
        for values in found.values():
            for key in WATCHING:
                (values.get("training") or {}).pop(key, None)
        return found

    def _recipe(self, name: str) -> Recipe:
        """The recipe of a row, at its length and share of images in a scaling study."""
        recipe = load(self.recipe_file(name), Recipe)
        scaled = self.scaled.get(name)
        if scaled is None:
            return recipe
        self._check_scaled(scaled, recipe, self.recipe_file)
        try:
            return recipe.scaled(scaled.length, scaled.data_share)
        except ValueError as error:
            raise UserError(
                f"{self.file}: scaling.methods",
                f"{scaled.recipe}: {error}",
                allowed="methods that train",
            ) from error

    def _check_scaled(
        self, scaled: ScaledRecipe, params: Recipe | TokenizerRecipe, file: Callable[[str], Path]
    ) -> None:
        """Check that the name of a scaled recipe is unique, and that its recipe is not scaled
        itself: lengths are factors on the recipe's epochs."""
        key = "scaling.methods" if scaled.budget is None else "budget"
        where = f"{self.file}: {key}"
        stem, own = scaled.recipe, file(scaled.recipe)
        other = own.with_name(f"{scaled.name}.yaml")
        if scaled.name != stem and other.is_file():
            raise UserError(
                where,
                f"a row of {stem} would be called {scaled.name}, which is the recipe {other}",
                remedy=f"call {other} otherwise: both would have one folder in the results",
            )
        length = 1 if params.training is None else params.training.length
        share = params.data_share if isinstance(params, Recipe) else 1
        if (length, share) != (1, 1):
            raise UserError(
                where,
                f"{stem} has length {length:g} and data_share {share:g} of its own",
                allowed="recipes of length 1 on all images, which the experiment then changes",
                remedy=f"remove training.length and data_share from {own}",
            )

    def _needs(self, rows: list[Pretraining]) -> dict[Node, list[Node]]:
        """Every node that the rows need; with a budget, each node at its share of it."""
        if self.experiment.budget is None:
            return follow(rows, self._read, lambda node: str(self.node_file(node)))
        own = {row: Pretraining(row.backbone, self.recipe_file(row.recipe).stem) for row in rows}
        known = follow(own.values(), self._read, lambda node: str(self.node_file(node)))
        needs: dict[Node, list[Node]] = {}
        for row, node in own.items():
            try:
                self._share_out(node, self.scaled.get(row.recipe), known, needs)
            except ValueError as error:
                where = f"{self.file}: budget"
                raise UserError(where, f"what stands behind {row}: {error}") from error
        return needs

    def _share_out(
        self,
        node: Node,
        scaled: ScaledRecipe | None,
        known: dict[Node, list[Node]],
        needs: dict[Node, list[Node]],
    ) -> Node:
        """A node under its name within a budget, added to ``needs`` after the nodes that it needs.

        Args:
            node: named by its params file.
            scaled: the changes to its recipe; None: it is unchanged.
            known: the nodes that each node needs directly, named by their params files.
            needs: collects the result.
        """
        params = self.params(node)
        if scaled is None or scaled.budget is None or params.training is None:
            needs[node] = known[node]
            return node
        behind = []
        for other in known[node]:
            stem = other.name if isinstance(other, Tokenizer) else other.recipe
            share = ScaledRecipe(stem, budget=scaled.budget.of_inputs)
            behind.append(self._share_out(other, share, known, needs))
        named: Node
        if isinstance(params, TokenizerRecipe):
            self._check_scaled(scaled, params, self.tokenizer_file)
            self.tokenizers[scaled.name], self.scaled_tokenizers[scaled.name] = params, scaled
            named = Tokenizer(scaled.name)
        else:
            assert isinstance(node, Pretraining)
            self._check_scaled(scaled, params, self.recipe_file)
            if scaled.name not in self.recipes:
                self.recipes[scaled.name], self.scaled[scaled.name] = params, scaled
            named = Pretraining(node.backbone, scaled.name)
        needs[named] = behind
        return named

    def params(self, node: Node) -> Recipe | TokenizerRecipe:
        """The params of a pretraining or a tokenizer."""
        if isinstance(node, Tokenizer):
            return self.tokenizers[node.name]
        return self.recipes[node.recipe]

    def _resources(self) -> ResourceTable:
        """The table of the regime; a regime without a table asks for nothing."""
        file = self.root / "resources" / f"{self.experiment.regime}.yaml"
        return load(file, ResourceTable) if file.is_file() else ResourceTable()

    def node_file(self, node: Node) -> Path:
        """The params file of a pretraining or a tokenizer."""
        if isinstance(node, Tokenizer):
            return self.tokenizer_file(node.name)
        return self.recipe_file(node.recipe)

    def _read(self, node: Node, named_by: str) -> Recipe | TokenizerRecipe:
        """The params of a node, read when it first comes up."""
        if isinstance(node, Tokenizer):
            return self._met(
                self.tokenizers, node.name, self.tokenizer_file, TokenizerRecipe, named_by
            )
        key = f"{named_by}.backbone"
        self._met(self.backbones, node.backbone, self.backbone_file, Backbone, key)
        key = f"{named_by}.recipe"
        return self._met(self.recipes, node.recipe, self.recipe_file, Recipe, key)

    def _met(
        self,
        known: dict[str, T],
        name: str,
        file: Callable[[str], Path],
        model: type[T],
        named_by: str,
    ) -> T:
        if name not in known:
            path = file(name)
            if not path.is_file():
                names = sorted(other.stem for other in path.parent.glob("*.yaml"))
                close = closest(name, names)
                raise UserError(
                    named_by,
                    f"'{name}', but there is no {path}",
                    allowed=", ".join(names) or "nothing yet",
                    remedy=f"did you mean '{close}'?" if close else "name one of these or write it",
                )
            known[name] = load(path, model)
        return known[name]


def _check_asked(name: str, root: Path) -> None:
    """Check the name of an experiment and the path of a params folder."""
    if not is_name(name):
        raise UserError(
            "experiment", shortened(repr(name)), allowed=NAME_RULE, remedy="rename its file"
        )
    if re.search(r"^-|[\n\t]", str(root)) or unprintable(str(root)):
        raise UserError(
            "params",
            shortened(repr(str(root))),
            allowed="a folder whose path is a printable line and does not begin with -",
            remedy="give its absolute path, or rename it",
        )
