"""Params of a budget: how much compute, or how many images, each row of an experiment may use."""

from __future__ import annotations

import argparse
from decimal import Decimal
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError, model_validator

from steps.command import UserError
from steps.params.base import LARGEST, Count, Params

BEHIND = 1 / 3
"""Share of a budget that goes to what stands behind a row, where nothing else is said."""


LEAST, MOST = 1e-6, 1e12
"""TFLOPs that a budget may have."""


class Budget(Params):
    """What a row may use: compute or images, one of the two.

    A recipe's epochs follow from it, and its schedules scale with them. A tokenizer or a teacher
    behind the row is trained within its share, and what stands behind that one within the same
    share of the share. What is not trained here uses nothing.
    """

    tflops: Annotated[float, Ge(LEAST), Le(MOST)] | None = None
    """Of pretraining, 10^12 floating-point operations; a multiply-add counts as two."""
    images: Count | None = None
    """Seen in pretraining, repeats included."""
    behind: Annotated[float, Gt(0), Lt(1)] = BEHIND
    """Share of a row that stands on a tokenizer or a teacher which is trained here: what these take
    together."""

    @model_validator(mode="after")
    def _consistent(self) -> Budget:
        if (self.tflops is None) == (self.images is None):
            raise ValueError("one of the keys 'tflops' and 'images' is needed, not both")
        for value in (self.tflops, None if self.behind == BEHIND else self.behind):
            if value is not None and float(f"{value:g}") != value:
                raise ValueError(f"{value!r}: at most six digits, which are part of a row's name")
        return self

    @property
    def amount(self) -> float:
        """TFLOPs or images."""
        return self.tflops or self.images or 0

    @property
    def unit(self) -> str:
        """Its unit in words."""
        return "TFLOPs" if self.images is None else "images"

    @property
    def name(self) -> str:
        """Its part of a row's name: 36tflops; another share behind is named too, 36tflops-b50."""
        share = "" if self.behind == BEHIND else f"-b{100 * self.behind:g}"
        return f"{self._digits}{self.unit.lower()}{share}"

    @property
    def options(self) -> list[str]:
        """The options of ``steps.pretrain`` and ``steps.tokenizer`` that say so."""
        share = [] if self.behind == BEHIND else ["--behind", f"{self.behind:g}"]
        return [f"--budget-{self.unit.lower()}", self._digits, *share]

    @property
    def _digits(self) -> str:
        return str(self.images) if self.tflops is None else f"{Decimal(f'{self.tflops:g}'):f}"

    def __str__(self) -> str:
        return f"{self._digits} {self.unit}"

    def times(self, factor: float) -> Budget:
        """A multiple of it, of six digits.

        Raises:
            ValueError: it is out of range.
        """
        amount = float(f"{self.amount * factor:g}")
        least, most = (LEAST, MOST) if self.images is None else (1, LARGEST)
        if not least <= amount <= most:
            raise ValueError(
                f"{factor:g} times {self} is out of range: {least:g} to {most:g} {self.unit}"
            )
        if self.images is None:
            return Budget(tflops=amount, behind=self.behind)
        return Budget(images=round(amount), behind=self.behind)

    @property
    def of_inputs(self) -> Budget:
        """The budget of what stands right behind a row."""
        return self.times(self.behind)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a step that trains within a budget."""
    parser.add_argument(
        "--budget-tflops", type=float, help="TFLOPs of the run with its teacher and tokenizer"
    )
    parser.add_argument("--budget-images", type=int, help="in their place, images seen")
    parser.add_argument("--behind", type=float, help="share of teacher and tokenizer; a third")


def asked_for(arguments: argparse.Namespace) -> Budget | None:
    """The budget that the options give, if they give one.

    Raises:
        UserError: an option is out of its range, or there are both.
    """
    given = {
        "tflops": arguments.budget_tflops,
        "images": arguments.budget_images,
        "behind": arguments.behind,
    }
    given = {key: value for key, value in given.items() if value is not None}
    if not given:
        return None
    try:
        return Budget(**given)
    except ValidationError as error:
        raise UserError(
            "--budget-tflops, --budget-images, --behind",
            ", ".join(f"{key} {value:g}" for key, value in given.items()),
            allowed=f"TFLOPs of {LEAST:f} to {MOST:.0f} or images of 1 to {LARGEST}, one of the "
            "two, and a share behind between 0 and 1; of at most six digits",
        ) from error
