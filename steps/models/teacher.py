"""A fixed teacher: a backbone artifact of ours that another training learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from steps.command import UserError
from steps.models.backbones import HEADS, Transformer, load_backbone, normalisation
from steps.models.heads import PrototypeHead, head_of
from steps.models.tokens import embed, encode

# --- A network that a method uses and never trains


M = TypeVar("M", bound=nn.Module)


class FixedNetwork(nn.Module, Generic[M]):
    """A network that its owner uses and never trains: in eval mode, without gradients.

    It follows its owner from device to device. Its weights are not among the owner's parameters,
    so that nothing optimises them or sends them between processes, and not in its state dict, so
    that no checkpoint carries them.
    """

    def __init__(self, network: M) -> None:
        super().__init__()
        # A tuple, because nn.Module would register an attribute that is a module.
        self._network = (network.eval().requires_grad_(False),)

    @property
    def network(self) -> M:
        """The network."""
        return self._network[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # ``nn.Module`` only moves what is registered.
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)


# --- From one normalisation of images to another


Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation per channel, of pixels in 0 to 1."""
PIXELS: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Pixels in 0 to 1 themselves."""


def pixels_of(channels: int) -> Normalisation:
    """Pixels in 0 to 1 themselves, of images of a number of channels."""
    return (0.0,) * channels, (1.0,) * channels


class Renormalise(nn.Module):
    """Images (B, 3, H, W) with one mean and deviation taken out, to another's.

    Where the two are the same, the images pass untouched, to the bit.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, given: Normalisation, wanted: Normalisation) -> None:
        super().__init__()
        (mean, std), (own_mean, own_std) = (
            [torch.tensor(list(values), dtype=torch.float64).view(1, -1, 1, 1) for values in pair]
            for pair in (given, wanted)
        )
        # Decided once: in ``forward`` a GPU would make the host wait for the answer.
        self.same = bool((mean == own_mean).all() and (std == own_std).all())
        # Computed in float64 and rounded once.
        self.register_buffer("scale", (std / own_std).float(), persistent=False)
        self.register_buffer("shift", ((mean - own_mean) / own_std).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W), of the same size."""
        return images if self.same else images * self.scale + self.shift


PROJECTION = "projection.weight"
"""Among the heads of a method with two towers: (P, D), from tokens into the space they share."""

CENTER = "center"
"""Among the heads of DINO and iBOT: (1, K), the centre of the head's logits."""


class Teacher(FixedNetwork[Transformer]):
    """A pretrained backbone in eval mode, with the heads that its method left beside it."""

    projection: Tensor | None

    def __init__(
        self, backbone: Transformer, heads: dict[str, Tensor], renormalise: Renormalise
    ) -> None:
        super().__init__(backbone)
        self.heads = heads
        """Weights by name, on the CPU, as its method's ``heads`` gave them; often none."""
        self.renormalise = renormalise
        self.register_buffer("projection", heads.get(PROJECTION), persistent=False)

    @property
    def backbone(self) -> Transformer:
        """The network itself. Images must first go through ``renormalise``."""
        return self.network

    @torch.no_grad()
    def tokens(self, images: Tensor) -> Tensor:
        """All tokens after the final norm: (B, 3, H, W) to (B, 1 + N, D).

        Images are normalised as in a batch. Those of another size than the teacher's own get a
        resized position table.
        """
        images = self.renormalise(images)
        tokens: Tensor = self.backbone.norm(encode(self.backbone, embed(self.backbone, images)))
        return tokens

    def patches(self, images: Tensor, *, projected: bool = False) -> Tensor:
        """Patch tokens after the final norm: (B, 3, H, W), normalised as in a batch, to (B, N, D).

        Args:
            images: (B, 3, H, W).
            projected: after the projection into the space shared with text, (B, N, P).

        Raises:
            ValueError: ``projected``, but the teacher has no projection.
        """
        tokens = self.tokens(images)[:, self.backbone.num_prefix_tokens :]
        if not projected:
            return tokens
        if self.projection is None:
            raise ValueError("the teacher has no projection")
        return F.linear(tokens, self.projection)

    def width(self, *, projected: bool = False) -> int:
        """The width of ``patches``."""
        if projected and self.projection is not None:
            return len(self.projection)
        return int(self.backbone.embed_dim)


def prototypes_of(teacher: Teacher, prototypes: int) -> PrototypeHead:
    """The head over prototypes that DINO or iBOT left beside a teacher's backbone.

    Args:
        teacher: pretrained by one of them.
        prototypes: as many as the student's head has.

    Raises:
        UserError: it has no such head, or other prototypes.
    """
    if "head.last_layer.weight_v" not in teacher.heads or CENTER not in teacher.heads:
        raise UserError(
            "recipe: teacher",
            "a backbone without a head over prototypes and its centre",
            allowed="one that was pretrained by dino or ibot",
        )
    head = head_of(teacher.heads, "head")
    found = len(head.last_layer.weight_v)
    if found != prototypes:
        raise UserError(
            "recipe: teacher",
            f"{found} prototypes, and the student's head has {prototypes}",
            remedy=f"set method.head.out_dim to {found}",
        )
    return head


def load_teacher(artifact: Path, *, mean: Sequence[float], std: Sequence[float]) -> Teacher:
    """The teacher of a backbone artifact.

    Args:
        artifact: a folder that ``steps.pretrain`` published.
        mean, std: per channel, of pixels in 0 to 1: how the images that it will see are normalised.

    Raises:
        UserError: the folder holds no backbone artifact, or one for other channels.
    """
    backbone = load_backbone(artifact)
    heads = artifact / HEADS
    # A teacher may have been trained on other data than the student's.
    own_mean, own_std = normalisation(artifact)
    if len(mean) != len(own_mean):
        raise UserError(
            str(artifact),
            f"a teacher for images of {len(own_mean)} channels, and these have {len(mean)}",
            allowed="a teacher that was trained on as many",
        )
    return Teacher(
        backbone,
        load_file(heads) if heads.is_file() else {},
        Renormalise((mean, std), (own_mean, own_std)),
    )
