"""The tasks that a backbone is measured by, each a step of that name."""

from __future__ import annotations

from typing import Literal, get_args

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
