"""Readers, one a format: each turns what lies on disk into a stream of items."""

from steps.data.sources.coco import CocoCaptionsSource, CocoSource
from steps.data.sources.folder import FolderSource
from steps.data.sources.parquet import ParquetSource
from steps.data.sources.shapes import ShapesSource
from steps.data.sources.source import Item, Problem, Source, data_root
from steps.data.sources.webdataset import WebDatasetSource
from steps.params.dataset import (
    CocoCaptionsDataset,
    CocoDataset,
    Dataset,
    FolderDataset,
    ParquetDataset,
    WebDatasetDataset,
)

__all__ = ["Item", "Problem", "Source", "data_root", "open_source"]


def open_source(dataset: Dataset) -> Source:
    """The reader of a dataset; what it needs is there, images are not read yet.

    Raises:
        UserError: a folder or file is missing, or an annotation file is not what it should be.
    """
    if isinstance(dataset, FolderDataset):
        return FolderSource(dataset)
    if isinstance(dataset, ParquetDataset):
        return ParquetSource(dataset)
    if isinstance(dataset, WebDatasetDataset):
        return WebDatasetSource(dataset)
    if isinstance(dataset, CocoDataset):
        return CocoSource(dataset)
    if isinstance(dataset, CocoCaptionsDataset):
        return CocoCaptionsSource(dataset)
    return ShapesSource(dataset)
