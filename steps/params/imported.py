"""Params of a row whose backbone is an official checkpoint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from steps.params.base import Epochs, Params
from steps.params.names import Below, Label, Name

Format = Literal["mae", "mocov3", "dino", "ibot", "dinov2", "beit", "beit2", "droppos", "clip"]
"""Kinds of official files that ``steps.import`` converts to a backbone."""


class Imported(Params):
    """Arguments of ``steps.import``."""

    name: Name
    """Name of the row in tables and of its folder in the results."""
    format: Format
    """Method that published the file."""
    checkpoint: Below
    """Path of the file below the data root."""
    backbone: Name
    """``params/backbones/<backbone>.yaml``, which the file must match. Position embeddings are
    resized to its image size as the method does."""
    network: Name | None = None
    """Network of a file with two (teacher, student, base, momentum); null: the one for
    evaluation."""
    epochs: Epochs | None = None
    """Epochs of its training, for tables; null: not known."""
    trained_on: Label | None = None
    """Dataset of its training, for tables; null: that of the publication."""
    normalise: Literal["imagenet", "inception", "clip"] | None = None
    """Normalisation of input images; null: that of the method's code."""
    source: Label | None = None
    """Where to download the file, for the error if it is missing."""

    @property
    def asked(self) -> dict[str, Any]:
        """Options that define the row, as in the artifact's facts."""
        return {
            "format": self.format,
            "official": self.checkpoint,
            "network": self.network,
            "epochs": self.epochs or 0.0,
            "trained_on": self.trained_on,
            "normalise": self.normalise,
        }

    @property
    def options(self) -> list[str]:
        """Options of ``steps.import``, without name and backbone."""
        given = {
            "format": self.format,
            "official": self.checkpoint,
            "network": self.network,
            "epochs": None if self.epochs is None else f"{self.epochs:g}",
            "trained-on": self.trained_on,
            "normalise": self.normalise,
            "source": self.source,
        }
        words = [(f"--{key}", value) for key, value in given.items() if value is not None]
        return [word for pair in words for word in pair]


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
