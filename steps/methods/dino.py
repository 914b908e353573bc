"""DINO: emerging properties in self-supervised vision transformers (arXiv:2104.14294).

Student and teacher are one architecture; the teacher is a moving average of the student. With
teacher probabilities p_t(x) = softmax((t(x) - c) / tau_t) and student probabilities
p_s(x) = softmax(s(x) / tau_s):

    loss = mean over (global view a, any view b != a) of  -sum_k p_t(a)_k log p_s(b)_k    (eq. 3)
    c    <- m c + (1 - m) mean(t)                                                         (eq. 4)

Distillation (the reading of section 3.1): t is fixed, a larger backbone with the head and the
centre that its own training left, and the student's head has that head's prototypes; the moving
average is still what is exported.

Published: ViT-S/16, 800 epochs: k-NN 74.5 %, linear 77.0 %; ViT-B/16, 400 epochs: k-NN 76.1 %,
linear 78.2 % (table 2). Held to facebookresearch/dino by the golden cases ``dino`` and
``dino_loss``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from steps.core.schedules import Progress, cosine, ramp_by_epoch
from steps.methods.losses import self_distillation
from steps.methods.method import Batch, BatchCoupledMethod, Draws, Encoded, Losses, MethodContext
from steps.models import drop_path, ema
from steps.models.backbones import Transformer
from steps.models.center import Center
from steps.models.heads import PrototypeHead
from steps.models.multicrop import Projected, by_view
from steps.models.teacher import CENTER, FixedNetwork, prototypes_of
from steps.params.methods.dino import DINOParams


class DINO(BatchCoupledMethod):
    """Self-distillation with no labels."""

    def __init__(self, params: DINOParams, backbone: Transformer, context: MethodContext) -> None:
        """Student and teacher around a fresh backbone, which becomes the student's.

        A teacher in the context is distilled from; without one the moving average is the teacher.

        Raises:
            UserError: the teacher has no head, or one with other prototypes.
        """
        super().__init__()
        self.params = params
        self.views = context.views
        self.student = Projected(backbone, PrototypeHead(backbone.embed_dim, params.head))
        # Copied before drop path is installed: the teacher keeps every branch.
        self.teacher = ema.teacher_of(self.student)
        drop_path.install(backbone, params.drop_path)
        self.center = Center(1, params.head.out_dim, momentum=params.center_momentum)
        self.fixed = teacher = context.teacher
        self.fixed_head: FixedNetwork[PrototypeHead] | None = None
        if teacher is not None:
            # A fixed teacher's logits need the centre that belongs to its head.
            self.fixed_head = FixedNetwork(prototypes_of(teacher, params.head.out_dim))
            self.center.value.copy_(teacher.heads[CENTER])

    @property
    def is_batch_coupled(self) -> bool:
        """Batch norm in the head is all that couples samples within a step."""
        return self.params.head.use_bn

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """The student's drop-path choices: (B, views, 2 * depth)."""
        if self.params.drop_path == 0:
            return {}
        keep = drop_path.sample(self.student.backbone, batch * self.views, generator)
        return {"keep": keep.unflatten(0, (batch, self.views))}

    def encode(self, batch: Batch, draws: Draws, progress: Progress) -> Encoded:
        """Class tokens (B, V, D) of all views by the student, of the global ones by the teacher."""
        views = batch.views[: self.params.global_views]
        with torch.no_grad():
            if self.fixed is None:
                targets = self.teacher.classes(views)
            else:
                targets = torch.stack([self.fixed.tokens(view)[:, 0] for view in views], dim=1)
        return {
            "student": self.student.classes(batch.views, draws.get("keep")),
            "teacher": targets,
        }

    def losses(self, encoded: Encoded, draws: Draws, progress: Progress) -> Losses:
        params = self.params
        teacher_head = self.teacher.head if self.fixed_head is None else self.fixed_head.network
        with torch.no_grad():
            teacher_logits = teacher_head(by_view(encoded["teacher"]))
        # One call for all views: batch norm in the head sees them together.
        student_logits = self.student.head(by_view(encoded["student"]))
        loss, entropy = self_distillation(
            student_logits.chunk(self.views),
            teacher_logits.chunk(params.global_views),
            center=self.center.value,
            student_temp=params.student_temp,
            teacher_temp=self.teacher_temp(progress),
        )
        # Collected after its use: this step's centre is the previous steps' mean.
        self.center.accumulate(teacher_logits)
        return {"loss": loss, "teacher_entropy": entropy, "kl": loss.detach() - entropy}

    def teacher_temp(self, progress: Progress) -> float:
        """Linear over the first epochs, constant within an epoch (section 3.1)."""
        params = self.params
        return ramp_by_epoch(
            progress,
            params.warmup_teacher_temp,
            params.teacher_temp,
            params.warmup_teacher_temp_epochs,
        )

    def without_gradient(self, progress: Progress) -> Iterable[nn.Parameter]:
        """The last layer, during the first epochs."""
        # As in the reference, where this helps early training.
        if progress.epoch < self.params.freeze_last_layer_epochs:
            return self.student.head.last_layer.parameters()
        return ()

    @torch.no_grad()
    def after_step(self, progress: Progress) -> Mapping[str, float | Tensor]:
        """Move the centre by the teacher logits of the whole global batch, and the average."""
        self.center.update()
        momentum = cosine(progress, self.params.momentum, self.params.momentum_end)
        ema.update(self.teacher, self.student, momentum)
        return {"momentum": momentum, "teacher_temp": self.teacher_temp(progress)}

    def chance(self, batch: int) -> dict[str, float]:
        """log K: the cross entropy of any target and K equal probabilities."""
        return {"loss": math.log(self.params.head.out_dim)}

    def embeddings(self, batch: Batch) -> Tensor:
        """The student's class tokens of the first view."""
        return self.student.classes(batch.views[:1])[:, 0]

    def export_backbone(self) -> Transformer:
        """The average's backbone (section 5)."""
        return self.teacher.backbone

    def heads(self) -> dict[str, Tensor]:
        """The average's head and the centre, for a student that is distilled from it."""
        return {**self.teacher.head_weights(), CENTER: self.center.value}
