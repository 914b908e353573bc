"""What the params of all methods have in common."""

from __future__ import annotations

from typing import ClassVar, Literal

from steps.params.base import Params
from steps.params.masks import Misfit

Kind = Literal["Random", "Supervised", "Generative", "Contrastive", "Hybrid", "Position"]
Need = Literal["none", "optional", "required"]
Reads = Literal["tokens", "features"]


class Method(Params):
    """Params of a method: what its paper calls hyper-parameters, views and optimiser aside."""

    kind: ClassVar[Kind]
    """The method's family as the tables print it."""
    reads: ClassVar[Reads] = "tokens"
    """What the method reads of its backbone: the tokens of a vision transformer, or one vector an
    image, which a ResNet gives as well."""
    takes_teacher: ClassVar[Need] = "none"
    """Whether its recipe names a ``teacher``; likewise the next."""
    takes_tokenizer: ClassVar[Need] = "none"
    takes_second_image: ClassVar[bool] = False
    """Whether its views have a ``second`` image, for the tokenizer."""
    text: ClassVar[bool] = False
    """Whether the method has a text tower, which zero-shot classification and retrieval need."""
    drawn: ClassVar[bool] = False
    """Whether ``steps.diagnose`` has pictures of it."""
    compares: ClassVar[str] = ""
    """Verb for what it does with an image and the others of its batch, if anything."""
    final_phase: ClassVar[bool] = False
    """Whether its recipe may have ``training.final_phase``."""
    name: str

    def misfit(self, patches: int, depth: int | None) -> Misfit | None:
        """What about the params does not fit a backbone.

        Args:
            patches: of an image.
            depth: blocks of the backbone, where they are known.

        Returns:
            The key below ``method``, what was found, and what is allowed; None where all fits.
        """
        return None

    def check_run(self, batch: int, epochs: float) -> None:
        """Raise ValueError if the method has nothing to learn from such a run.

        Args:
            batch: images in a global batch.
            epochs: of the run.
        """
        if self.compares and batch < 2:
            raise ValueError(
                f"training.batch_size is {batch}; {self.name} {self.compares}: it takes 2 or more"
            )

    def check_views(self, views: int) -> None:
        """Raise ValueError if the method cannot take so many views of an image."""
        if views != 1:
            raise ValueError(f"training.views gives {views} views an image; {self.name} takes one")
