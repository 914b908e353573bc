"""The frame of a task's step: its command line, protocol, scratch folder, pictures and records."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from steps.artifacts import publish, read_manifest, write_scores
from steps.artifacts.identity import identify_evaluation
from steps.artifacts.manifest import MANIFEST
from steps.artifacts.publish import Draft, check_places
from steps.command import UserError, place
from steps.engine.checkpoint import Scratch, scratch
from steps.engine.devices import claim_gpu
from steps.params.base import Params
from steps.params.channels import check_protocol, in_words
from steps.params.load import load
from steps.params.sets import RGB

if TYPE_CHECKING:
    from steps.artifacts.decisions import Decisions
    from steps.evaluation.accuracy import Classified
    from steps.evaluation.targets import Estimated, Labelled

P = TypeVar("P", bound=Params)


class TaskStep(Generic[P]):
    """A run of a task on a backbone.

    Args:
        name: the task; the step is ``steps/<name>.py``.
        about: the step's docstring, whose first line is the description of its command.
        model: params model of the protocol.
        arguments: of the command line; None: those of the process.
        data, features, pictures: help texts of these options; None: it has no such option.
        pictures_needed: ``--pictures`` may not be left out.
        record: ``--out`` is a record file; False: an artifact.
        decides: decisions are written beside the record.
        further: adds options that only this step has.

    Raises:
        UserError: the protocol is not valid, a result has no place where it is to go, or the
            backbone takes other channels than the set's images have.
    """

    def __init__(
        self,
        name: str,
        about: str | None,
        model: type[P],
        arguments: Sequence[str] | None,
        *,
        data: str,
        features: str | None = None,
        pictures: str | None = None,
        pictures_needed: bool = True,
        record: bool = True,
        decides: bool = True,
        further: Callable[[argparse.ArgumentParser], None] | None = None,
    ) -> None:
        self.started = time.monotonic()
        self.name = name
        parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
        parser.add_argument("--protocol", type=Path, required=True, help="params/protocols/*.yaml")
        parser.add_argument("--backbone", type=Path, required=True, help="a backbone artifact")
        if features is not None:
            parser.add_argument("--features", type=Path, required=True, help=features)
        parser.add_argument("--data", type=Path, required=True, help=data)
        if pictures is not None:
            needed = pictures_needed
            parser.add_argument("--pictures", type=place, required=needed, help=pictures)
        parser.add_argument("--out", type=place, required=True, help="where the result goes")
        if further is not None:
            further(parser)
        self.options = parser.parse_args(arguments)
        check_places(self.options, name, record=record, decisions=record and decides)
        self.protocol: P = load(self.options.protocol, model)
        roles = ("backbone", "data") if features is None else ("backbone", "features", "data")
        self.inputs: dict[str, Path] = {role: getattr(self.options, role) for role in roles}
        """Artifacts that the result is made of, by role."""
        self._scratch: Scratch | None = None
        self._check_channels()

    def _check_channels(self) -> None:
        """Check that the set has the channels that the backbone takes, in views that they can have.

        What is no artifact is left to the step, which says so.
        """
        options = self.options
        if not all((path / MANIFEST).is_file() for path in (options.backbone, options.data)):
            return
        wanted = read_manifest(options.backbone).facts.get("channels", RGB[0])
        facts = self.data_facts
        form = (facts.get("channels", RGB[0]), facts.get("bits", RGB[1]))
        if form[0] != wanted:
            raise UserError(
                str(options.data),
                f"images of {in_words(form)}, and {options.backbone} takes {wanted} channels",
                allowed=f"a set of {wanted} channels",
                remedy="evaluate on such a set, or pretrain on this one",
            )
        check_protocol(str(options.protocol), self.protocol, form, str(options.data))

    @cached_property
    def seed(self) -> int:
        """The seed of the backbone, which the task uses too."""
        return read_manifest(self.options.backbone, "pretrain").seed or 0

    @cached_property
    def data_facts(self) -> Mapping[str, Any]:
        """Facts of the prepared set."""
        return read_manifest(self.options.data, "prepare").facts

    @cached_property
    def device(self) -> str:
        """A free GPU, or the CPU."""
        claim_gpu()
        return "cuda" if torch.cuda.is_available() else "cpu"

    @contextmanager
    def scratch(
        self, *, owner: bool = True, further: Mapping[str, Any] | None = None
    ) -> Iterator[Scratch]:
        """The scratch folder, in which a run that was killed resumes.

        Args:
            owner: False on all processes but the first.
            further: JSON values that decide the result, besides protocol, inputs and seed.
        """
        identity = identify_evaluation(
            self.name,
            self.protocol,
            self.options.protocol,
            inputs=self.inputs,
            dataset=self.data_facts["dataset"],
            out=self.options.out,
            further=further,
        )
        with scratch(identity, self.started, owner=owner) as self._scratch:
            yield self._scratch

    def pictures(self) -> AbstractContextManager[Draft]:
        """A draft of the folder of pictures, published on a clean exit."""
        return publish(
            self.options.pictures,
            node=self.name,
            params=self.protocol.resolved(),
            inputs=self.inputs,
            seed=self.seed,
        )

    def write(
        self,
        scores: Mapping[str, tuple[float, int]],
        *,
        decisions: Decisions | None = None,
        facts: Mapping[str, Any] | None = None,
        unit: str = "%",
        units: Mapping[str, str] | None = None,
    ) -> None:
        """Write the records, and decisions beside them.

        Args:
            scores: by metric, each with the number of samples that it is a mean over.
            decisions: behind the scores.
            facts: anything else worth keeping.
            unit: of all scores.
            units: of some scores, by metric, in place of ``unit``.
        """
        resumed = {} if self._scratch is None else self._scratch.taken_up
        write_scores(
            self.options.out,
            scores,
            task=self.name,
            protocol=self.options.protocol,
            params=self.protocol.resolved(),
            inputs=self.inputs,
            dataset=self.data_facts["dataset"],
            started=self.started if self._scratch is None else self._scratch.started,
            unit=unit,
            units=units,
            facts={**(facts or {}), **resumed},
            decisions=decisions,
        )

    def write_classified(
        self,
        decided: Classified,
        ids: Sequence[str],
        *,
        scores: Mapping[str, tuple[float, int]] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the records of a classifier of the validation images.

        Args:
            decided: for each image.
            ids: of the images.
            scores: other than those of ``decided``.
            facts: besides those of ``decided``.
        """
        classes = self.data_facts["classes"]
        self.write(
            decided.scores(len(classes)) if scores is None else scores,
            decisions=decided.decisions(ids),
            facts={**(facts or {}), **decided.facts(classes)},
        )

    def write_predicted(
        self,
        decided: Labelled | Estimated,
        ids: Sequence[str],
        *,
        scores: Mapping[str, float] | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the records of a probe on several labels per image, or on numbers.

        Args:
            decided: for each image of the validation set.
            ids: of the images.
            scores: other than those of ``decided``; what precedes a _ in a name is the metric.
            facts: besides those of ``decided``.
        """
        from steps.evaluation.targets import UNITS

        values = decided.metrics() if scores is None else scores
        self.write(
            {metric: (value, len(ids)) for metric, value in values.items()},
            decisions=decided.decisions(ids),
            facts={**(facts or {}), **decided.facts(self.data_facts["classes"])},
            units={
                metric: UNITS[metric.partition("_")[0]]
                for metric in values
                if metric.partition("_")[0] in UNITS
            },
        )
