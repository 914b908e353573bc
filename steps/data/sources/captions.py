"""COCO's captions format: images in a folder, several sentences for each in one JSON file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steps.data.sources.coco import AnnotatedImages
from steps.data.sources.source import Item, Problem, Source
from steps.params.dataset import CocoCaptionsDataset


class CocoCaptionsSource(Source):
    """Items in the order of the images' numbers; ids are their file names."""

    kind = "captions"
    has_captions = True

    def __init__(self, dataset: CocoCaptionsDataset) -> None:
        self.classes = []
        self._splits = {
            "train": AnnotatedImages("train", dataset.train, "captions"),
            "val": AnnotatedImages("val", dataset.val, "captions"),
        }

    def labels(self, split: str) -> Sequence[int | None]:
        return [None] * len(self._splits[split].images)

    def items(self, split: str, keep: Sequence[int]) -> Iterator[Item]:
        annotated = self._splits[split]
        for position in keep:
            captions = tuple(
                annotation.get("caption") for annotation in annotated.of_image(position)
            )
            yield annotated.item(position, captions=captions)

    def problems(self, split: str) -> list[Problem]:
        return self._splits[split].problems
