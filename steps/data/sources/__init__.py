"""Readers, one a format: each turns what lies on disk into a stream of items."""

from steps.data.sources.coco import CocoCaptionsSource, CocoSource
from steps.data.sources.folder import FolderSource
from steps.data.sources.images import ImagesSource
from steps.data.sources.masks import MasksSource
from steps.data.sources.parquet import ParquetSource
from steps.data.sources.shapes import ShapesSource
from steps.data.sources.source import HeldOutSource, Item, Problem, Source, data_root
from steps.data.sources.table import CsvSource
from steps.data.sources.webdataset import WebDatasetSource
from steps.params.dataset import (
    CocoCaptionsDataset,
    CocoDataset,
    CsvDataset,
    Dataset,
    FolderDataset,
    ImagesDataset,
    MasksDataset,
    ParquetDataset,
    WebDatasetDataset,
)
from steps.params.sets import HeldOut

__all__ = ["Item", "Problem", "Source", "data_root", "open_source"]


def open_source(dataset: Dataset) -> Source:
    """The reader of a dataset; what it needs is there, images are not read yet.

    Raises:
        UserError: a folder or file is missing, or an annotation file is not what it should be.
    """
    source = _source(dataset)
    held_out = getattr(dataset, "val", None)
    if isinstance(held_out, HeldOut):
        return HeldOutSource(source, held_out, "val")
    return source


def _source(dataset: Dataset) -> Source:
    if isinstance(dataset, FolderDataset):
        return FolderSource(dataset)
    if isinstance(dataset, ImagesDataset):
        return ImagesSource(dataset)
    if isinstance(dataset, CsvDataset):
        return CsvSource(dataset)
    if isinstance(dataset, ParquetDataset):
        return ParquetSource(dataset)
    if isinstance(dataset, WebDatasetDataset):
        return WebDatasetSource(dataset)
    if isinstance(dataset, CocoDataset):
        return CocoSource(dataset)
    if isinstance(dataset, MasksDataset):
        return MasksSource(dataset)
    if isinstance(dataset, CocoCaptionsDataset):
        return CocoCaptionsSource(dataset)
    return ShapesSource(dataset)
