"""Where everything lies: one place for the paths that rules share."""

RESULTS = f"results/{EXPERIMENT}"
ROW = f"{RESULTS}/{{backbone}}/{{recipe}}/seed{{seed}}"
LOGS = f"logs/{EXPERIMENT}"
ROW_LOG = f"{LOGS}/{{backbone}}-{{recipe}}-seed{{seed}}"
DATA = f"results/data/{PLAN.experiment.dataset}"
SCENES = f"results/data/{PLAN.experiment.detection_dataset}"


def rows(pattern):
    """A path for every backbone artifact of the experiment."""
    return [
        pattern.format(backbone=backbone, recipe=recipe, seed=seed)
        for backbone, recipe, seed in PLAN.rows()
    ]


def protocol(task):
    """The params file of a task's protocol, or nothing where the experiment leaves the task out."""
    return str(PLAN.protocol_file(task)) if task in PLAN.tasks() else ""


def resolved(**roles):
    """A params function: the values that the rule depends on, whatever their files look like.

    Files of params are not inputs, so that a comment changes nothing; their values are, through
    Snakemake's trigger on params.
    """

    def values(wildcards):
        names = {role: name.format(**wildcards) for role, name in roles.items()}
        return PLAN.resolved(**names)

    return values
