"""A run of a step that makes an artifact by training: pretrain, tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.artifacts import Draft, identify, publish
from steps.artifacts.identity import Identity
from steps.command.machine import writing
from steps.data.loader import DatasetFacts, TrainingViews
from steps.engine.budget import facts_within, own_share, within_budget
from steps.engine.checkpoint import scratch
from steps.engine.loggers import open_loggers
from steps.engine.loop import OnlineAccuracy, Outcome, fit
from steps.engine.monitor import METRICS, TIMING
from steps.methods.method import Method
from steps.params.base import Params
from steps.params.budget import Budget
from steps.params.recipe import Training, epoch_name

if TYPE_CHECKING:
    from lightning.fabric import Fabric

KEPT, OUTCOME = "kept", "outcome.json"
"""Folder of the weights of ``training.keep_epochs``, and the file of what they cost."""
SETS = ("data", "knn")
"""Roles of inputs that are prepared sets: of the training, and of ``training.knn``."""


@dataclass(frozen=True)
class Run:
    """Request of such a step: params, inputs, seed and the place of its result."""

    node: str
    params: Mapping[str, Params]
    """By role."""
    files: Mapping[str, Path]
    """Params files by role; the first one is named in errors."""
    inputs: Mapping[str, Path | None]
    """Artifacts by role: ``SETS``, and a teacher, a tokenizer or initial weights if there are
    any."""
    seed: int
    out: Path
    started: float
    """``time.monotonic()`` when the step began."""

    @property
    def where(self) -> str:
        """The params file that errors name."""
        return str(next(iter(self.files.values())))

    @property
    def given(self) -> dict[str, Path]:
        """The inputs given."""
        return {role: path for role, path in self.inputs.items() if path is not None}

    def identity(self, subject: str, **more: Any) -> Identity:
        """The identity of the run, with what ``identify`` takes ``more``."""
        # Checkpoints of earlier versions hold a tokenizer's params under this role.
        roles = {"tokenizer": "recipe"}
        return identify(
            self.node,
            subject,
            params={roles.get(role, role): each for role, each in self.params.items()},
            files={roles.get(role, role): path for role, path in self.files.items()},
            inputs=self.given,
            seed=self.seed,
            out=self.out,
            **more,
        )

    def publish(self) -> AbstractContextManager[Draft]:
        """Publish the artifact, as ``steps.artifacts.publish`` does."""
        return publish(
            self.out,
            node=self.node,
            params={role: each.resolved() for role, each in self.params.items()},
            inputs=self.given,
            sources=self.files,
            seed=self.seed,
        )

    def within(
        self,
        budget: Budget | None,
        training: Training,
        method: Method,
        views: TrainingViews,
        facts: DatasetFacts,
    ) -> tuple[Training, list[float] | None, dict[str, Any]]:
        """The training at the length that a budget gives it.

        Returns:
            The training; FLOPs per image in each phase; facts for the manifest. Without a budget
            the training as it is, and no more.

        Raises:
            UserError: as ``own_share`` and ``within_budget``.
        """
        if budget is None:
            return training, None, {}
        # The training of initial weights counts nothing, and pages say so.
        aside = (*SETS, "init")
        behind = {role: path for role, path in self.given.items() if role not in aside}
        own = own_share(budget, behind)
        training, flops = within_budget(training, budget, own, method, views, facts, self.where)
        return training, flops, facts_within(training, behind.values())

    @contextmanager
    def train(
        self,
        fabric: Fabric,
        method: Method,
        views: TrainingViews,
        facts: DatasetFacts,
        training: Training,
        identity: Identity,
        *,
        depth: int,
        title: str,
        checkpoint: Path | None,
        about: Mapping[str, Any],
        knn: OnlineAccuracy | None = None,
        flops: Sequence[float] | None = None,
        save: Callable[[Path], None] | None = None,
    ) -> Iterator[Draft | None]:
        """Train, from the last checkpoint if there is one, then publish from the first process.

        Args:
            fabric, method, views, facts, training, depth, title, knn, flops: as ``fit`` takes them.
            identity: names the scratch folder.
            checkpoint: another one to go on from.
            about: facts for the manifest.
            save: writes the weights as they are now into an existing folder, for those of
                ``training.keep_epochs``.

        Yields:
            The draft, which has the logs and facts of the run already and lacks the weights; None
            in other processes than the first.
        """
        opened = partial(
            open_loggers, training.loggers, out=self.out, title=title, where=self.where
        )
        with scratch(identity, self.started, owner=fabric.global_rank == 0) as place:
            fabric.barrier()  # until the first process owns the folder
            outcome = fit(
                fabric,
                method,
                views,
                facts,
                training,
                depth=depth,
                seed=self.seed,
                scratch=place,
                where=self.where,
                title=title,
                knn=knn,
                flops=flops,
                resume=place.load(checkpoint),
                loggers=partial(opened, scratch=place.folder),
                keep=None if save is None else partial(_keep, save, place.folder / KEPT),
            )
            # One process writes the artifact; the others had only to train.
            if fabric.global_rank > 0:
                yield None
                return
            with self.publish() as draft:
                draft.seconds_before = place.seconds
                # Copied, not moved: a kill before the artifact is there leaves the scratch whole.
                for log in (METRICS, TIMING):
                    shutil.copyfile(place.folder / log, draft.path / log)
                draft.logs.add(TIMING)
                draft.facts.update(about, **asdict(outcome), **place.taken_up)
                if training.keep_epochs:
                    shutil.copytree(place.folder / KEPT, draft.path / KEPT)
                    names = (epoch_name(epoch) for epoch in training.keep_epochs)
                    draft.logs.update(f"{KEPT}/{name}/{OUTCOME}" for name in names)
                yield draft


def _keep(
    save: Callable[[Path], None], folder: Path, epoch: float, step: int, outcome: Outcome
) -> None:
    """Write the weights of an epoch below ``folder``, whole or not at all, with what they cost.

    A run that resumes from before that epoch writes the same again.
    """
    name = epoch_name(epoch)
    final, draft = folder / name, folder / f"{name}.new"
    with writing(final):
        for path in (draft, final):
            shutil.rmtree(path, ignore_errors=True)
        draft.mkdir(parents=True)
        save(draft)
        facts = {"step": step, **asdict(outcome)}
        (draft / OUTCOME).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        # The last act: a kill before it leaves a draft, which the next try removes.
        draft.rename(final)
