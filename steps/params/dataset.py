"""Params of a dataset: where its images are or how they are drawn, and how bad ones are handled."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Len
from pydantic import (
    Field,
    model_validator,
)

from steps.params.base import LATER, Params
from steps.params.names import Place
from steps.params.sets import FromFiles, HeldOut, ImageFiles, Target, Text, Tiles
from steps.params.shapes import ShapesDataset


class FolderDataset(ImageFiles):
    """One folder per class, ``<train>/<class>/**/*.jpg``. Classes are numbered in sorted order."""

    format: Literal["folder"]
    train: Place
    """Folder of the split, below the data root."""
    val: Place | HeldOut
    """Folder of the split, or the part of ``train`` that it is."""
    class_names: Place | None = None
    """File below the data root with one line per class: its folder, a space, and its name in words
    for prompts. null: the folders' names."""

    @property
    def has_labels(self) -> bool:
        return True


class ImagesDataset(ImageFiles):
    """Images without labels, to pretrain on: folders of any depth, lists of files, tar files."""

    format: Literal["images"]
    train: Place | Annotated[list[Place], Len(1)]
    """One or more places under the data root: a folder, whose images at any depth are taken; a
    ``.txt`` file of one image path per line, from the file's own folder; or a glob of tar files,
    whose image members are taken."""
    val: Place | Annotated[list[Place], Len(1)] | HeldOut
    """Places of the split, or the part of ``train`` that it is."""
    tiles: Annotated[Tiles | None, LATER] = None
    """Cut images larger than what a network sees, so that small objects keep their pixels: each
    tile becomes an image of its own, as JPEG of quality 95; PNGs stay PNGs. ``limit`` and ``val``
    count and choose whole images. null: images stay whole."""

    @model_validator(mode="after")
    def _cut_or_shrunk(self) -> ImagesDataset:
        if self.tiles is not None and self.resize_short_side is not None:
            raise ValueError(
                "tiles and resize_short_side exclude each other: tiles keep the size of pixels"
            )
        return self


class CsvDataset(ImageFiles):
    """A table of one image per line, with its class, its classes or a number.

    One class: ``label_column``. Several: ``label_column`` with ``label_separator``, or
    ``label_columns``. A number: ``number_column``.
    """

    format: Literal["csv"]
    train: Place
    """CSV file under the data root, with a line of column names."""
    val: Place | HeldOut
    """CSV file of the split, or the part of ``train`` that it is."""
    images: Place | None = None
    """Folder under the data root that image paths start from; null: each file's own folder."""
    image_column: Text = "image"
    label_column: Text = "label"
    delimiter: Literal[",", ";", "\t", "|"] = ","
    classes: Annotated[list[Text], Len(1)] | None = None
    """Labels in the order of their numbers; null: those of ``train``, sorted."""
    label_separator: Annotated[Text | None, LATER] = None
    """Text between the labels of an image in ``label_column``, such as | (ChestX-ray14). null: an
    image has one label."""
    no_label: Annotated[str | None, LATER] = None
    """With ``label_separator``: the cell of an image that has none of the labels, such as No
    Finding; an empty text is an empty cell. null: each image has at least one."""
    label_columns: Annotated[Annotated[list[Text], Len(1)] | None, LATER] = None
    """One column per label, with 1 or 0 in each line (CheXpert); the columns are the classes."""
    label_cells: Annotated[dict[str, Literal[0, 1]], LATER] = {}
    """With ``label_columns``: further cells and what they count as, such as {'': 0, '-1.0': 1} for
    blank and uncertain ones."""
    number_column: Annotated[Text | None, LATER] = None
    """Column of a number per image, to be predicted by regression."""

    @property
    def has_labels(self) -> bool:
        return self.target == "class"

    @property
    def target(self) -> Target:
        """The kind of what the table says of each image."""
        if self.number_column is not None:
            return "number"
        if self.label_separator is not None or self.label_columns is not None:
            return "classes"
        return "class"

    @property
    def columns(self) -> dict[str, list[str]]:
        """Columns that are read, by the key that names them."""
        if self.number_column is not None:
            return {"number_column": [self.number_column]}
        if self.label_columns is not None:
            return {"label_columns": self.label_columns}
        return {"label_column": [self.label_column]}

    @model_validator(mode="after")
    def _one_target(self) -> CsvDataset:
        given = self.model_fields_set
        keys = ("label_separator", "label_columns", "number_column")
        ways = [key for key in keys if getattr(self, key) is not None]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} contradict each other: keep one")
        if "label_column" in given and ways in (["label_columns"], ["number_column"]):
            raise ValueError(f"label_column has no effect beside {ways[0]}: keep one of them")
        if self.no_label is not None and self.label_separator is None:
            raise ValueError("no_label is only for images with several labels: set label_separator")
        if self.label_cells and self.label_columns is None:
            raise ValueError("label_cells is only for label_columns")
        if self.classes is not None and ways in (["label_columns"], ["number_column"]):
            raise ValueError(f"classes has no effect beside {ways[0]}: remove it")
        if self.label_columns is not None and len({*self.label_columns}) < len(self.label_columns):
            raise ValueError(f"label_columns names a column twice: {self.label_columns}")
        return self


class ParquetDataset(ImageFiles):
    """Parquet files as Hugging Face writes them: a column of images, and labels or captions."""

    format: Literal["parquet"]
    train: Place
    """Glob of the split's files, below the data root."""
    val: Place | HeldOut
    """Glob of the split's files, or the part of ``train`` that it is."""
    image_column: Text = "image"
    label_column: Text | None = "label"
    """Column of integers that count from 0, or of text."""
    caption_column: Text | None = None
    classes: Annotated[list[Text], Len(1)] | None = None
    """Names in the order of the labels. null: those in the files' Hugging Face metadata, or the
    labels themselves."""

    @property
    def has_labels(self) -> bool:
        return self.label_column is not None

    @property
    def has_captions(self) -> bool:
        return self.caption_column is not None

    @model_validator(mode="after")
    def _target(self) -> ParquetDataset:
        if self.label_column is None and self.caption_column is None:
            raise ValueError("at least one of label_column and caption_column must name a column")
        return self


class WebDatasetDataset(ImageFiles):
    """Tar shards, read in order. Members that share a key are an image (.jpg, .jpeg, .png, .webp)
    with its label or caption.
    """

    format: Literal["webdataset"]
    train: Place
    """Glob of the split's tar files, below the data root."""
    val: Place | HeldOut
    """Glob of the split's tar files, or the part of ``train`` that it is."""
    label: Literal["cls"] | None = "cls"
    """Extension of the member with the label, a decimal number; null: no labels."""
    caption: Literal["txt", "json"] | None = None
    """Extension of the member with the caption; null: no captions."""
    caption_key: Text = "caption"
    """Key of the caption in a json member."""
    classes: Annotated[list[Text], Len(1)] | None = None
    """Names in the order of the labels; null: the labels themselves."""

    @property
    def has_labels(self) -> bool:
        return self.label is not None

    @property
    def has_captions(self) -> bool:
        return self.caption is not None

    @model_validator(mode="after")
    def _target(self) -> WebDatasetDataset:
        if self.label is None and self.caption is None:
            raise ValueError("at least one of label and caption must name a member's extension")
        return self


class AnnotatedFolder(Params):
    """A split in COCO's layout."""

    images: Place
    """Folder below the data root."""
    annotations: Place
    """JSON file below the data root."""


class CocoDataset(FromFiles):
    """Boxes and masks in COCO's instances format, for detection."""

    format: Literal["coco"]
    train: AnnotatedFolder
    val: AnnotatedFolder | HeldOut
    """Files of the split, or the part of ``train`` that it is."""
    masks: bool = True
    """true: every annotation has a mask. false: only boxes are read, even if files have masks."""

    @property
    def has_boxes(self) -> bool:
        return True

    @property
    def has_masks(self) -> bool:
        return self.masks


class MaskedFolder(Params):
    """A split of images and their masks, in folders of the same structure."""

    images: Place
    """Folder below the data root."""
    masks: Place
    """Folder below the data root; the mask of ``a/b.jpg`` is ``a/b`` and ``mask_ending``."""
    names: Place | None = None
    """``.txt`` file below the data root with an image per line, without its ending, as VOC has
    them; null: every image of the folder."""


class MasksDataset(FromFiles):
    """Semantic masks: a PNG per image whose pixel values, grey or of a palette, are classes."""

    format: Literal["masks"]
    train: MaskedFolder
    val: MaskedFolder | HeldOut
    """Files of the split, or the part of ``train`` that it is."""
    classes: Annotated[list[Text], Len(2, 255)]
    """Names of the classes. The first may be called background: it is then left out of
    ``miou_objects``."""
    first_value: Annotated[int, Ge(0)] = 0
    """Value of the first class; the others follow (ADE20K: 1)."""
    values: Annotated[list[Annotated[int, Ge(0)]], Len(1)] | None = None
    """Value of each class, where they do not follow each other (Cityscapes)."""
    ignore: list[Annotated[int, Ge(0)]] | Literal["others"] = [255]
    """Values of pixels that are neither learnt from nor scored. others: all values that are none of
    a class."""
    image_ending: Text | None = None
    """End of an image's name, which its mask's name does not have, such as _leftImg8bit.png; others
    are passed over. null: the part from the last point on."""
    mask_ending: Text = ".png"

    @property
    def has_pixel_classes(self) -> bool:
        return True

    @property
    def class_values(self) -> list[int]:
        """Value of each class in the masks."""
        first = self.first_value
        return self.values or list(range(first, first + len(self.classes)))

    @model_validator(mode="after")
    def _values(self) -> MasksDataset:
        if self.values is not None:
            if len(self.values) != len(self.classes):
                raise ValueError(f"{len(self.values)} values for {len(self.classes)} classes")
            if self.first_value:
                raise ValueError("first_value has no effect beside values: remove one")
        if len({*self.class_values}) < len(self.class_values):
            raise ValueError(f"values has a value twice: {self.values}")
        if self.ignore != "others" and (both := {*self.ignore} & {*self.class_values}):
            raise ValueError(f"ignore names {min(both)}, which is the value of a class")
        return self


class CocoCaptionsDataset(ImageFiles):
    """Captions in COCO's captions format, several per image."""

    format: Literal["coco_captions"]
    train: AnnotatedFolder
    val: AnnotatedFolder | HeldOut
    """Files of the split, or the part of ``train`` that it is."""

    @property
    def has_captions(self) -> bool:
        return True


Dataset = Annotated[
    FolderDataset
    | ImagesDataset
    | CsvDataset
    | ParquetDataset
    | WebDatasetDataset
    | CocoDataset
    | MasksDataset
    | CocoCaptionsDataset
    | ShapesDataset,
    Field(discriminator="format"),
]
"""``params/datasets/<dataset>.yaml``. The file's name is the dataset's name in tables."""
