"""Paths of results: they say what a result is made of, not which experiment asked for it, but for
the lengths of an experiment's runs within its budget.

    results/data/<dataset>/
    results/budgets/<experiment>/
    results/pretrained/<dataset>/<regime>/<backbone>/<recipe>/seed<k>/backbone/
    results/imported/<backbone>/<name>/seed<k>/backbone/
    results/tokenizers/<dataset>/<regime>/<tokenizer>/seed<k>/tokenizer/

``<dataset>`` is the set that a result is trained or measured on.
Results made of a backbone stand beside it: ``features/<dataset>/<protocol>/`` and
``diagnose/<dataset>/``; records as ``<task>/<dataset>/<protocol>.json``, or on frozen features as
``<task>/<dataset>/<features>/<protocol>.json``; their decisions beside them as
``<protocol>.parquet``. A recipe at another length or on a share of the images is called
``<recipe>-x<length>-d<share>``, and the weights that it keeps at an epoch ``<recipe>-e<epoch>``. A
name may also be a pattern in braces, for an engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from steps.params.dag import Node, Tokenizer
from steps.params.experiment import Experiment
from steps.params.recipe import Recipe
from steps.params.tasks import TASKS

RESULTS = "results"
PRETRAINED, IMPORTED, TOKENIZERS = "pretrained", "imported", "tokenizers"


def data(dataset: str, results: str = RESULTS) -> str:
    """A prepared set."""
    return f"{results}/data/{dataset}"


def lengths(experiment: str) -> str:
    """The lengths of an experiment's runs within its budget."""
    return f"{RESULTS}/budgets/{experiment}"


def backbone(row: str) -> str:
    """The backbone artifact of a row."""
    return f"{row}/backbone"


@dataclass(frozen=True)
class Paths:
    """Paths of the results that an experiment asks for."""

    experiment: Experiment
    results: str = RESULTS
    """The folder of all results."""

    @property
    def dataset(self) -> str:
        return self.experiment.dataset

    def evaluated_on(self, task: str) -> str:
        """The set that a task, or ``features``, reads; the first one where it reads several."""
        return self.experiment.sets_of(task)[0]

    def pretrained(self, backbone: str, recipe: str, seed: int | str) -> str:
        """The folder of a row whose backbone is pretrained here."""
        made_of = f"{self.dataset}/{self.experiment.regime}/{backbone}/{recipe}"
        return f"{self.results}/{PRETRAINED}/{made_of}/seed{seed}"

    def imported(self, backbone: str, name: str, seed: int | str) -> str:
        """The folder of a row whose backbone is an official checkpoint."""
        return f"{self.results}/{IMPORTED}/{backbone}/{name}/seed{seed}"

    def row(self, backbone: str, method: str, seed: int | str) -> str:
        """The folder of a row."""
        kind = self.imported if method in self.experiment.imported else self.pretrained
        return kind(backbone, method, seed)

    def artifact(self, node: Node, seed: int | str) -> str:
        """The tokenizer, or the backbone of a pretraining."""
        if isinstance(node, Tokenizer):
            return self.tokenizer(node.name, seed)
        return backbone(self.pretrained(node.backbone, node.recipe, seed))

    def init(self, recipe: Recipe, network: str, seed: int | str) -> dict[str, str]:
        """The file or folder that a pretraining starts from, by the option of its step; none for
        random weights, or those that timm downloads."""
        if recipe.init is None:
            return {}
        if recipe.init.row is not None:
            return {"init": backbone(self.row(network, recipe.init.row, seed))}
        return {} if recipe.init.path is None else {"init": recipe.init.path}

    def features(self, row: str, dataset: str = "") -> str:
        """The frozen features of a row on a set, by the experiment's protocol.

        Here and below, no ``dataset`` is the one of ``evaluated_on``.
        """
        dataset = dataset or self.evaluated_on("features")
        return f"{row}/features/{dataset}/{self.experiment.features}"

    def record(self, row: str, task: str, protocol: str, dataset: str = "") -> str:
        """The record file of a task on a row, by a protocol on a set."""
        return f"{self._evaluation(row, task, dataset)}/{protocol}.json"

    def decisions(self, row: str, task: str, protocol: str, dataset: str = "") -> str | None:
        """The decisions behind a record file; None for a task that keeps none."""
        if not TASKS[task].decides:
            return None
        return f"{self._evaluation(row, task, dataset)}/{protocol}.parquet"

    def pictures(self, row: str, task: str, protocol: str, dataset: str = "") -> str | None:
        """The folder of pictures beside a record file; None for a task that draws none."""
        if not TASKS[task].draws:
            return None
        return f"{self._evaluation(row, task, dataset)}/{protocol}"

    def drawn(self, node: Node, seed: int | str) -> str:
        """Pictures of a pretraining or of a tokenizer."""
        if isinstance(node, Tokenizer):
            return self.tokenizer_diagnosis(node.name, seed)
        return self.diagnosis(self.pretrained(node.backbone, node.recipe, seed))

    def inputs(self, row: str, task: str, dataset: str = "") -> dict[str, str]:
        """Artifacts that a task, or ``features``, reads of a row, by the option of its step."""
        dataset = dataset or self.evaluated_on(task)
        reads_features = task in TASKS and TASKS[task].features
        features = {"features": self.features(row, dataset)} if reads_features else {}
        return {"backbone": backbone(row), **features, "data": data(dataset)}

    def outputs(self, row: str, task: str, protocol: str, dataset: str = "") -> dict[str, str]:
        """Results of a task, or of ``features``, on a row: ``out``, ``decisions``, ``pictures``."""
        if task not in TASKS:
            return {"out": self.features(row, dataset)}
        paths = {
            "out": self.record(row, task, protocol, dataset),
            "decisions": self.decisions(row, task, protocol, dataset),
            "pictures": self.pictures(row, task, protocol, dataset),
        }
        return {role: path for role, path in paths.items() if path is not None}

    def diagnosis(self, row: str) -> str:
        """Pictures of a row's pretraining."""
        return f"{row}/diagnose/{self.dataset}"

    def tokenizer_row(self, name: str, seed: int | str) -> str:
        """The folder of a tokenizer and of its pictures."""
        return (
            f"{self.results}/{TOKENIZERS}/{self.dataset}/{self.experiment.regime}/{name}/seed{seed}"
        )

    def tokenizer(self, name: str, seed: int | str) -> str:
        """A tokenizer."""
        return f"{self.tokenizer_row(name, seed)}/tokenizer"

    def tokenizer_diagnosis(self, name: str, seed: int | str) -> str:
        """Pictures of a tokenizer."""
        return f"{self.tokenizer_row(name, seed)}/diagnose"

    def _evaluation(self, row: str, task: str, dataset: str) -> str:
        folder = f"{row}/{task}/{dataset or self.evaluated_on(task)}"
        return f"{folder}/{self.experiment.features}" if TASKS[task].features else folder
