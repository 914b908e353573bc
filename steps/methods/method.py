"""Interface of methods to the training loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steps.command import UserError
from steps.core.schedules import Progress
from steps.models.backbones import BackboneModel
from steps.models.teacher import Teacher
from steps.models.tokenizer import FixedTokenizer
from steps.params.methods.method import Method as Params
from steps.params.sets import Target

Draws = dict[str, Tensor]
"""Random choices by name, each with the batch as its first axis."""
Losses = dict[str, Tensor]
""""loss" is minimised; the others are logged. All are scalars, means over the batch."""


Encoded = dict[str, Tensor]
"""Outputs of a network for each sample on its own, with the batch as first axis."""


@dataclass(frozen=True)
class Batch:
    """Images of B samples, normalised.

    ``views`` has one (B, 3, H, W) tensor per view, in the order of the recipe's list; ``labels``
    is (B,) int64, -1 where the set has none, or as ``Samples.labels`` says; ``text`` is the token
    ids of a caption of each image, (B, L) int64, for methods with a text tower.
    """

    views: list[Tensor]
    labels: Tensor
    text: Tensor | None = None


@dataclass(frozen=True)
class MethodContext:
    """Inputs of a method beyond its params and its backbone."""

    views: int = 1
    """Number of views of each image."""
    sides: tuple[int, ...] = ()
    """Side of each view, in pixels."""
    num_classes: int = 0
    """Classes of the data set; 0 if it has no labels."""
    target: Target = "class"
    """Target of a labelled data set."""
    numbers: tuple[float, float] = (0.0, 1.0)
    """Mean and standard deviation of the numbers that are the target."""
    teacher: Teacher | None = None
    """The recipe's fixed teacher, in eval mode."""
    tokenizer: FixedTokenizer | None = None
    """The recipe's tokenizer, in eval mode."""
    vocabulary: int = 0
    """Tokens in the vocabulary of captions; 0 if there are no captions."""


class Method(nn.Module):
    """A pretraining method around a backbone.

    ``forward`` is a pure function of the weights and its inputs; ``sample`` makes every random
    choice beforehand. State that is not learnt by gradient (teacher, centre) moves in
    ``after_step``, or in ``before_step`` where the reference moves it ahead of the losses.

    ``steps.methods.build`` finds a method by its module's name and builds it from its params, its
    backbone and the context: the arguments of every constructor.
    """

    paired = False
    """True if samples 2k and 2k + 1 of a global batch are mixed. A part of the batch then comes
    with the partners that it lacks, and a draw ``own`` (B,) bool that is False for those: the
    losses are not of them."""

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """All random choices for ``batch`` samples, drawn on the CPU."""
        return {}

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        """The losses of a batch."""
        raise NotImplementedError

    def adopt_weights(self) -> None:
        """Adapt the backbone to the method, once it has pretrained weights in place of its own.

        Moving averages become copies of it afterwards.
        """

    def start(self, parts: Iterable[tuple[Batch, Draws]]) -> None:
        """Prepare for step 0, given the parts of its batch that this process will train on.

        Parts are only read when iterated over. A resumed run does not start again.
        """

    def before_step(self, progress: Progress) -> None:
        """Run before the losses of ``progress.step``, once for all parts of its batch."""

    def without_gradient(self, progress: Progress) -> Iterable[nn.Parameter]:
        """Parameters that this step does not update: their gradients are dropped after clipping."""
        return ()

    def with_zero_lr(self, progress: Progress) -> Iterable[nn.Parameter]:
        """Parameters whose learning rate is 0 in this step. Unlike those ``without_gradient`` they
        still update the optimiser's moments.
        """
        return ()

    def submodules(self) -> Iterable[nn.Module]:
        """Parts whose gradients are clipped separately if a recipe clips by submodule."""
        return self.children()

    def after_step(self, progress: Progress) -> Mapping[str, float | Tensor]:
        """Run after the optimiser's update of ``progress.step``; returns values to log."""
        return {}

    def enter_final_phase(self, sides: Sequence[int]) -> None:
        """Get ready for the views of the recipe's final phase; parameters may change shape.

        Called only for methods whose params have ``final_phase``.

        Args:
            sides: of each view, in pixels.
        """
        raise NotImplementedError

    def embeddings(self, batch: Batch) -> Tensor | None:
        """Features (B, D) for the collapse watch (``steps.engine.watch``).

        They are the learning network's, of one view of each sample, as downstream tasks take them.
        A method that pulls views together returns them; None: nothing can collapse. It is
        called at logged steps, in evaluation mode, without gradient.
        """
        return None

    def chance(self, batch: int) -> dict[str, float]:
        """Losses of a network that says the same of every image, by the names of logged losses.

        Log lines show them beside the losses. A loss without such a number is left out.

        Args:
            batch: images of a global batch.
        """
        return {}

    def export_backbone(self) -> BackboneModel:
        """The backbone that downstream tasks take."""
        raise NotImplementedError

    def heads(self) -> dict[str, Tensor]:
        """Weights beside the exported backbone, for a student, a task or pictures, by name."""
        return {}


class BatchCoupledMethod(Method):
    """A method whose loss couples all samples of the batch: negatives, Sinkhorn, batch norm.

    Its forward pass has two parts. ``encode`` is the expensive part and treats samples
    independently, so it can run on one chunk of the batch at a time. ``losses`` is cheap, needs the
    whole batch of a process, and gathers the other processes' part with gradient.
    """

    @property
    def is_batch_coupled(self) -> bool:
        """False where params leave no coupling: then the mean of chunks' losses is the batch's."""
        return True

    def encode(self, batch: Batch, draws: Draws, progress: Progress) -> Encoded:
        """Outputs of the online and momentum networks for each sample."""
        raise NotImplementedError

    def losses(self, encoded: Encoded, draws: Draws, progress: Progress) -> Losses:
        """The losses of a process's whole batch."""
        raise NotImplementedError

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        # A batch that goes through at once needs no cache of gradients between the two parts.
        return self.losses(self.encode(batch, draws, progress), draws, progress)


def besides_backbone(method: Method) -> dict[str, Tensor]:
    """All weights of a method except those of its ``backbone``, which it exports."""
    weights = method.state_dict()
    # The dot keeps a sibling such as backbone_head out of the match.
    return {name: tensor for name, tensor in weights.items() if not name.startswith("backbone.")}


def check_fit(params: Params, patches: int, depth: int) -> None:
    """Check the params against the backbone, as the plan does when params files tell its depth.

    Raises:
        UserError: naming the key of the method.
    """
    if (incompatibility := params.incompatibility(patches, depth)) is not None:
        # The plan says the same with the file's name, before any work.
        key, found, allowed = incompatibility
        raise UserError(f"method.{key}", found, allowed=allowed)
