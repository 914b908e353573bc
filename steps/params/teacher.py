"""What a recipe may stand on: another backbone of the same experiment, or a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping

from steps.params.base import Params
from steps.params.methods.method import Need
from steps.params.names import Name


class Teacher(Params):
    """A pretraining of the same regime, on the same data set, from the same seed."""

    recipe: Name
    """``params/recipes/<regime>/<recipe>.yaml``."""
    backbone: Name
    """``params/backbones/<backbone>.yaml``."""


def check_needs(what: str, needs: Mapping[str, Need], given: Mapping[str, object]) -> None:
    """Raise ValueError if a key is missing that ``what`` needs, or there that it does not take.

    Args:
        what: whose keys they are, such as "method mae".
        needs: by key.
        given: the value of each key, None where it is absent.
    """
    for key, need in needs.items():
        if need == "required" and given[key] is None:
            raise ValueError(f"{what} needs the key '{key}'")
        if need == "none" and given[key] is not None:
            raise ValueError(f"{what} takes no {key}: remove '{key}'")
