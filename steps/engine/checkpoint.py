"""Checkpoints of a running step, in a scratch folder that its identity names.

One process writes a whole checkpoint into a file. The processes of a sharded run write one
together, each its own shards (torch's distributed checkpoints, as safetensors). A run in any layout
reads both.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer as TorchOptimizer

from steps.artifacts import archives
from steps.artifacts.identity import Identity
from steps.artifacts.manifest import Required, digest_file
from steps.artifacts.scratch import ScratchFolder, folder_of, own_folder
from steps.command import UserError
from steps.command.machine import writing
from steps.core.distributed import rank

if TYPE_CHECKING:
    from steps.methods.method import Method

FILE = "checkpoint.pt"
SHARDS = "shards-"
"""Prefix of the folder of a sharded checkpoint; the time follows, so that names are unique."""
REMEDY = "remove it and run again: the run starts from the beginning"
_FACTS, _DIGESTS = "checkpoint.json", "digests"

Kind = tuple[torch.Size, torch.dtype]


class Tensors(Protocol):
    """The tensors of a checkpoint by name."""

    def kinds(self) -> dict[str, Kind]:
        """Size and type of each tensor."""

    def fill(self, targets: dict[str, Tensor]) -> None:
        """Copy each into its target, of which a process may hold only some rows."""


class WholeTensors:
    """Tensors from a file that one process wrote."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def kinds(self) -> dict[str, Kind]:
        return {name: (tensor.shape, tensor.dtype) for name, tensor in self._tensors.items()}

    @torch.no_grad()
    def fill(self, targets: dict[str, Tensor]) -> None:
        for name, target in targets.items():
            whole = self._tensors[name]
            if isinstance(target, DTensor):
                # Every process has read the file, so that none has to send rows to others.
                whole = distribute_tensor(
                    whole.to(target.device),
                    target.device_mesh,
                    target.placements,
                    src_data_rank=None,
                )
            target.copy_(whole)


class ShardedTensors:
    """Tensors from a folder that several processes wrote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def kinds(self) -> dict[str, Kind]:
        found = self._reader().read_metadata().state_dict_metadata
        return {
            name: (one.size, one.properties.dtype)
            for name, one in found.items()
            if isinstance(one, TensorStorageMetadata)
        }

    def fill(self, targets: dict[str, Tensor]) -> None:
        load(dict(targets), storage_reader=self._reader(), no_dist=not dist.is_initialized())

    def _reader(self) -> HuggingFaceStorageReader:
        # Torch's own format holds pickled objects, which run code when they are read.
        return HuggingFaceStorageReader(str(self._folder))


class Scratch(ScratchFolder):
    """A scratch folder with checkpoints of tensors."""

    @property
    def checkpoint(self) -> Path | None:
        """The last good checkpoint, a file or a folder; None if there is none."""
        found = [path for path in (self.folder / FILE, *self._folders()) if path.exists()]
        # There are two only after a kill between writing one and removing the other.
        return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)

    def save(self, state: dict[str, Any], step: int) -> None:
        """Write the checkpoint after ``step`` steps; a kill leaves the old one or the new one."""
        final = self.folder / FILE
        with writing(final):
            archives.save({**self._header(), **state}, final)
        self._remove(self._folders())
        self.mark(step)

    def save_shards(self, facts: dict[str, Any], tensors: dict[str, Tensor], step: int) -> None:
        """Write a checkpoint from all processes, each its own rows; it too is whole or absent.

        Args:
            facts: JSON values; those of the first process are written.
            tensors: in any layout, with the same names in all processes.
            step: steps made.
        """
        draft = self.folder / "shards.new"
        with writing(draft):
            if rank() == 0:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir()
            dist.barrier()
            digests = _save_shards(draft, tensors)
            if rank() > 0:
                return
            with (draft / _FACTS).open("w", encoding="utf-8") as file:
                json.dump({**self._header(), **facts, _DIGESTS: digests}, file)
                file.flush()
                os.fsync(file.fileno())
        # The name appears once every shard is on the disk, so that a folder of that name is whole.
        before = [*self._folders(), self.folder / FILE]
        draft.rename(self.folder / f"{SHARDS}{time.time_ns()}")
        self._remove(before)
        self.mark(step)

    def load(self, path: Path | None = None) -> dict[str, Any] | None:
        """The last checkpoint, or None; ``path`` names another one to continue from.

        Its "tensors", if it has any, are ``Tensors``.

        Raises:
            UserError: it is unreadable or damaged, or belongs to another recipe, data set or code;
                or, on access, it lacks a key.
        """
        source = path or self.checkpoint
        if source is None:
            return None
        state = read_checkpoint(source)
        self._check(source, state, given=path is not None)
        return state

    def _header(self) -> dict[str, Any]:
        return {"identity": None if self.identity is None else self.identity.model_dump()}

    def _check(self, source: Path, state: dict[str, Any], *, given: bool) -> None:
        """Check that a checkpoint is of this run.

        In the run's own folder, which its identity names, the checkpoint may be of older code, if
        the folder was taken up. A checkpoint that the user gives must be of the same code.
        """
        if self.identity is None:
            return
        try:
            identity = Identity.model_validate(state.get("identity"))
        except ValidationError as error:
            raise UserError(
                str(source),
                "a checkpoint that does not say what it is of",
                allowed="one that the same command wrote",
                remedy="leave out --checkpoint, or remove the file",
            ) from error
        if asked := identity.differences(self.identity):
            raise UserError(
                str(source),
                f"a checkpoint of another recipe, data set or seed: {', '.join(asked)} differ",
                allowed="one that the same command wrote",
                remedy="leave out --checkpoint, or restore what it was made with",
            )
        if given and (changed := identity.code.changes(self.identity.code)):
            raise UserError(
                str(source),
                f"a checkpoint of other code: {', '.join(changed)} changed",
                allowed="one that the code here wrote",
                remedy="leave out --checkpoint; python -m workflow.scratch lists what can be taken "
                "up all the same",
            )

    def _folders(self) -> list[Path]:
        return [*self.folder.glob(f"{SHARDS}*")]

    @staticmethod
    def _remove(paths: list[Path]) -> None:
        for path in paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def read_checkpoint(source: Path) -> Required:
    """The content of a checkpoint, on the CPU.

    Raises:
        UserError: it is unreadable or damaged; or, on access, it lacks a key.
    """
    try:
        return Required(_read(source), str(source), REMEDY)
    except UserError:
        raise
    except Exception as error:  # torch raises a dozen kinds on a file of another format
        found = f"not a readable checkpoint: {archives.reason(error)}"
        raise UserError(str(source), found, remedy=REMEDY) from error


def _read(source: Path) -> dict[str, Any]:
    state: Any
    if source.is_dir():
        state = json.loads((source / _FACTS).read_bytes())
        for name, digest in state.get(_DIGESTS, {}).items():
            if digest_file(source / name) != digest:
                raise ValueError(f"damaged: {name} in it differs from its checksum")
        return {**state, "tensors": ShardedTensors(source)}
    state = archives.read(source)
    if not isinstance(state, dict):
        return {}
    if "tensors" in state:
        state["tensors"] = WholeTensors(Required(state["tensors"], f"{source}: tensors", REMEDY))
    return state


def _save_shards(folder: Path, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Write each process's rows; return the digest of each file, in all processes."""
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        # Returns when all processes have written their files to the disk.
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        for failed, _ in error.failures.values():
            if isinstance(failed, OSError):
                raise failed from error
        raise
    world = dist.get_world_size()
    mine = sorted(folder.glob("*.safetensors"))[rank() :: world]
    parts: list[dict[str, str]] = [{}] * world
    dist.all_gather_object(parts, {path.name: digest_file(path) for path in mine})
    return {name: digest for part in parts for name, digest in part.items()}


@contextmanager
def scratch(identity: Identity, started: float, *, owner: bool = True) -> Iterator[Scratch]:
    """The scratch folder of a run, which is removed if the step ends well and kept if it fails.

    Args:
        identity: identity of the run.
        started: ``time.monotonic()`` when the step began.
        owner: True in the first process only.

    Raises:
        UserError: another process runs the same step.
    """
    if not owner:
        yield Scratch(folder_of(identity), identity, started)
        return
    with own_folder(identity) as folder:
        yield Scratch(folder, identity, started)


# --- Weights and moments as named tensors, with the same names in every layout


_METHOD, _OPTIMIZER = "method.", "optimizer."


def tensors_of(method: Method, optimizer: TorchOptimizer) -> dict[str, Tensor]:
    """Tensors ``method.<name>`` of the state dict and ``optimizer.<parameter>.<name>`` of moments.

    They are the live tensors, not copies. Moments are named by parameter rather than numbered.
    Rates are left out, because they are set at every step.
    """
    tensors = {f"{_METHOD}{name}": tensor for name, tensor in method.state_dict().items()}
    names: dict[Tensor, str] = {tensor: name for name, tensor in method.named_parameters()}
    for parameter, state in optimizer.state.items():
        for name, tensor in state.items():
            tensors[f"{_OPTIMIZER}{names[parameter]}.{name}"] = tensor
    return tensors


def restore(method: Method, optimizer: TorchOptimizer, saved: Tensors) -> None:
    """Load saved tensors, of any layout, into a method and a fresh optimiser."""
    targets = {f"{_METHOD}{name}": tensor for name, tensor in method.state_dict().items()}
    parameters = dict(method.named_parameters())
    for key, (size, dtype) in saved.kinds().items():
        if not key.startswith(_OPTIMIZER):
            continue
        name, _, moment = key.removeprefix(_OPTIMIZER).rpartition(".")
        parameter = parameters[name]
        # Moments are laid out like their parameter; a counter of steps is whole in every process.
        if size == parameter.shape:
            targets[key] = torch.zeros_like(parameter, dtype=dtype)
        else:
            targets[key] = torch.zeros(size, dtype=dtype, device=parameter.device)
        optimizer.state[parameter][moment] = targets[key]
    saved.fill(targets)
