"""The registry of tasks, and the scheduler resources of each node.

One entry of ``TASKS`` declares a task. Params, plan, checks, paths, the rules of Snakemake, the
stages of DVC and the reports read it; its step is ``steps/<name>.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import RootModel

from steps.params.base import Count, Params
from steps.params.detection import Detection
from steps.params.protocols import (
    KNN,
    Bias,
    Decode,
    Features,
    Finetune,
    Geometry,
    Layout,
    LinearProtocol,
    Retrieval,
    Segment,
    ZeroShot,
)

# --- The tasks that measure a backbone

Need = Literal[
    "classes",  # two or more, to decide between
    "targets",  # something to predict of each image: a class, any number of labels, or a number
    "boxes",
    "pixels",  # a class for each pixel: semantic masks, or those of objects
    "masks",  # for detect, only where its protocol says masks: true
    "captions",
    "factors",  # drawn images whose factors are recorded and independent
    "conflicts",  # drawn images whose cues conflict
    "tokens",  # a vision transformer
    "class_token",  # which a vision transformer may be without
    "text",  # a method with a text tower
]


@dataclass(frozen=True)
class Task:
    """A task, and what the rest of the code needs to know about it."""

    name: str
    title: str
    meaning: str
    """Way of measuring, for captions."""
    protocol: Any
    """Params model of its protocols, or a union of models."""
    metrics: tuple[str, ...]
    """Metrics that tables show unfolded; the first one that is recorded is the headline, of which
    more is better."""
    needs: tuple[Need, ...] = ()
    """Properties that its set, the backbones and the methods must have; the plan checks them."""
    reads: str = "dataset"
    """Key of the experiment that names its set."""
    features: bool = False
    """It reads the frozen features of the step ``features``."""
    decides: bool = True
    """It keeps decisions per image beside its records."""
    draws: bool = False
    """It draws pictures beside its records."""


BETTER: dict[str, Literal["higher", "lower"]] = {"R2": "higher", "MAE": "lower", "RMSE": "lower"}
"""Direction in which metrics that are no percentage improve; more is better of a percentage, and no
direction is known of any other."""
_ON_LABELS = ("top1", "mAP", "AUROC", "F1", "R2", "MAE")
"""Metrics on one class per image, on several labels, on a number."""
_OBJECTS = "detection_dataset"
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="finetune",
            title="Fine-tuning",
            meaning="the whole backbone is fine-tuned together with a linear classifier",
            protocol=Finetune,
            metrics=_ON_LABELS,
            needs=("targets",),
        ),
        Task(
            name="linear",
            title="Linear probe",
            meaning="a linear classifier is trained on frozen features",
            protocol=LinearProtocol,
            metrics=_ON_LABELS,
            needs=("targets",),
            features=True,
        ),
        Task(
            name="knn",
            title="k-NN",
            meaning="each image gets the class that its nearest training images vote for",
            protocol=KNN,
            metrics=_ON_LABELS,
            needs=("targets",),
            features=True,
        ),
        Task(
            name="detect",
            title="Detection",
            meaning="a detector with this backbone is trained; average precision as in COCO",
            protocol=Detection,
            metrics=("box_AP", "mask_AP"),
            needs=("boxes",),
            reads=_OBJECTS,
            draws=True,
        ),
        Task(
            name="segment",
            title="Segmentation",
            meaning="a linear layer on frozen patch tokens predicts the class of every pixel. "
            "miou: mean over classes of the intersection over union; miou_objects: the "
            "same without background; accuracy: percentage of pixels that are right",
            protocol=Segment,
            metrics=("miou",),
            needs=("pixels", "tokens"),
            reads=_OBJECTS,
        ),
        Task(
            name="layout",
            title="Object layout",
            meaning="jaccard: overlap between the objects' pixels and the patches that hold most "
            "of the class token's attention in the last block, for the head that is best "
            "over all images; jaccard_any: for the best head of each image; inside: "
            "percentage of the one head's attention that falls on objects; area: "
            "percentage of the image that they cover, which is inside by chance. Random "
            "weights may come first, since attention can fall on objects without any "
            "learning: this task shows where a network looks, not how good its features "
            "are",
            protocol=Layout,
            metrics=("jaccard",),
            needs=("boxes", "masks", "tokens", "class_token"),
            reads=_OBJECTS,
            draws=True,
        ),
        Task(
            name="zeroshot",
            title="Zero-shot classification",
            meaning="each image gets the class whose name, in prompts, is nearest; nothing is "
            "trained",
            protocol=ZeroShot,
            metrics=("top1",),
            needs=("classes", "text"),
        ),
        Task(
            name="retrieval",
            title="Retrieval",
            meaning="text_R@k: a caption of the image is among the k nearest distinct captions; "
            "image_R@k: the image of a caption is among the k nearest images",
            protocol=Retrieval,
            metrics=("text_R@1", "image_R@1"),
            needs=("text", "captions"),
        ),
        Task(
            name="geometry",
            title="Geometry of features",
            meaning="nothing is trained. effective_rank: effective rank of the class token over "
            "all images, at most its width; alignment: distance between two views of an "
            "image; uniformity: how evenly images are spread. Lower is better for both, "
            "but alignment is lowest where all features are equal",
            protocol=Geometry,
            metrics=("effective_rank", "alignment", "uniformity", "lidar"),
            decides=False,  # it measures no image by itself
        ),
        Task(
            name="decode",
            title="Decodability",
            meaning="one linear probe per factor on frozen features of drawn images whose factors "
            "are independent; chance is 10 for the outline, 12.5 for colours and 16.7 for "
            "textures",
            protocol=Decode,
            metrics=("outline",),
            needs=("factors",),
            reads="decode_dataset",
        ),
        Task(
            name="bias",
            title="Shape bias",
            meaning="classifiers trained on images whose cues agree are tested where one cue "
            "contradicts the outline and the other cues belong to neither class",
            protocol=Bias,
            metrics=("outline_vs_texture",),
            needs=("conflicts",),
            reads="bias_dataset",
        ),
    )
}
"""Every task by its name, in the order in which tasks are preferred for the ranking."""

PROTOCOLS: dict[str, Any] = {
    "features": Features,
    **{name: task.protocol for name, task in TASKS.items()},
}
"""The params model of the protocols of each node downstream of a backbone."""

if TYPE_CHECKING:
    TaskName = str
    NodeName = str
else:
    TaskName = Literal[*TASKS]
    NodeName = Literal[
        *("default", "prepare", "budget", "tokenizer", "pretrain", "kept", "imported"),
        *("features", *TASKS, "diagnose", "page"),
    ]


# --- Scheduler resources of a job of each node. They change no result


class Resources(Params):
    """Resources of one job, in Snakemake's terms."""

    threads: Count = 1
    """CPU cores, for the step itself and for the processes that load images."""
    gpu: Annotated[int, Ge(0), Le(1)] = 0
    """At most one per job: training on several GPUs needs torchrun."""
    mem_mb: Count | None = None
    """null: the scheduler's default."""
    runtime: Count | None = None
    """Minutes until the scheduler ends the job; null: the scheduler's default. A job that trains
    resumes when it runs again."""

    def asked(self) -> dict[str, Any]:
        """Resources that a rule declares besides threads; those not asked for are left out."""
        values = {"gpu": self.gpu, "mem_mb": self.mem_mb, "runtime": self.runtime}
        return {name: value for name, value in values.items() if value}


class ResourceTable(RootModel[dict[NodeName, Resources | None]]):
    """``params/resources/<regime>.yaml``: one row per node; ``default`` is for all others."""

    root: dict[NodeName, Resources | None] = {}

    def of(self, node: str) -> Resources:
        """The row of a node, by the name of its rule."""
        return self.root.get(node) or self.root.get("default") or Resources()
