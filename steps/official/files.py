"""Open a file of an official implementation as data, and never as code.

Of torch's format only tensors and plain values are read. Some official files hold other objects
too: the arguments of the training, whole modules (DALL-E), a TorchScript program (CLIP). None
of their classes is imported or run: each becomes a shell that holds what the object held, where
its name is known; anything else in a file is refused.
"""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from steps.artifacts import archives
from steps.command import UserError
from steps.data.values import shown


class Shell:
    """Placeholder for an object when its file is read."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


SETTINGS = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
"""Types of the arguments and counters of a training in MAE's, DINO's and iBOT's files."""
_CODE = re.compile(r"[^/]+/(?:code/|constants\.pkl$|constants/)")
"""Entries of a TorchScript archive beyond its state."""
_PROGRAM = ("__torch__.", "torch.jit._pickle.")
"""Prefixes of the names of a TorchScript program."""


def read_file(path: Path, shells: Iterable[str] = ()) -> Any:
    """The content of a file: a dict of tensors, of dicts and of plain values, or a shell.

    Args:
        path: safetensors by its suffix, else torch's format or a TorchScript archive.
        shells: classes that may stand in it besides those of ``SETTINGS``, by their full names.

    Raises:
        UserError: there is no such file, it is not of these formats, or it holds objects that are
            not known.
    """
    if not path.is_file():
        raise UserError(str(path), "no such file", remedy="give the path of the official file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        source = _state_alone(path)
        names = [*SETTINGS, *shells]
        if isinstance(source, io.BytesIO):
            found = get_unsafe_globals_in_checkpoint(source)
            names += [name for name in found if name.startswith(_PROGRAM)]
            source.seek(0)
        with safe_globals([(Shell, name) for name in names]):
            return torch.load(source, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch raises a dozen kinds for a file that is not its own
        raise _refusal(path, error) from error


def check_tensors(path: Path, content: Any) -> None:
    """Let a table of tensors pass that are dense and real, by names of text.

    Others load with a part of their numbers, such as complex ones without what is imaginary, or
    fail later in words of torch.

    Args:
        path: of the file, for the error.
        content: a table; what else stands in it, or instead of it, is not looked at.

    Raises:
        UserError: naming the first tensor that is none of these.
    """
    for name, tensor in content.items() if isinstance(content, Mapping) else ():
        if not isinstance(tensor, Tensor):
            continue
        if not isinstance(name, str):
            raise UserError(str(path), f"a tensor called {shown(name)}", allowed="names of text")
        kinds = {
            "sparse": tensor.layout != torch.strided,
            "complex": tensor.is_complex(),
            "without its numbers": tensor.is_meta,
        }
        for kind, holds in kinds.items():
            if holds:
                raise UserError(
                    str(path),
                    f"{name} is {kind}",
                    allowed="dense tensors of real numbers",
                    remedy="convert it where the file comes from",
                )


def tensors_in(
    content: Any, prefix: str = "", above: tuple[int, ...] = ()
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module that was read as shells, by name.

    A module of Python keeps parameters, buffers and modules apart, one of TorchScript has all of
    them as attributes. One that holds a module ``above`` itself leads round and is not entered.
    """
    if id(content) in above:
        return
    above = (*above, id(content))
    members: dict[str, Any] = content.__dict__ if isinstance(content, Shell) else content
    for room in ("_parameters", "_buffers", "_modules"):
        if isinstance(inner := members.get(room), dict):
            yield from tensors_in(inner, prefix, above)
    for name, value in members.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.detach()
        elif isinstance(value, Shell):
            yield from tensors_in(value, f"{prefix}{name}.", above)


def _state_alone(path: Path) -> Path | io.BytesIO:
    """The file itself, or a copy of a TorchScript archive without its program."""
    if not zipfile.is_zipfile(path):
        return path
    archives.check_sizes(path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not any(_CODE.match(name) for name in names):
            return path
        copy = io.BytesIO()
        with zipfile.ZipFile(copy, "w") as state:
            for name in names:
                if not _CODE.match(name):
                    # In parts: an entry may inflate to more than it says.
                    entry = zipfile.ZipInfo(name)
                    entry.file_size = archive.getinfo(name).file_size
                    with archive.open(name) as part, state.open(entry, "w") as kept:
                        shutil.copyfileobj(part, kept, 2**20)
    copy.seek(0)
    return copy


def _refusal(path: Path, error: Exception) -> UserError:
    return UserError(
        str(path),
        f"not readable as weights alone: {archives.reason(error)}",
        allowed="tensors and plain values",
        remedy="a file that holds other pickled objects runs code when it is opened: save its "
        "state_dict() where you trust it",
    )


_SHOWN = 8
"""Tensors that an error names."""


def check_fit(
    source: str,
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    remedy: str,
    allowed: str = "",
) -> None:
    """Raise unless two tables have the same names and shapes, and no weights are whole numbers.

    Args:
        source: of the found tensors, for the error.
        wanted: tensors of the backbone.
        found: tensors that it is to take.
        remedy, allowed: for the error.

    Raises:
        UserError: naming the first tensors that do not fit, and their number.
    """
    wrong = [f"no {name}" for name in wanted if name not in found]
    wrong += [f"unknown {name}" for name in found if name not in wanted]
    wrong += [
        f"{name} is {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    wrong += [
        f"{name} is {str(found[name].dtype).removeprefix('torch.')}, not floating"
        for name, tensor in wanted.items()
        if name in found and tensor.is_floating_point() > found[name].is_floating_point()
    ]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError(
            source,
            f"{len(wrong)} tensors do not fit the backbone: {'; '.join(wrong[:_SHOWN])}{more}",
            allowed=allowed,
            remedy=remedy,
        )
