"""What dvc.yaml must be told of an experiment, because its stages cannot look into recipes.

DVC's matrices are lists of the experiment's file. A stage with a teacher has one more dependency
than one without, so they are different stages, each with a list of its own; the plan holds these
lists to what the recipes say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from steps.command import UserError
from steps.params.base import Params
from steps.params.chain import Node, Pretraining, Tokenizer
from steps.params.imported import Imported
from steps.params.scaling import Grown
from steps.params.tasks import TASKS, Task
from steps.params.teacher import Teacher


class Student(Teacher):
    """A pretraining with the pretraining that it learns from."""

    teacher: Teacher


class Tokenized(Teacher):
    """A pretraining with the tokenizer whose tokens it predicts."""

    tokenizer: str


class DistilledTokenizer(Params):
    """A tokenizer with the pretraining that it learns from."""

    tokenizer: str
    teacher: Teacher


class ImportedStage(Params):
    """An official checkpoint with what ``steps.import`` is told of it."""

    name: str
    backbone: str
    options: str


class GrownStage(Params):
    """A row of a study of scale with what ``steps.pretrain`` is told of it."""

    name: str
    recipe: str
    options: str


class Chain(Params):
    """Every node of an experiment down to the backbones and their features, by the stage of
    dvc.yaml that makes it."""

    datasets: list[str]
    """The prepared sets that are read."""
    features: list[str]
    """The protocol of the frozen features, where a task takes them."""
    rows: list[str]
    """Every method as tables call it."""
    imported: list[ImportedStage]
    """Official checkpoints that are rows."""
    plain: list[str]
    """Methods that need nothing but the data."""
    grown: list[GrownStage]
    """Rows of a study of scale."""
    teachers: list[Teacher]
    """Pretrainings that need nothing but the data, and are no rows themselves."""
    students: list[Student]
    tokenized: list[Tokenized]
    tokenizers: list[str]
    distilled_tokenizers: list[DistilledTokenizer]
    drawn: list[Teacher]
    """Pretrainings that ``steps.diagnose`` draws for the page."""
    drawn_tokens: list[Tokenized]
    """Likewise, of those that predict the tokens of a tokenizer."""
    drawn_tokenizers: list[str]
    """The tokenizers of these."""


def chain_of(
    rows: Sequence[Pretraining],
    needs: Mapping[Node, Sequence[Node]],
    *,
    datasets: Sequence[str],
    features: Sequence[str],
    names: Sequence[str] = (),
    imported: Iterable[Imported] = (),
    drawn: Sequence[Pretraining] = (),
    grown: Mapping[str, Grown] | None = None,
) -> Chain:
    """The chain as the experiment and its recipes give it.

    Args:
        rows: the experiment's own pretrainings.
        needs: every node with those right behind it.
        datasets: the sets that are read.
        features: the protocol of the frozen features, or none.
        names: the methods as tables call them.
        imported: the official checkpoints among them.
        drawn: those of the rows that are drawn for the page.
        grown: rows of a study of scale, by their names.
    """
    grown = grown or {}
    chain: dict[str, list[Any]] = {key: [] for key in Chain.model_fields}
    chain |= {
        "datasets": list(datasets),
        "features": list(features),
        "rows": list(names),
        "imported": [
            {"name": each.name, "backbone": each.backbone, "options": each.options}
            for each in imported
        ],
        "grown": [
            {"name": name, "recipe": each.recipe, "options": each.options}
            for name, each in grown.items()
        ],
    }
    for node, behind in needs.items():
        (other,) = behind or (None,)
        if isinstance(node, Tokenizer):
            if isinstance(other, Pretraining):
                item = {"tokenizer": node.name, "teacher": _teacher(other)}
                chain["distilled_tokenizers"].append(item)
            else:
                chain["tokenizers"].append(node.name)
        elif isinstance(other, Pretraining):
            chain["students"].append({**_teacher(node), "teacher": _teacher(other)})
        elif isinstance(other, Tokenizer):
            chain["tokenized"].append({**_teacher(node), "tokenizer": other.name})
        elif node not in rows:
            chain["teachers"].append(_teacher(node))
        elif node.recipe not in [*chain["plain"], *grown]:
            chain["plain"].append(node.recipe)
    for node in drawn:
        tokenizers = [other.name for other in needs[node] if isinstance(other, Tokenizer)]
        if tokenizers:
            chain["drawn_tokens"].append({**_teacher(node), "tokenizer": tokenizers[0]})
        else:
            chain["drawn"].append(_teacher(node))
        chain["drawn_tokenizers"] += [n for n in tokenizers if n not in chain["drawn_tokenizers"]]
    return Chain.model_validate(chain)


def check_rows(where: str, imported: Mapping[str, Imported], backbones: Sequence[str]) -> None:
    """dvc.yaml has a row of every method on every backbone, so a checkpoint needs one backbone.

    Raises:
        UserError: there are several.
    """
    if imported and len(backbones) > 1:
        raise UserError(
            f"{where}: backbones",
            f"{len(backbones)} of them, but {next(iter(imported))} is a checkpoint of one, and "
            "dvc.yaml, for which the experiment has a 'chain', has rows of all methods on all",
            allowed="one backbone",
            remedy="make an experiment for each backbone, or remove the key 'chain'",
        )


def check_tasks(where: str, tasks: Mapping[Task, Sequence[str]]) -> None:
    """dvc.yaml has a stage a task, whose matrix needs the task's protocols, be they none.

    Raises:
        UserError: a task is not named.
    """
    lacking = [task for task in TASKS if task not in tasks]
    if lacking:
        raise UserError(
            f"{where}: tasks",
            f"key '{lacking[0]}' is missing",
            allowed="every task, since the experiment has a 'chain', for dvc.yaml, which needs "
            f"them all: {', '.join(TASKS)}",
            remedy=f"write {', '.join(f'{task}: []' for task in lacking)} to leave "
            f"{'them' if len(lacking) > 1 else 'it'} out, or remove the key 'chain'",
        )


def check_chain(where: str, found: Chain, derived: Chain) -> None:
    """Hold an experiment's own chain to the one that is derived; the order does not matter.

    Raises:
        UserError: they differ in a key.
    """
    for key in Chain.model_fields:
        ours, theirs = (chain.resolved()[key] for chain in (found, derived))
        if _sorted(ours) != _sorted(theirs):
            raise UserError(
                f"{where}: chain.{key}",
                _flow(ours),
                allowed=f"{_flow(theirs)}, as the experiment and its recipes say",
                remedy="write that, or remove the key 'chain', which dvc.yaml alone needs",
            )


def _teacher(node: Pretraining) -> dict[str, str]:
    return {"recipe": node.recipe, "backbone": node.backbone}


def _flow(value: list[Any]) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)).strip()


def _sorted(items: Iterable[Any]) -> list[str]:
    return sorted(map(str, items))
