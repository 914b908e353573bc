"""Params of a scaling study: recipes at several lengths, on several shares of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le, Len
from pydantic import model_validator

from steps.params.base import Params
from steps.params.budget import Budget
from steps.params.names import Name
from steps.params.numbers import Positive

Share = Annotated[float, Gt(0), Le(1)]


class Scaling(Params):
    """A grid: every method named, at every length, on every share; the other axis of scale is
    the experiment's ``backbones``."""

    methods: Annotated[list[Name], Len(1)]
    """Those of the experiment's methods that have a row for every point of the grid."""
    lengths: Annotated[list[Annotated[Positive, Le(1000)]], Len(1)]
    """Factors on the recipe's epochs (``training.length``), or on the experiment's budget."""
    data_shares: Annotated[list[Share], Len(1)] = [1.0]
    """Of the training images (``data_share``); an epoch goes over these."""

    @model_validator(mode="after")
    def _once(self) -> Scaling:
        for key, values in self.resolved().items():
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names a value twice")
        for value in (*self.lengths, *self.data_shares):
            if float(f"{value:g}") != value:
                raise ValueError(f"{value!r}: at most six digits, which are part of a row's name")
        return self

    def grown(self, recipe: str, budget: Budget | None = None) -> Iterator[Grown]:
        """The rows of a method, from the shortest to the longest."""
        for length in self.lengths:
            for share in self.data_shares:
                if budget is None:
                    yield Grown(recipe, length, share)
                else:
                    yield Grown(recipe, 1, share, budget.times(length))


@dataclass(frozen=True)
class Grown:
    """A recipe at another length or within a budget, on a share of the images."""

    recipe: str
    length: float = 1
    data_share: float = 1
    budget: Budget | None = None
    """Which the length follows from."""

    @property
    def name(self) -> str:
        """Name of the row in tables: mae-x0.5-d25, half as many epochs on 25 % of the images.

        What is as in the recipe is not named: mae-x0.5 is on all images, mae is the recipe, and
        mae-36tflops is MAE within 36 TFLOPs.
        """
        length = "" if self.length == 1 else f"-x{self.length:g}"
        budget = "" if self.budget is None else f"-{self.budget.name}"
        share = "" if self.data_share == 1 else f"-d{100 * self.data_share:g}"
        return f"{self.recipe}{length}{budget}{share}"

    def __str__(self) -> str:
        within = f"length {self.length:g}" if self.budget is None else str(self.budget)
        return f"{self.recipe} at {within} on {100 * self.data_share:g} % of the images"

    @property
    def options(self) -> list[str]:
        """The options of ``steps.pretrain`` that say so; ``steps.tokenizer`` has the budget's."""
        length = [] if self.length == 1 else ["--length", f"{self.length:g}"]
        share = [] if self.data_share == 1 else ["--data-share", f"{self.data_share:g}"]
        return length + ([] if self.budget is None else self.budget.options) + share
