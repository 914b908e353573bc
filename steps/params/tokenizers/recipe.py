"""A tokenizer with how it is made: trained, or read from official weights."""

from __future__ import annotations

from pydantic import model_validator

from steps.params.base import Params
from steps.params.names import Below
from steps.params.teacher import Teacher, check_needs
from steps.params.tokenizers import TokenizerParams
from steps.params.training import Training


class TokenizerRecipe(Params):
    """``params/tokenizers/<regime>/<tokenizer>.yaml``."""

    tokenizer: TokenizerParams
    official: dict[str, Below] | None = None
    """Files of official weights below the data root, by the part that each holds: they are read
    instead of training."""
    teacher: Teacher | None = None
    training: Training | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TokenizerRecipe:
        params = self.tokenizer
        trained = self.training is not None
        if trained == (self.official is not None):
            raise ValueError("one of the keys 'official' and 'training' is needed, not both")
        params.check_trained(trained)
        check_needs(
            f"tokenizer {params.name}" + ("" if trained else " with official weights"),
            {"teacher": params.takes_teacher if trained else "none"},
            {"teacher": self.teacher},
        )
        if self.official is not None and set(self.official) != set(params.official_files):
            raise ValueError(
                f"official names the files {', '.join(self.official)}; tokenizer {params.name} "
                f"takes {', '.join(params.official_files)}"
            )
        if self.training is not None:
            params.check_batch(self.training.batch_size)
            views = sum(view.count for view in self.training.views)
            if views != 1:
                raise ValueError(f"training.views gives {views} views an image; it takes one")
            self.training.check_second_images(f"tokenizer {params.name}", wanted=False)
            self.training.check_final_phase(f"tokenizer {params.name}", allowed=False)
            if self.training.normalise is not None:
                raise ValueError("a tokenizer takes pixels in 0 to 1: remove training.normalise")
        return self
