"""Params of a row whose backbone is a checkpoint of others: official, of timm, of transformers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Tag,
    model_validator,
)

from steps.params.base import LATER, Epochs, Params
from steps.params.methods import METHODS
from steps.params.methods.method import Kind
from steps.params.names import Below, Label, Name, PathText
from steps.params.recipe import WEIGHT_FILES

Format = Literal["mae", "mocov3", "dino", "ibot", "dinov2", "beit", "beit2", "droppos", "clip"]
"""Kinds of official files that ``steps.import`` converts to a backbone."""
UNKNOWN_KIND = "Unknown"
KINDS: dict[str, Kind] = {
    **{name: method.kind for name, method in METHODS.items() if method.kind != "Random"},
    "dinov3": "Hybrid",
    "siglip": "Contrastive",
}
"""Kind in tables of each method that an imported row may name."""


class Imported(Params):
    """Arguments of ``steps.import``: one of ``format``, ``timm`` and ``transformers``."""

    name: Name
    """Name of the row in tables and of its folder in the results."""
    format: Format | None = None
    """Method that published the file ``checkpoint``."""
    timm: Annotated[PathText | None, LATER] = None
    """Name of a timm model, such as ``vit_small_patch16_dinov3.lvd1689m``. Without ``checkpoint``,
    timm downloads it."""
    transformers: Annotated[Below | None, LATER] = None
    """Path below the data root of a Hugging Face folder: ViT, ViTMAE, DINOv2 (with registers too),
    DINOv3, BEiT, or the image tower of CLIP or SigLIP."""
    checkpoint: Below | None = None
    """Path of the file below the data root; of ``timm`` also a folder."""
    backbone: Name
    """``params/backbones/<backbone>.yaml``, which the file must match. Position embeddings are
    resized to its image size as the method does."""
    network: Name | None = None
    """Network of a file with two (teacher, student, base, momentum); null: the one for
    evaluation."""
    method: Annotated[Name | None, LATER] = None
    """Method of its training, for tables, with ``timm`` or ``transformers``; null: as the folder
    says, else unknown."""
    epochs: Epochs | None = None
    """Epochs of its training, for tables; null: not known."""
    trained_on: Label | None = None
    """Dataset of its training, for tables; null: that of the publication."""
    normalise: Literal["imagenet", "inception", "clip"] | None = None
    """Normalisation of input images; null: that of the method's code, of timm's config, or of the
    folder."""
    source: Label | None = None
    """Where to download the file, for the error if it is missing."""

    @model_validator(mode="after")
    def _one_origin(self) -> Imported:
        origins = ("format", "timm", "transformers")
        given = [key for key in origins if getattr(self, key) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "no origin"
            raise ValueError(f"{self.name} has {said}; one of {', '.join(origins)} is needed")
        (origin,) = given
        if origin == "format" and self.checkpoint is None:
            raise ValueError(f"{self.name}: format {self.format} needs the key 'checkpoint'")
        if origin == "transformers" and self.checkpoint is not None:
            raise ValueError(f"{self.name}: transformers names the folder: remove 'checkpoint'")
        if origin != "format" and self.network is not None:
            raise ValueError(f"{self.name}: network is of official files: remove the key")
        if origin == "format" and self.method is not None:
            raise ValueError(f"{self.name}: format names the method: remove 'method'")
        if self.timm is not None and self.timm.endswith(WEIGHT_FILES):
            raise ValueError(
                f"{self.name}: timm is the name of a model, such as vit_small_patch16_224.dino: "
                f"move {self.timm} to 'checkpoint'"
            )
        if self.method is not None and self.method not in KINDS:
            raise ValueError(f"{self.name}: method {self.method} is none of {', '.join(KINDS)}")
        return self

    @property
    def asked(self) -> dict[str, Any]:
        """Options that define the row, as in the artifact's facts."""
        asked: dict[str, Any] = {
            "format": self._format,
            "official": self.transformers or self.checkpoint,
            "network": self.network,
            "epochs": self.epochs or 0.0,
            "trained_on": self.trained_on,
            "normalise": self.normalise,
        }
        if self.format is None:
            asked |= {"model": self.timm, "method": self.method}
        return asked

    @property
    def options(self) -> list[str]:
        """Options of ``steps.import``, without name and backbone."""
        given = {
            "format": self._format,
            "model": self.timm,
            "official": self.transformers or self.checkpoint,
            "network": self.network,
            "method": self.method,
            "epochs": None if self.epochs is None else f"{self.epochs:g}",
            "trained-on": self.trained_on,
            "normalise": self.normalise,
            "source": self.source,
        }
        words = [(f"--{key}", value) for key, value in given.items() if value is not None]
        return [word for pair in words for word in pair]

    @property
    def _format(self) -> str:
        return self.format or ("timm" if self.timm is not None else "transformers")


class ImportedMethod(Params):
    """An entry of an experiment's ``methods`` that is not a recipe."""

    imported: Imported


def _kind(value: object) -> str:
    """Tag of an entry: a word is a recipe, anything else should be ``imported: {...}``."""
    return "a recipe" if isinstance(value, str) else "a checkpoint"


Method = Annotated[
    Annotated[Name, Tag("a recipe")] | Annotated[ImportedMethod, Tag("a checkpoint")],
    Discriminator(_kind),
]
