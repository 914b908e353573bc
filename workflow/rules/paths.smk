"""Where everything lies: one place for the paths that rules share."""

RESULTS = f"results/{EXPERIMENT}"
ROW = f"{RESULTS}/{{backbone}}/{{recipe}}/seed{{seed}}"
LOGS = f"logs/{EXPERIMENT}"
ROW_LOG = f"{LOGS}/{{backbone}}-{{recipe}}-seed{{seed}}"
TOKENIZER = f"{RESULTS}/tokenizers/{{tokenizer}}/seed{{seed}}"
TOKENIZER_DRAWN = f"{RESULTS}/tokenizers/{{tokenizer}}/diagnose/seed{{seed}}"
DATA = f"results/data/{PLAN.experiment.dataset}"
IMPORTED = PLAN.experiment.imported
OFFICIAL = "|".join(map(re.escape, IMPORTED))
SCENES = f"results/data/{PLAN.experiment.detection_dataset}"


def rows(pattern, task=None):
    """A path for every backbone artifact of the experiment, or for those that a task takes."""
    return [
        pattern.format(backbone=backbone, recipe=recipe, seed=seed)
        for backbone, recipe, seed in PLAN.rows(task)
    ]


def artifact(node, seed):
    """Where the artifact of a pretraining or a tokenizer lies."""
    if isinstance(node, Tokenizer):
        return TOKENIZER.format(tokenizer=node.name, seed=seed)
    row = ROW.format(backbone=node.backbone, recipe=node.recipe, seed=seed)
    return f"{row}/backbone"


def behind(node, seed):
    """The artifacts that a pretraining or a tokenizer stands on, by role."""
    return {other.role: artifact(other, seed) for other in PLAN.needs[node]}


def options(wildcards, input):
    """The command-line options that give those artifacts."""
    paths = [(role, path) for role, path in input.items() if role != "data"]
    return " ".join(f"--{role} {path}" for role, path in paths)


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
        row = ROW.format(backbone=node.backbone, recipe=node.recipe, seed=seed)
        folders.append(f"{row}/diagnose")
        folders += [
            TOKENIZER_DRAWN.format(tokenizer=other.name, seed=seed)
            for other in PLAN.needs[node]
            if isinstance(other, Tokenizer)
        ]
    return list(dict.fromkeys(folders))


def tokenizer_of(wildcards):
    """The tokenizer whose tokens a pretraining predicts, if it does, by role."""
    found = behind(Pretraining(wildcards.backbone, wildcards.recipe), wildcards.seed)
    return {role: path for role, path in found.items() if role == "tokenizer"}
