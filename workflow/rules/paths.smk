"""What rules share: patterns of paths, and functions of wildcards."""

import shlex

from steps.params.paths import Paths, backbone, data

PATHS = Paths(PLAN.experiment)
IMPORTED = PLAN.experiment.imported
# A row's folder, whoever made its backbone, and the tasks' records in it.
ROW = "results/{row}"
PRETRAINED = PATHS.pretrained("{backbone}", "{recipe}", "{seed}")
OFFICIAL = PATHS.imported("{backbone}", "{name}", "{seed}")
TOKENIZER = PATHS.tokenizer("{tokenizer}", "{seed}")
TOKENIZER_DRAWN = PATHS.tokenizer_diagnosis("{tokenizer}", "{seed}")
DATA = data(PATHS.dataset)
FEATURES = PATHS.features(ROW)


def log_of(result):
    """The log of the step that makes a result: its path, under logs/."""
    return f"logs/{result.removeprefix('results/').removesuffix('.json')}.log"


def words(options):
    """Options as a shell reads them, each a word: what a command takes with ``:u``, unchanged."""
    return shlex.join(options)


def rows(task=None):
    """The folder of every row of the experiment, or of those that a task takes."""
    return [PATHS.row(*row) for row in PLAN.rows(task)]


def artifact(node, seed):
    """Where the artifact of a pretraining or a tokenizer lies."""
    if isinstance(node, Tokenizer):
        return PATHS.tokenizer(node.name, seed)
    return backbone(PATHS.pretrained(node.backbone, node.recipe, seed))


def behind(node, seed):
    """The artifacts that a pretraining or a tokenizer stands on, by role."""
    return {other.role: artifact(other, seed) for other in PLAN.needs[node]}


def options(wildcards, input):
    """The command-line options that give those artifacts."""
    paths = [(f"--{role}", path) for role, path in input.items() if role != "data"]
    return words(word for pair in paths for word in pair)


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


def drawn():
    """The folders of pictures that the page shows."""
    seed = PLAN.experiment.seeds[0]
    folders = []
    for node in PLAN.drawn():
        row = PATHS.pretrained(node.backbone, node.recipe, seed)
        folders.append(PATHS.diagnosis(row))
        folders += [
            PATHS.tokenizer_diagnosis(other.name, seed)
            for other in PLAN.needs[node]
            if isinstance(other, Tokenizer)
        ]
    return list(dict.fromkeys(folders))


def tokenizer_of(wildcards):
    """The tokenizer whose tokens a pretraining predicts, if it does, by role."""
    found = behind(Pretraining(wildcards.backbone, wildcards.recipe), wildcards.seed)
    return {role: path for role, path in found.items() if role == "tokenizer"}
