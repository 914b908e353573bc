"""Moving averages of networks: teachers, target networks, the pair of momentum contrast."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from steps.core.schedules import Progress, cosine
from steps.models.backbones import BackboneModel
from steps.models.heads import LastNorm, mlp
from steps.params.methods.method import MomentumContrast

# --- The moving average of a network: teacher, target network


M = TypeVar("M", bound=nn.Module)


def teacher_of(student: M) -> M:
    """A copy of ``student`` that takes no gradient."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """teacher <- momentum * teacher + (1 - momentum) * student, parameter by parameter.

    By name, over those that both have: one that the student lacks stays as it is.
    """
    # Parameters only: running statistics of batch norms are each network's own.
    students = dict(student.named_parameters())
    common = [pair for pair in teacher.named_parameters() if pair[0] in students]
    theirs = [parameter.detach() for _, parameter in common]
    ours = [students[name].detach() for name, _ in common]
    # One fused call: a loop over parameters would launch a kernel for each.
    torch._foreach_lerp_(theirs, ours, 1 - momentum)


# --- The two encoders of momentum contrast: one that learns, and its moving average


class Encoder(nn.Module):
    """Backbone and projector. They are called apart: a projector's batch norm couples samples."""

    def __init__(self, backbone: BackboneModel, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector


class MomentumPair(nn.Module):
    """MoCo v3's networks (arXiv:2104.02057, section 3).

        q = predictor(projector(backbone(x))),  k = momentum copy of projector(backbone(x))

    Each call of ``queries`` or ``keys`` is one view, with batch statistics of its own. The copy
    keeps running statistics of its own too: only parameters are averaged.

    Args:
        backbone: prepared; the pair takes it over.
        params: of a method on momentum contrast.
    """

    def __init__(self, backbone: BackboneModel, params: MomentumContrast) -> None:
        super().__init__()
        self.params = params
        projector, predictor = params.projector, params.predictor
        dim = projector.out_dim
        self.encoder = Encoder(
            backbone,
            mlp(
                backbone.num_features,
                projector.hidden_dim,
                dim,
                projector.layers,
                last_norm="plain",
            ),
        )
        self.momentum_encoder = teacher_of(self.encoder)
        # Outside the encoder that is averaged: keys pass through no predictor.
        last_norm: LastNorm = "plain" if predictor.last_norm else "none"
        self.predictor = mlp(dim, predictor.hidden_dim, dim, predictor.layers, last_norm=last_norm)

    def queries(self, features_BD: Tensor) -> Tensor:
        """Backbone features of a view (B, D) to queries (B, out_dim), not normalised."""
        return cast(Tensor, self.predictor(self.encoder.projector(features_BD)))

    @torch.no_grad()
    def keys(self, features_BD: Tensor) -> Tensor:
        """Momentum features of a view (B, D) to keys (B, out_dim), not normalised."""
        return cast(Tensor, self.momentum_encoder.projector(features_BD))

    def update(self, progress: Progress) -> None:
        """momentum encoder <- m * itself + (1 - m) * encoder."""
        update(self.momentum_encoder, self.encoder, self.momentum(progress))

    def momentum(self, progress: Progress) -> float:
        """m: a cosine over all steps (section 3)."""
        return cosine(progress, self.params.momentum, self.params.momentum_end)
