"""The tasks that a backbone is measured by, and what a job of each node asks of a scheduler."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le

from steps.params.base import Count, Params

# --- The tasks that a backbone is measured by, each a step of that name


Task = Literal[
    "knn",
    "linear",
    "finetune",
    "geometry",
    "detect",
    "segment",
    "layout",
    "zeroshot",
    "retrieval",
    "decode",
    "bias",
]
TASKS: tuple[Task, ...] = get_args(Task)
FEATURE_TASKS: tuple[Task, ...] = ("knn", "linear")
"""Tasks that read frozen features."""
CLASS_TASKS: tuple[Task, ...] = ("knn", "linear", "finetune")
"""Tasks that decide between the classes of the set that is pretrained on."""
OBJECT_TASKS: tuple[Task, ...] = ("detect", "segment", "layout")
"""Tasks that read ``detection_dataset``."""
SETS: dict[str, str] = {
    **dict.fromkeys(OBJECT_TASKS, "detection_dataset"),
    "decode": "decode_dataset",
    "bias": "bias_dataset",
}
"""The key of an experiment that names the set which a task reads; the others read ``dataset``."""
DRAWN_TASKS: tuple[Task, ...] = ("detect", "layout")
"""Tasks that draw pictures beside their records."""
DECIDED_TASKS: tuple[Task, ...] = tuple(task for task in TASKS if task != "geometry")
"""Tasks that keep decisions beside their records: the others measure no image by itself."""
TEXT_TASKS: tuple[Task, ...] = ("zeroshot", "retrieval")
"""Tasks that need a text tower: methods without one have no row in their tables."""


# --- What a job of each node asks of a scheduler. None of it changes a result


class Resources(Params):
    """Of one job, in Snakemake's words."""

    threads: Count = 1
    """CPU cores: the step's own and those of the processes that load images."""
    gpu: Annotated[int, Ge(0), Le(1)] = 0
    """A job takes one at most: training on several is torchrun's."""
    mem_mb: Count | None = None
    """null: what the scheduler gives where nothing is asked for; so is the next."""
    runtime: Count | None = None
    """Minutes, after which a scheduler ends the job. One that trains goes on from there when it is
    run again."""

    def asked(self) -> dict[str, Any]:
        """What a rule declares besides threads; a device that is not wanted is not named."""
        values = {"gpu": self.gpu, "mem_mb": self.mem_mb, "runtime": self.runtime}
        return {name: value for name, value in values.items() if value}


class ResourceTable(Params):
    """``params/resources/<regime>.yaml``: a row a node; ``default`` is that of the others."""

    default: Resources = Resources()
    prepare: Resources | None = None
    tokenizer: Resources | None = None
    pretrain: Resources | None = None
    imported: Resources | None = None
    features: Resources | None = None
    knn: Resources | None = None
    linear: Resources | None = None
    finetune: Resources | None = None
    geometry: Resources | None = None
    detect: Resources | None = None
    segment: Resources | None = None
    layout: Resources | None = None
    zeroshot: Resources | None = None
    retrieval: Resources | None = None
    decode: Resources | None = None
    bias: Resources | None = None
    diagnose: Resources | None = None
    page: Resources | None = None

    def of(self, node: str) -> Resources:
        """The row of a node, by the name of its rule."""
        row: Resources | None = getattr(self, node)
        return row or self.default
