"""The registry of tasks agrees with the steps, which do not import it."""

from __future__ import annotations

import ast

import pytest

from steps.params.experiment import Experiment
from steps.params.tasks import PROTOCOLS, TASKS, Task
from tests.processes import REPOSITORY


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_a_step_does_what_its_task_declares(task: Task) -> None:
    tree = ast.parse((REPOSITORY / f"steps/{task.name}.py").read_text())
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "TaskStep"
    )
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert ast.literal_eval(call.args[0]) == task.name
    assert ("features" in options) == task.features
    assert ("pictures" in options) == task.draws
    assert (options.get("decides") != "False") == task.decides


def test_a_task_reads_a_set_that_experiments_name() -> None:
    assert {task.reads for task in TASKS.values()} <= set(Experiment.model_fields)
    assert list(PROTOCOLS) == ["features", *TASKS]


def test_steps_that_may_resume_do_not_import_the_registry() -> None:
    """A change of one task would restart the killed runs of all others."""
    from steps.artifacts.identity import code_of

    for node in ("pretrain", "tokenizer", "linear", "finetune", "segment", "detect"):
        assert "steps.params.tasks" not in code_of(node).modules
