"""Params of a row whose backbone is an official checkpoint, and no pretraining of ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag

from steps.params.base import Epochs, Params
from steps.params.names import Below, Label, Name

Format = Literal["mae", "mocov3", "dino", "ibot", "dinov2", "beit", "beit2", "droppos", "clip"]
"""Official files that ``steps.import`` makes a backbone of."""


class Imported(Params):
    """What ``steps.import`` is told."""

    name: Name
    """How tables call the row; its folder in the results."""
    format: Format
    """The method whose official file it is."""
    checkpoint: Below
    """The file, below the data root."""
    backbone: Name
    """``params/backbones/<backbone>.yaml``: what the file must hold; positions are resized to its
    image size as the method does it."""
    network: Name | None = None
    """Of a file with two: teacher or student, base or momentum; null: what evaluations take."""
    epochs: Epochs | None = None
    """Of its training, for the tables; null: not known."""
    trained_on: Label | None = None
    """The data set of its training, for the tables; null: that of the method's publication."""
    normalise: Literal["imagenet", "inception", "clip"] | None = None
    """What images are given by; null: as the method's code does."""
    source: Label | None = None
    """Where the file is to be had, for the message where it is missing."""

    @property
    def asked(self) -> dict[str, Any]:
        """Options that decide what the row is, as the artifact's facts have them."""
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
        """The options of ``steps.import`` that say the same, less name and backbone."""
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
    """A row of an experiment's ``methods`` that is no recipe."""

    imported: Imported


def _kind(value: object) -> str:
    """A word is a recipe, anything else should be ``imported: {...}``."""
    return "a recipe" if isinstance(value, str) else "a checkpoint"


Method = Annotated[
    Annotated[Name, Tag("a recipe")] | Annotated[ImportedMethod, Tag("a checkpoint")],
    Discriminator(_kind),
]
