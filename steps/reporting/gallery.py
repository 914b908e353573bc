"""The section of a page that shows its pictures, each kind with what is seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from steps.reporting.escape import Markup, beginning, code, plain, target
from steps.reporting.pictures import FOLDER, Picture
from steps.reporting.quantities import significant
from steps.reporting.tables import Table

COLUMNS = 3
"""Pictures side by side."""
KINDS = {
    ("layout", "layout.png"): (
        "Where the class token looks",
        "A row an image: itself; the class token's attention to the patches in the last block, by "
        "the head whose masks fit the objects best over all images, from dark (its least in the "
        "image) to bright (its most); the fewest patches that hold most of it; and the patch "
        "tokens, their three main directions as colours. A head may look away from objects; its "
        "mask covers the rest then. DINO's figures show the like of networks that saw thousands of "
        "times as many images.",
    ),
    ("detect", "detections.png"): (
        "Detections",
        "A row an image: its objects as they are marked, and what the detector found.",
    ),
    ("diagnose", "reconstructions.png"): (
        "Reconstructions",
        "A row an image that was held out: itself, what the encoder saw of it, and the decoder's "
        "prediction in the places it did not see. Where targets are normalised pixels, a patch is "
        "given its true mean and contrast, which the network was never asked for.",
    ),
    ("diagnose", "position_error.png"): (
        "Position errors by place",
        "How far off the told position is, and how often it is exact, by where the patch belongs.",
    ),
    ("diagnose", "positions.png"): (
        "Position errors on images",
        "A row an image that was held out: itself, and its patches from green (placed exactly) to "
        "red (a side of the image off); dark ones were not asked for.",
    ),
    ("diagnose", "tokens.png"): (
        "Masks and tokens",
        "A row an image that was held out: itself, what the encoder saw of it, the tokenizer's "
        "tokens, and the tokens that the network tells of the hidden patches (the others dark). A "
        "token has one colour throughout; which one it is means nothing.",
    ),
    ("tokenizer", "reconstructions.png"): (
        "What tokens keep of an image",
        "A row an image that was held out: itself, and what the decoder makes of its tokens alone.",
    ),
    ("tokenizer", "codebook.png"): (
        "Use of the codebook",
        "The share of held-out patches that each code takes, the most used first.",
    ),
    ("tokenizer", "codes.png"): (
        "What codes stand for",
        "A row a code, the most used first: held-out patches that have it.",
    ),
}
"""Title and caption of each kind of picture, in the order in which a page shows them."""
_UNSAID = ("head", "size")
"""Facts that are of no use beside a picture."""


def gallery(pictures: Sequence[Picture]) -> list[str]:
    """The section's paragraphs; none without pictures."""
    if not pictures:
        return []
    seed = pictures[0].seed
    parts = ["## Pictures\n", f"Of seed {seed}, made small for this page.\n"]
    told: set[str] = set()
    for kind, (title, caption) in KINDS.items():
        shown = [picture for picture in pictures if picture.kind == kind]
        if shown:
            parts += [f"### {title}\n", f"{caption}\n", *_rows(shown, title)]
            parts += _facts(shown, told)
            told |= {picture.made.digest for picture in shown}
    return parts


def _rows(pictures: Sequence[Picture], title: str) -> Iterable[str]:
    """Tables of pictures side by side under their names."""
    for start in range(0, len(pictures), COLUMNS):
        row = pictures[start : start + COLUMNS]
        names = [_name(picture, pictures) for picture in row]
        cells: list[str] = [
            Markup(f"![{plain(f'{title}: {name}')}]({target(f'{FOLDER}/{picture.file}')})")
            for name, picture in zip(names, row, strict=True)
        ]
        yield Table(names, [False] * len(row), [cells]).markdown()


def _name(picture: Picture, among: Sequence[Picture]) -> str:
    """The method, and what else tells a picture from the others of its kind."""
    telling = [
        str(getattr(picture, key))
        for key in ("backbone", "protocol")
        if len({getattr(other, key) for other in among}) > 1
    ]
    return ", ".join([picture.recipe, *telling])


def _facts(pictures: Sequence[Picture], told: set[str]) -> list[str]:
    """What the steps say in numbers, a line a picture, once for all pictures of a folder."""
    lines = [
        f"- {beginning(_name(picture, pictures))}: {said}."
        for picture in pictures
        if picture.made.digest not in told and (said := ", ".join(_said(picture)))
    ]
    return ["\n".join(lines) + "\n"] if lines else []


def _said(picture: Picture) -> list[str]:
    return [
        f"{code(key)} {_number(value)}"
        for key, value in picture.facts.items()
        if isinstance(value, int | float) and key not in _UNSAID
    ]


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else significant(value)
