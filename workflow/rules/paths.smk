"""Shared by the rules: patterns of paths, and functions of wildcards."""

import shlex

from steps.params.paths import Paths, backbone, data, lengths
from steps.params.tasks import TASKS

PATHS = Paths(PLAN.experiment)
IMPORTED = PLAN.experiment.imported
# The folder of a row, pretrained or imported, with the records of its tasks.
ROW = "results/{row}"
PRETRAINED = PATHS.pretrained("{backbone}", "{recipe}", "{seed}")
OFFICIAL = PATHS.imported("{backbone}", "{name}", "{seed}")
TOKENIZER = PATHS.tokenizer("{tokenizer}", "{seed}")
TOKENIZER_DRAWN = PATHS.tokenizer_diagnosis("{tokenizer}", "{seed}")
DATA = data(PATHS.dataset)
# The set in the paths of tasks that read no set of their own.
EVALUATED = PATHS.dataset if PLAN.experiment.evaluate_on is None else "{dataset}"
FEATURES = PATHS.features(ROW, EVALUATED)


def log_of(result):
    """The log of the step that makes a result: its path, below logs/."""
    return f"logs/{result.removeprefix('results/').removesuffix('.json')}.log"


def words(options):
    """Options quoted word by word; shell commands take them unchanged with ``:u``."""
    return shlex.join(options)


def inputs_of(node, seed):
    """Inputs of a pretraining or a tokenizer, by role."""
    behind = {other.role: PATHS.artifact(other, seed) for other in PLAN.needs[node]}
    watched = PLAN.knn_set(node)
    if isinstance(node, Pretraining):
        behind |= PATHS.init(PLAN.recipes[node.recipe], node.backbone, seed)
    return {"data": DATA, **({"knn": data(watched)} if watched else {}), **behind}


def named(node):
    """The names of a node's params, by role."""
    if isinstance(node, Pretraining):
        return {"recipe": node.recipe, "backbone": node.backbone}
    return {"tokenizer": node.name}


def set_of(task):
    """The set of a task, as its paths name it."""
    return EVALUATED if task.reads == "dataset" else PATHS.evaluated_on(task.name)


def read(wildcards, input):
    """The command-line options that give a step its inputs, each named by its role."""
    return words(word for role, path in input.items() for word in (f"--{role}", path))


def tokenizer_of(wildcards):
    """The tokenizer whose tokens a pretraining predicts, if it does, by role."""
    node = Pretraining(wildcards.backbone, wildcards.recipe)
    found = inputs_of(node, wildcards.seed)
    return {role: path for role, path in found.items() if role == "tokenizer"}


def results_of(task):
    """Outputs of a task's rule, in the report under the task's title."""
    shown = {"caption": "../report/task.rst", "category": task.title}
    paths = PATHS.outputs(ROW, task.name, "{protocol}", set_of(task))
    paths["out"] = report(paths["out"], **shown)
    if task.draws:
        pictures = directory(paths["pictures"])
        paths["pictures"] = report(pictures, patterns=["{name}.png"], **shown)
    return paths


def made(wildcards, output):
    """The command-line options that say where a task's results go."""
    return read(
        wildcards, {role: path for role, path in output.items() if role != "decisions"}
    )


def not_compared(value):
    """A params function of a value that makes no job run again: Snakemake does not compare params
    that follow from a job's input."""
    return lambda wildcards, input: value


def protocol_file(wildcards):
    """The params file of a task's protocol."""
    return PLAN.protocol_file(wildcards.protocol)


def resolved(**roles):
    """A params function: the values that the rule depends on, whatever their files look like.

    Files of params are not inputs, so that a comment changes nothing; their values are, through
    Snakemake's trigger on params.
    """

    def values(wildcards):
        names = {role: name.format(**wildcards) for role, name in roles.items()}
        return PLAN.resolved(**names)

    return values
