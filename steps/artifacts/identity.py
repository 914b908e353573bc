"""The identity of a run: its params, its inputs, the code that it imports, its libraries.

A run resumes from the checkpoint of a killed run with the same identity. The identity has
everything that decides the numbers, and nothing else: comments, docstrings, modules that the step
does not import, and the division of work over devices are left out.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from steps.artifacts.manifest import ROOT, digest_value, read_manifest
from steps.params.base import Params
from steps.params.load import load

PACKAGE = "steps"
LIBRARIES = {
    "PIL": ("pillow",),
    "lightning": ("lightning",),
    "mmdet": ("onedl-mmdetection", "onedl-mmcv", "onedl-mmengine"),
    "mmengine": ("onedl-mmengine",),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "timm": ("timm",),
    "tokenizers": ("tokenizers",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
}
"""Packages whose versions change numbers: name in an import, and distributions behind it."""
UNDECISIVE = (
    *("strategy", "max_batch_per_device", "workers", "checkpoint_seconds"),
    *("on_collapse", "loggers"),
)
"""Keys of training params that do not change results, so that a resumed run may change them."""


class Code(BaseModel):
    """Code of a step: digests of its modules, versions of its libraries."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    modules: dict[str, str]
    libraries: dict[str, str]

    def changes(self, other: Code) -> list[str]:
        """Modules and libraries that differ in ``other``, in words."""
        modules = {*self.modules.items()} ^ {*other.modules.items()}
        said = sorted({name for name, _ in modules})
        for name in sorted({*self.libraries, *other.libraries}):
            ours, theirs = self.libraries.get(name), other.libraries.get(name)
            if ours != theirs:
                said.append(f"{name} {ours or 'none'} to {theirs or 'none'}")
        return said


class Identity(BaseModel):
    """Everything that decides the result of a run, and where it was read from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: str
    subject: str
    """Readable name of the run; runs of one subject compute the same, or once did."""
    params: dict[str, Any]
    """Resolved params by role, without keys that do not change results."""
    inputs: dict[str, str]
    """Digest of each input artifact by role."""
    seed: int | None
    code: Code
    further: dict[str, Any] = {}
    """Further values that change results: a vocabulary's digest, the number of processes."""
    models: dict[str, str] = {}
    """Params model of each role, as module:class. Neither this nor the fields below are part of the
    key."""
    files: dict[str, str] = {}
    """Params file of each role."""
    options: dict[str, float] = {}
    """Length and data share, if options change those of the recipe."""
    paths: dict[str, str] = {}
    """Folder of each input."""
    out: str = ""
    """Path of the result."""

    @property
    def key(self) -> str:
        """Digest of everything that changes results."""
        fields = {"node", "params", "inputs", "seed", "code", "further"}
        return digest_value(self.model_dump(include=fields))

    def now(self) -> Identity:
        """Identity of the same command with the current code.

        Raises:
            UserError: a params file or an input is missing or broken.
        """
        params = dict(self.params)
        for role, file in self.files.items():
            module, _, name = self.models[role].partition(":")
            read: Any = load(Path(file), getattr(importlib.import_module(module), name))
            if role == "recipe" and self.options:
                read = read.scaled(**self.options)
            params[role] = decisive(read.resolved())
        inputs = {role: read_manifest(Path(path)).digest for role, path in self.paths.items()}
        return self.model_copy(
            update={"params": params, "inputs": inputs, "code": code_of(self.node)}
        )

    def differences(self, other: Identity) -> list[str]:
        """Params, inputs and seed that differ in ``other``; empty if one checkpoint fits both."""
        said = []
        for role in sorted({*self.params, *other.params}):
            ours, theirs = (_flat(each.params.get(role)) for each in (self, other))
            changed = sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))
            if changed:
                said.append(f"params of {role} ({', '.join(changed)})")
        roles = {*self.inputs, *other.inputs}
        changed = sorted(r for r in roles if self.inputs.get(r) != other.inputs.get(r))
        said += [f"input {role}" for role in changed]
        if self.seed != other.seed:
            said.append("seed")
        said += sorted(
            name
            for name in {*self.further, *other.further}
            if self.further.get(name) != other.further.get(name)
        )
        return said


def subject(facts: Mapping[str, Any], seed: int | None) -> str:
    """Readable name of a backbone, from the facts of its pretraining."""
    name = f"{facts['recipe']} on {facts['backbone']}, {facts['pretrain_dataset']}"
    return f"{name}, seed {seed}"


def identify(
    node: str,
    subject: str,
    *,
    params: Mapping[str, Params],
    files: Mapping[str, Path],
    inputs: Mapping[str, Path],
    seed: int | None,
    out: Path,
    further: Mapping[str, Any] | None = None,
    options: Mapping[str, float] | None = None,
) -> Identity:
    """The identity of a run of a step.

    Args:
        node: the step.
        subject: its readable name, such as "mae on vit_pico, shapes, seed 0".
        params: by role.
        files: their paths, by the same roles.
        inputs: input artifacts by role.
        seed: of the run.
        out: where the result goes.
        further: JSON values that also change results.
        options: length and data share, if they differ from the recipe's.

    Raises:
        UserError: an input is not a whole artifact.
    """
    return Identity(
        node=node,
        subject=subject,
        params={role: decisive(each.resolved()) for role, each in params.items()},
        inputs={role: read_manifest(path).digest for role, path in inputs.items()},
        seed=seed,
        code=code_of(node),
        further=dict(further or {}),
        models={
            role: f"{type(each).__module__}:{type(each).__qualname__}"
            for role, each in params.items()
        },
        files={role: str(path) for role, path in files.items()},
        options=dict(options or {}),
        paths={role: str(path) for role, path in inputs.items()},
        out=str(out),
    )


def identify_evaluation(
    node: str,
    protocol: Params,
    file: Path,
    *,
    inputs: Mapping[str, Path],
    dataset: str,
    out: Path,
    further: Mapping[str, Any] | None = None,
) -> Identity:
    """The identity of a task that trains on a backbone, whose seed it has.

    Args:
        node: the step.
        protocol: its params.
        file: their path.
        inputs: input artifacts by role, ``backbone`` among them.
        dataset: name of the dataset that is measured on.
        out: path of the records.
        further: JSON values that also change results.
    """
    backbone = read_manifest(inputs["backbone"], "pretrain")
    seed = backbone.seed or 0
    return identify(
        node,
        f"{file.stem} on {dataset} of {subject(backbone.facts, seed)}",
        params={"protocol": protocol},
        files={"protocol": file},
        inputs=inputs,
        seed=seed,
        out=out,
        further=further,
    )


def decisive(params: dict[str, Any]) -> dict[str, Any]:
    """Resolved params without keys that do not change results.

    A run can resume on more or fewer processes, with either strategy.
    """
    training = params.get("training")
    if not isinstance(training, dict):
        return params
    kept = {key: value for key, value in training.items() if key not in UNDECISIVE}
    return {**params, "training": kept}


@functools.cache
def code_of(node: str) -> Code:
    """Code of a step: every module of ``steps`` that it imports, functions' imports included."""
    modules: dict[str, str] = {}
    libraries = {"python": ".".join(platform.python_version_tuple()[:2])}
    waiting = [f"{PACKAGE}.{node}"]
    while waiting:
        name = waiting.pop()
        if name in modules or (path := _file(name)) is None:
            continue
        tree = ast.parse(path.read_bytes())
        modules[name] = _digest(tree)
        for imported in _imported(tree):
            first = imported.partition(".")[0]
            if first == PACKAGE:
                parts = imported.split(".")
                waiting += [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
            elif first in LIBRARIES:
                libraries |= {name: _version(name) for name in LIBRARIES[first]}
    return Code(modules=dict(sorted(modules.items())), libraries=dict(sorted(libraries.items())))


def _file(module: str) -> Path | None:
    """Source of a module; None if the name is of something in a module."""
    path = ROOT.joinpath(*module.split("."))
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    path = path.with_suffix(".py")
    return path if path.is_file() else None


def _imported(tree: ast.AST) -> Iterator[str]:
    """Names of modules, or of things in them, that a syntax tree imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            for other in node.orelse:
                yield from _imported(other)
        else:
            if isinstance(node, ast.Call) and (package := _searched(node)) is not None:
                modules = ROOT.joinpath(*package.split(".")).glob("[!_]*.py")
                yield from (f"{package}.{file.stem}" for file in modules)
            yield from _imported(node)


def _searched(call: ast.Call) -> str | None:
    """Package of a call such as ``import_module(f"steps.methods.{name}")``: each of its modules
    may be the one that is imported.
    """
    match call:
        case ast.Call(
            func=ast.Name(id="import_module"),
            args=[ast.JoinedStr(values=[ast.Constant(value=str(start)), *_])],
        ):
            return start.rstrip(".")
    return None


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _digest(tree: ast.Module) -> str:
    """Digest of a module's syntax tree without comments, docstrings and line numbers."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(statement: ast.AST) -> bool:
    """True for a string without use: the docstring of a module, class, function or field."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings by their dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return leaves
