"""A recipe: a method with its hyper-parameters, and how it is trained."""

from __future__ import annotations

from pydantic import model_validator

from steps.params.base import Params
from steps.params.methods import MethodParams, RandomParams
from steps.params.names import Name
from steps.params.scaling import Share
from steps.params.teacher import Teacher, check_needs
from steps.params.training import Training


class Recipe(Params):
    """``params/recipes/<regime>/<recipe>.yaml``. Its file name is the row's name in the tables."""

    method: MethodParams
    teacher: Teacher | None = None
    """The frozen network that the method learns from; trained first, if it is not there."""
    tokenizer: Name | None = None
    """``params/tokenizers/<regime>/<tokenizer>.yaml``, whose tokens the method predicts."""
    training: Training | None = None
    data_share: Share = 1.0
    """Of the training images, drawn without a look at labels, by the seed: the same ones for all
    methods, those of a smaller share among those of a larger."""

    def grown(self, length: float, data_share: float) -> Recipe:
        """The same at another length, on another share of the images.

        Raises:
            ValueError: nothing is trained by it.
        """
        if self.training is None:
            raise ValueError(f"method {self.method.name} is initialisation only: no run to grow")
        training = self.training.model_copy(update={"length": length})
        return self.model_copy(update={"training": training, "data_share": data_share})

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        check_needs(
            f"method {self.method.name}",
            {"teacher": self.method.takes_teacher, "tokenizer": self.method.takes_tokenizer},
            {"teacher": self.teacher, "tokenizer": self.tokenizer},
        )
        if self.teacher is not None and self.tokenizer is not None:
            raise ValueError("a recipe names a teacher or a tokenizer, not both")
        if isinstance(self.method, RandomParams):
            if self.training is not None:
                raise ValueError("method random is initialisation only: remove 'training'")
            if self.data_share != 1:
                raise ValueError("method random is initialisation only: remove 'data_share'")
            return self
        if self.training is None:
            raise ValueError(f"method {self.method.name} needs the key 'training'")
        self.training.check_second_images(
            f"method {self.method.name}", self.method.takes_second_image
        )
        self.method.check_views(sum(view.count for view in self.training.views))
        self.method.check_run(self.training.batch_size, self.training.epochs)
        what = f"method {self.method.name}"
        self.training.check_final_phase(what, allowed=self.method.final_phase)
        if (final := self.training.final_phase) is not None:
            self.method.check_views(sum(view.count for view in final.views))
        return self
