"""Params of a budget: the compute, or number of images, of each row of an experiment."""

from __future__ import annotations

import argparse
from decimal import Decimal
from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ValidationError, model_validator

from steps.command import UserError
from steps.params.base import LARGEST, Count, Params

BEHIND = 1 / 3
"""Default share of a budget for the tokenizer and teacher behind a row."""
TOLERANCE = 0.02
"""Share of a budget by which a run, of whole steps, may miss it."""
LEAST, MOST = 1e-6, 1e12
"""Smallest and largest TFLOPs of a budget."""


class Budget(Params):
    """Compute or images of a row, one of the two.

    A recipe's epochs follow from it, and its schedules scale with them. A tokenizer or teacher
    behind the row is trained within its share, and the teacher of a tokenizer within the same share
    of that share. Networks that are not trained here use nothing.
    """

    tflops: Annotated[float, Ge(LEAST), Le(MOST)] | None = None
    """10^12 floating-point operations of pretraining; a multiply-add counts as two."""
    images: Count | None = None
    """Images seen in pretraining, repeats included."""
    behind: Annotated[float, Gt(0), Lt(1)] = BEHIND
    """Share of the budget for the row's tokenizer and teacher together, if they are trained
    here."""

    @model_validator(mode="after")
    def _consistent(self) -> Budget:
        if (self.tflops is None) == (self.images is None):
            raise ValueError("one of the keys 'tflops' and 'images' is needed, not both")
        for value in (self.tflops, None if self.behind == BEHIND else self.behind):
            if value is not None and float(f"{value:g}") != value:
                raise ValueError(f"{value!r}: at most six digits are allowed in a row's name")
        return self

    @property
    def amount(self) -> float:
        """TFLOPs or images."""
        return self.tflops or self.images or 0

    @property
    def unit(self) -> str:
        """Unit in words."""
        return "TFLOPs" if self.images is None else "images"

    @property
    def name(self) -> str:
        """Part of a row's name: 36tflops, or 36tflops-b50 with another share than the default."""
        share = "" if self.behind == BEHIND else f"-b{100 * self.behind:g}"
        return f"{self._digits}{self.unit.lower()}{share}"

    @property
    def options(self) -> list[str]:
        """Options of ``steps.pretrain`` and ``steps.tokenizer``."""
        share = [] if self.behind == BEHIND else ["--behind", f"{self.behind:g}"]
        return [f"--budget-{self.unit.lower()}", self._digits, *share]

    @property
    def _digits(self) -> str:
        return str(self.images) if self.tflops is None else f"{Decimal(f'{self.tflops:g}'):f}"

    def __str__(self) -> str:
        return f"{self._digits} {self.unit}"

    def times(self, factor: float) -> Budget:
        """The budget times a factor, rounded to six digits.

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
        """Budget of the network directly behind a row."""
        return self.times(self.behind)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a step that trains within a budget."""
    parser.add_argument(
        "--budget-tflops", type=float, help="TFLOPs of the run with its teacher and tokenizer"
    )
    parser.add_argument("--budget-images", type=int, help="in their place, images seen")
    parser.add_argument("--behind", type=float, help="share of teacher and tokenizer; a third")


def asked_for(arguments: argparse.Namespace) -> Budget | None:
    """The budget in the options, if any.

    Raises:
        UserError: an option is out of range, or both kinds are given.
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
