"""Params of a dataset: where its images are or how they are drawn, and how bad ones are handled."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Len, Lt
from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from steps.params.base import Params, Probability
from steps.params.names import Place

GROUND = (255, 255, 255)
RGB = (3, 8)
"""Channels and bits of usual images."""
MAX_PIXELS = 178_956_970
"""Default of ``max_pixels``: about half a GB as RGB."""


Count = Annotated[int, Ge(1)]
Pixels = Annotated[float, Gt(0)]
Text = Annotated[str, Len(1)]


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from error
    return text


Kind = Literal[
    "classification", "multilabel", "regression", "detection", "masks", "captions", "images"
]
Target = Literal["class", "classes", "number"]
"""Target of a probe on a labelled set: a class per image, any number of them, or a number."""


class HeldOut(Params):
    """A part of the training images as the validation split, chosen by seed.

    Each class gives its share of images, at least one where it has two or more. An image is in or
    out by its name and the seed only: images that are added later move no other.
    """

    share: Annotated[float, Gt(0), Lt(1)]
    """Share of the training images."""
    seed: Annotated[int, Ge(0)] = 0
    group: Annotated[str, Len(1), AfterValidator(_expression)] | None = None
    """Regular expression that finds a group in an image's name: a patient, a slide, a video. Whole
    groups are held out, since images of one group are alike. Its first parenthesis names the group,
    or all that it matches. null: each image is a group of its own."""


class Limit(Params):
    """Number of images to take of each split; null: all.

    Labelled images are taken in equal shares per class, evenly spaced within it. Of other images
    the first are taken, by id if they have numbers.
    """

    train: Count | None = None
    val: Count | None = None


class _Dataset(Params):
    limit: Limit = Limit()
    on_bad: Literal["fail", "skip"] = "fail"
    """fail: a bad image, label, box or caption stops the step, and nothing is written. skip: it is
    left out and listed in the manifest."""
    max_bad_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    """With skip: share of bad items of a split above which the step still fails."""

    @property
    def form(self) -> tuple[int, int]:
        """Channels of each image and bits of each channel."""
        return RGB

    @property
    def is_rgb(self) -> bool:
        """True for images of three channels of 8 bits, which Pillow reads; False: ``form``
        describes arrays of numbers (``steps.data.bands``)."""
        return self.form == RGB

    @property
    def has_labels(self) -> bool:
        """True if each image has a class."""
        return False

    @property
    def target(self) -> Target | None:
        """Target of the probes of the set; None: nothing is known of each image."""
        return "class" if self.has_labels else None

    @property
    def has_captions(self) -> bool:
        """True if each image has captions."""
        return False

    @property
    def has_boxes(self) -> bool:
        """True if objects have boxes: a set for detection."""
        return False

    @property
    def has_masks(self) -> bool:
        """True if each object's box comes with a mask."""
        return False

    @property
    def has_pixel_classes(self) -> bool:
        """True if each pixel has a class: a set for semantic segmentation."""
        return self.has_masks

    @model_validator(mode="after")
    def _tolerance(self) -> _Dataset:
        if self.on_bad == "skip" and self.max_bad_share == 0:
            raise ValueError("on_bad is skip, so max_bad_share must be above 0")
        if self.on_bad == "fail" and self.max_bad_share > 0:
            raise ValueError("on_bad is fail, so max_bad_share has no effect: remove it")
        return self


class FromFiles(_Dataset):
    """Params of all datasets that are read from image files."""

    ground: Annotated[list[Annotated[int, Ge(0), Le(255)]], Len(3, 3)] = [*GROUND]
    """Red, green and blue, 0 to 255, behind transparent pixels; white by default. An image of which
    nothing is visible on it is bad."""
    max_pixels: Count = MAX_PIXELS
    """Width times height above which an image is bad. Decoding takes 4 bytes per pixel."""
    max_in_both: Annotated[int, Ge(0)] | None = None
    """Number of val images that may also be in train, pixel for pixel; more stop the step. null:
    any number. They are counted and listed in any case."""


class Tiles(Params):
    """A grid of squares that images are cut into."""

    side: Count
    """Height and width of a tile in pixels. A shorter image is not cut along that side."""
    overlap: Annotated[int, Ge(0)] = 0
    """Pixels that neighbours share, at least: tiles are spread evenly over the whole image, so
    that the last ones end where it ends."""

    @model_validator(mode="after")
    def _moves_on(self) -> Tiles:
        if self.overlap >= self.side:
            raise ValueError(f"overlap: {self.overlap} must be below side, {self.side}")
        return self

    def places(self, width: int, height: int) -> list[tuple[int, int]]:
        """Left and top edges of the tiles of an image, row by row."""
        return [(left, top) for top in self._edges(height) for left in self._edges(width)]

    def _edges(self, length: int) -> list[int]:
        if length <= self.side:
            return [0]
        last = -(-(length - self.overlap) // (self.side - self.overlap)) - 1
        return [index * (length - self.side) // last for index in range(last + 1)]


class _Files(FromFiles):
    resize_short_side: Count | None = None
    """Short side in pixels to which larger images are shrunk, as JPEG of quality 95; PNGs stay
    PNGs, and images too large for JPEG become PNGs. null: keep each file's bytes, except that
    images that are turned upright or put on ``ground`` become PNGs."""
    channels: Annotated[int, Ge(1), Le(1024)] = 3
    """Channels of each image, such as 4 for red, green, blue and near infrared. Images of other
    than three channels of 8 bits are TIFF files, NumPy's ``.npy`` (channels first or last), or
    pictures of as many channels. They are stored without loss, and all their channels are data:
    ``ground`` does not apply. Every image must have this number."""
    bits: Literal[8, 16] = 8
    """Bits of each channel in the files. Values count as shares of 255 or 65,535."""

    @property
    def form(self) -> tuple[int, int]:
        return self.channels, self.bits

    @model_validator(mode="after")
    def _no_ground(self) -> _Files:
        if not self.is_rgb and self.ground != [*GROUND]:
            raise ValueError(
                f"ground is for three channels of 8 bits, and channels is {self.channels}, bits "
                f"{self.bits}, where a fourth channel is data: remove the key"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that sets of earlier versions lack, unless they are used: the params of
        a set are part of its identity."""
        values: dict[str, Any] = serialise(self)
        for key, usual in {"channels": RGB[0], "bits": RGB[1], "tiles": None}.items():
            if key in values and values[key] == usual:
                del values[key]
        return values


class FolderDataset(_Files):
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


class ImagesDataset(_Files):
    """Images without labels, to pretrain on: folders of any depth, lists of files, tar files."""

    format: Literal["images"]
    train: Place | Annotated[list[Place], Len(1)]
    """One or more places under the data root: a folder, whose images at any depth are taken; a
    ``.txt`` file of one image path per line, from the file's own folder; or a glob of tar files,
    whose image members are taken."""
    val: Place | Annotated[list[Place], Len(1)] | HeldOut
    """Places of the split, or the part of ``train`` that it is."""
    tiles: Tiles | None = None
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


class CsvDataset(_Files):
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
    label_separator: Text | None = None
    """Text between the labels of an image in ``label_column``, such as | (ChestX-ray14). null: an
    image has one label."""
    no_label: str | None = None
    """With ``label_separator``: the cell of an image that has none of the labels, such as No
    Finding; an empty text is an empty cell. null: each image has at least one."""
    label_columns: Annotated[list[Text], Len(1)] | None = None
    """One column per label, with 1 or 0 in each line (CheXpert); the columns are the classes."""
    label_cells: dict[str, Literal[0, 1]] = {}
    """With ``label_columns``: further cells and what they count as, such as {'': 0, '-1.0': 1} for
    blank and uncertain ones."""
    number_column: Text | None = None
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

    @model_serializer(mode="wrap")
    def _as_before(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out keys that earlier versions lack, unless they are used: the params of a set are
        part of what an engine compares."""
        values: dict[str, Any] = serialise(self)
        new = ("label_separator", "no_label", "label_columns", "label_cells", "number_column")
        return {
            key: value for key, value in values.items() if key not in new or value not in (None, {})
        }

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


class ParquetDataset(_Files):
    """Parquet files as Hugging Face writes them: a column of images, and labels or captions."""

    format: Literal["parquet"]
    train: Place
    """Glob of the split's files, below the data root."""
    val: Place | HeldOut
    """Glob of the split's files, or the part of ``train`` that it is."""
    image_column: Text = "image"
    label_column: Text | None = "label"
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


class WebDatasetDataset(_Files):
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


class CocoCaptionsDataset(_Files):
    """Captions in COCO's captions format, several per image."""

    format: Literal["coco_captions"]
    train: AnnotatedFolder
    val: AnnotatedFolder | HeldOut
    """Files of the split, or the part of ``train`` that it is."""

    @property
    def has_captions(self) -> bool:
        return True


class Finish(Params):
    """Variation of a named colour when it is painted. A texture has two shades of it."""

    saturation: Annotated[float, Gt(0), Le(1)]
    """Factor on the colour's saturation."""
    value: Annotated[list[Annotated[float, Gt(0)]], Len(2, 2)]
    """[low, high] of the factor on the colour's value (brightness)."""
    contrast: Annotated[float, Ge(0), Le(1)]
    """Difference of the texture's second shade, which is darker or paler."""


class Cues(Params):
    """Probabilities with which an image shows its class by more than its outline.

    Otherwise the factor is drawn freely, as without cues. A table in
    ``steps/data/sources/shapes/reader.py`` has the colours and textures of each class.
    """

    colour: Probability = 0.0
    """Probability that a shape has its class's colour."""
    texture: Probability = 0.0
    """Probability that a shape has its class's texture."""
    ground_colour: Probability = 0.0
    """Probability that the background has the colour of its shape's class. Not for kind detection,
    in which one background is behind shapes of several classes."""
    ground_texture: Probability = 0.0
    """Probability that the background has the texture of its shape's class; only as above."""


class ShapesDataset(_Dataset):
    """Drawn images of textured shapes over cluttered backgrounds. The outline always shows the
    class; every other factor is independent of the class unless ``cues`` says otherwise."""

    format: Literal["shapes"]
    kind: Literal["classification", "detection"]
    seed: Annotated[int, Ge(0)]
    image_size: Annotated[int, Ge(16)]
    train: Count
    val: Count
    objects: Annotated[list[Count], Len(2, 2)]
    """[fewest, most] shapes in an image."""
    radii: Annotated[list[Annotated[list[Pixels], Len(2, 2)]], Len(1)]
    """Intervals [low, high] in pixels, equally likely, of the radius of a disc with the shape's
    area."""
    spread: Annotated[float, Ge(0), Le(0.5)] = 0.5
    """Largest distance of a shape's centre from the image's centre along each axis, as a share of
    the image's side; 0.5: anywhere."""
    rotation: Annotated[float, Ge(0), Le(180)] = 180.0
    """Largest rotation of a shape in degrees; it is uniform between minus and plus this."""
    stretch: Annotated[float, Ge(1)] = 1.2
    """Largest ratio of a shape's length along one axis to that along the other."""
    foreground: Finish
    """Colours of the shapes. The more they differ from ``background``, the easier the shapes are to
    see."""
    background: Finish
    """Colours of the background."""
    clutter: Annotated[list[Annotated[int, Ge(0)]], Len(2, 2)]
    """[fewest, most] lines, arcs and specks behind the shapes."""
    strokes: Annotated[list[Annotated[int, Ge(0)]], Len(2, 2)]
    """[fewest, most] thin lines across the shapes."""
    noise: Annotated[float, Ge(0), Le(1)] = 0.06
    """Largest standard deviation of the pixel noise, for pixel values in [0, 1]."""
    min_visible: Annotated[float, Gt(0), Le(1)] = 0.6
    """Smallest share of a shape that is inside the image and not covered by another shape."""
    cues: Cues | None = None
    """Frequency with which colour, texture and background also show the class. With this key, even
    with all probabilities 0, a prepared set of kind classification stores each image's factors."""
    conflicts: bool = False
    """true: in train all cues are of the image's class. In val the outline is of one class,
    texture, colour or background (in turn) of another, and the other cues of neither
    (``steps.bias``)."""

    @property
    def has_labels(self) -> bool:
        return self.kind == "classification"

    @property
    def has_captions(self) -> bool:
        return self.kind == "classification"

    @property
    def has_factors(self) -> bool:
        """True if the prepared set stores the factors of each image."""
        return self.kind == "classification" and (self.cues is not None or self.conflicts)

    @property
    def is_independent(self) -> bool:
        """True if it has factors, all independent of each other."""
        return self.has_factors and self.cues == Cues()

    @property
    def has_boxes(self) -> bool:
        return self.kind == "detection"

    @property
    def has_masks(self) -> bool:
        return self.has_boxes

    @model_validator(mode="after")
    def _consistent(self) -> ShapesDataset:
        intervals: dict[str, Sequence[float]] = {
            "objects": self.objects,
            "clutter": self.clutter,
            "strokes": self.strokes,
        }
        intervals |= {"foreground.value": self.foreground.value}
        intervals |= {"background.value": self.background.value}
        intervals |= {f"radii[{i}]": interval for i, interval in enumerate(self.radii)}
        for name, (low, high) in intervals.items():
            if low > high:
                raise ValueError(f"{name}: {low} is above {high}")
        largest = max(high for _, high in self.radii)
        if largest > self.image_size / 2:
            raise ValueError(f"radii: {largest} is above half the image_size {self.image_size}")
        if self.kind == "classification" and self.objects != [1, 1]:
            raise ValueError("kind classification has one shape per image: set objects to [1, 1]")
        self._check_cues()
        return self

    def _check_cues(self) -> None:
        if self.conflicts and self.kind != "classification":
            raise ValueError("conflicts is only for kind classification")
        if self.conflicts and self.cues is not None:
            raise ValueError("conflicts sets every cue: remove the key 'cues'")
        if self.cues is not None and self.kind == "detection":
            for key in ("ground_colour", "ground_texture"):
                if getattr(self.cues, key) > 0:
                    raise ValueError(
                        f"cues.{key} is above 0, but the shapes of a scene share one background: "
                        "remove the key"
                    )


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
