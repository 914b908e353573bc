"""What a job of each node asks of a scheduler. None of it changes a result."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Le

from steps.params.base import Params
from steps.params.numbers import Count


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
