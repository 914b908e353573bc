"""Pictures on a page: drawn by tasks for chosen methods, reduced, with their provenance."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from steps.artifacts import Manifest, read_manifest, verify
from steps.command import UserError
from steps.params.paths import Paths
from steps.params.paths import backbone as backbone_of
from steps.params.tasks import TASKS
from steps.reporting.source import Provenance, ReportSpec
from steps.reporting.tables import Table
from steps.reporting.text import Markup, beginning, code, plain, significant, target

PICTURES, FOLDER = "pictures.json", "pictures"
LIMIT = 150_000
"""Most bytes of a picture: a repository keeps every version of it."""
_COLOURS = 256
_QUALITIES = (90, 80, 70, 60)
_SCALES = (1.0, 0.7, 0.5, 0.35)


class Picture(BaseModel):
    """A picture of one method or tokenizer, with its provenance."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    """Path below ``pictures/``."""
    sha256: str
    """Digest of the file."""
    name: str
    """Name that its step gives it, such as layout.png."""
    protocol: str | None
    """Protocol of its task; null where the task has none."""
    recipe: str
    """Name of the method or tokenizer."""
    backbone: str | None
    """Null for a tokenizer."""
    seed: int
    facts: dict[str, Any]
    """Numbers that the step states about it."""
    made: Provenance

    @property
    def kind(self) -> tuple[str, str]:
        """The step (or "tokenizer") and the name: pictures of equal kinds show the same thing."""
        return ("tokenizer" if self.backbone is None else self.made.node, self.name)


@dataclass(frozen=True)
class _Drawn:
    """A folder of pictures below the results, and the artifact that they must show."""

    folder: Path
    role: str
    of: Path
    recipe: str
    backbone: str | None = None
    protocol: str | None = None


def collect_pictures(
    heading: ReportSpec, paths: Paths, methods: Sequence[str]
) -> tuple[list[Picture], dict[str, bytes]]:
    """The pictures of some methods with the first seed, by kind in the order of ``methods``.

    Args:
        heading: the experiment.
        paths: where its results lie.
        methods: some of its methods.

    Returns:
        The pictures, and their files' content by name.

    Raises:
        UserError: a picture is of another artifact than the one that stands beside it.
    """
    pictures: list[Picture] = []
    content: dict[str, bytes] = {}
    seed = heading.seeds[0]
    for drawn in _drawn(heading, paths, methods, seed):
        manifest = verify(drawn.folder)
        _check_of(drawn, manifest)
        for name in sorted(each for each in manifest.files if each.endswith(".png")):
            parts = [drawn.recipe, drawn.backbone, drawn.protocol, Path(name).stem]
            if len(heading.backbones) == 1:
                parts.remove(drawn.backbone)
            suffix, small = reduced((drawn.folder / name).read_bytes())
            file = re.sub(r"[^\w.-]", "_", "-".join(part for part in parts if part)) + suffix
            content[file] = small
            pictures.append(
                Picture(
                    file=file,
                    sha256=hashlib.sha256(small).hexdigest(),
                    name=name,
                    protocol=drawn.protocol,
                    recipe=drawn.recipe,
                    backbone=drawn.backbone,
                    seed=seed,
                    facts=manifest.facts,
                    made=Provenance.of(manifest),
                )
            )
    return pictures, content


def _drawn(
    heading: ReportSpec, paths: Paths, methods: Sequence[str], seed: int
) -> Iterator[_Drawn]:
    tokenizers = {
        read_manifest(folder, "tokenizer").digest: folder
        for folder in sorted(map(Path, glob(paths.tokenizer("*", seed))))
    }
    for recipe in methods:
        for backbone in heading.backbones:
            row = paths.row(backbone, recipe, seed)
            of = Path(backbone_of(row))
            if not of.is_dir():  # an official checkpoint has a backbone of its own
                continue
            for task in TASKS.values():
                for protocol in heading.tasks.get(task.name, ()) if task.draws else ():
                    folder = Path(str(paths.pictures(row, task.name, protocol)))
                    if folder.is_dir():
                        yield _Drawn(folder, "backbone", of, recipe, backbone, protocol)
            diagnosis = Path(paths.diagnosis(row))
            if diagnosis.is_dir():
                yield _Drawn(diagnosis, "backbone", of, recipe, backbone)
            behind = tokenizers.pop(read_manifest(of).inputs.get("tokenizer", ""), None)
            if behind is None:
                continue
            name = read_manifest(behind).facts["tokenizer"]
            folder = Path(paths.tokenizer_diagnosis(name, seed))
            if folder.is_dir():
                yield _Drawn(folder, "tokenizer", behind, name)


def _check_of(drawn: _Drawn, manifest: Manifest) -> None:
    wanted = read_manifest(drawn.of).digest
    found = manifest.inputs.get(drawn.role, "nothing")
    if found != wanted:
        raise UserError(
            str(drawn.folder),
            f"drawn of the {drawn.role} {found[:12]}, but {drawn.of} is now {wanted[:12]}",
            remedy=f"run python -m steps.{manifest.node} again",
        )


def reduced(png: bytes, limit: int = LIMIT) -> tuple[str, bytes]:
    """A picture of at most ``limit`` bytes: with a palette, else as JPEG, else smaller.

    Returns:
        Its suffix and its bytes.
    """
    with Image.open(BytesIO(png)) as image:
        plain = image.convert("RGB")
    small = BytesIO()
    plain.quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    if len(small.getvalue()) <= limit:
        return ".png", small.getvalue()
    for scale, quality in product(_SCALES, _QUALITIES):
        small = BytesIO()
        size = (round(plain.width * scale), round(plain.height * scale))
        plain.resize(size).save(small, "JPEG", quality=quality, optimize=True)
        if len(small.getvalue()) <= limit:
            break
    return ".jpg", small.getvalue()


def pictures_json(pictures: Sequence[Picture]) -> bytes:
    """The file that lists them; :func:`read_pictures` reads it back."""
    content = [picture.model_dump(mode="json") for picture in pictures]
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_pictures(folder: Path) -> tuple[Picture, ...]:
    """The pictures of a report; none where it has no list of any.

    Raises:
        UserError: the list is not what the report wrote.
    """
    path = folder / PICTURES
    if not path.is_file():
        return ()
    try:
        return TypeAdapter(tuple[Picture, ...]).validate_json(path.read_bytes())
    except ValidationError as error:
        problem = str(error).splitlines()[0]
        raise UserError(str(path), f"not what a report holds ({problem})") from error


def check_pictures(folder: Path, pictures: Sequence[Picture], figures: Iterable[str] = ()) -> None:
    """The files below a report's ``pictures/`` are those that its list names, byte by byte.

    Args:
        folder: the report's.
        pictures: the list.
        figures: paths below the folder of what is drawn from records, and not listed.

    Raises:
        UserError: naming the first that is not.
    """
    remedy = "make the report again with the commands at the end of its page"
    listed = {picture.file: picture.sha256 for picture in pictures}
    # Snakemake marks a folder that a rule makes.
    there = {path.name for path in (folder / FOLDER).glob("*")} - {".snakemake_timestamp"}
    there -= {figure.removeprefix(f"{FOLDER}/") for figure in figures}
    for name in sorted(there - listed.keys()):
        raise UserError(str(folder / FOLDER / name), f"not in {PICTURES}", remedy=remedy)
    for name, digest in listed.items():
        path = folder / FOLDER / name
        if not path.is_file():
            raise UserError(str(path), "missing", remedy=remedy)
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise UserError(str(path), f"differs from its digest in {PICTURES}", remedy=remedy)


# --- The section of a page that shows its pictures, each kind with what is seen


COLUMNS = 3
"""Number of pictures side by side."""
KINDS = {
    ("layout", "layout.png"): (
        "Where the class token looks",
        "One row per image: the image; the class token's attention to the patches in the last "
        "block, for the head whose masks fit the objects best over all images, from dark (lowest "
        "in the image) to bright (highest); the fewest patches that hold most of it; and the patch "
        "tokens, with their first three principal components as colours. A head may look away from "
        "objects; its mask then covers the rest. DINO's published figures come from networks "
        "trained on thousands of times more images.",
    ),
    ("detect", "detections.png"): (
        "Detections",
        "One row per image: the annotated objects, and those that the detector found.",
    ),
    ("diagnose", "reconstructions.png"): (
        "Reconstructions",
        "One row per held-out image: the image, the part that the encoder saw, and the decoder's "
        "prediction of the hidden patches. Where targets are normalised pixels, each patch is "
        "shown with its true mean and contrast, which the network does not predict.",
    ),
    ("diagnose", "position_error.png"): (
        "Position errors by location",
        "Distance of the predicted position, and how often it is exact, by the true position.",
    ),
    ("diagnose", "positions.png"): (
        "Position errors on images",
        "One row per held-out image: the image, and its patches from green (placed exactly) to red "
        "(off by a side of the image); dark patches were not predicted.",
    ),
    ("diagnose", "tokens.png"): (
        "Masks and tokens",
        "One row per held-out image: the image, the part that the encoder saw, the tokenizer's "
        "tokens, and the tokens predicted for the hidden patches (the others dark). Each token has "
        "one colour throughout; the colours themselves mean nothing.",
    ),
    ("tokenizer", "reconstructions.png"): (
        "What tokens keep of an image",
        "One row per held-out image: the image, and its reconstruction from tokens only.",
    ),
    ("tokenizer", "codebook.png"): (
        "Use of the codebook",
        "Share of held-out patches that each code takes, the most used first.",
    ),
    ("tokenizer", "codes.png"): (
        "What codes stand for",
        "One row per code, the most used first: held-out patches that have it.",
    ),
}
"""Title and caption of each kind of picture, in the order in which a page shows them."""
_UNSAID = ("head", "size")
"""Facts that say nothing beside a picture."""


def gallery(pictures: Sequence[Picture], shown_as: Callable[[str], str] = str) -> list[str]:
    """The section's paragraphs; none without pictures.

    Args:
        pictures: the report's.
        shown_as: gives a method's name as tables show it.
    """
    if not pictures:
        return []
    pictures = [each.model_copy(update={"recipe": shown_as(each.recipe)}) for each in pictures]
    seed = pictures[0].seed
    parts = ["## Pictures\n", f"From seed {seed}, reduced for this page.\n"]
    told: set[str] = set()
    key = "channels_shown"
    for kind, (title, caption) in KINDS.items():
        shown = [picture for picture in pictures if picture.kind == kind]
        if shown:
            manners = {str(picture.facts[key]) for picture in shown if key in picture.facts}
            said = "".join(f" Channels shown: {plain(manner)}." for manner in sorted(manners))
            parts += [f"### {title}\n", f"{caption}{said}\n", *_rows(shown, title)]
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
    """The method, and the backbone or protocol where pictures of its kind differ in it."""
    telling = [
        str(getattr(picture, key))
        for key in ("backbone", "protocol")
        if len({getattr(other, key) for other in among}) > 1
    ]
    return ", ".join([picture.recipe, *telling])


def _facts(pictures: Sequence[Picture], told: set[str]) -> list[str]:
    """The steps' numbers, one line per picture, once for all pictures of a folder."""
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
