"""DINO: emerging properties in self-supervised vision transformers (arXiv:2104.14294).

Student and teacher are one architecture; the teacher is a moving average of the student. With
teacher probabilities p_t(x) = softmax((t(x) - c) / tau_t) and student probabilities
p_s(x) = softmax(s(x) / tau_s):

    loss = mean over (global view a, any view b != a) of  -sum_k p_t(a)_k log p_s(b)_k    (eq. 3)
    c    <- m c + (1 - m) mean(t)                                                         (eq. 4)

Published: ViT-S/16, 800 epochs: k-NN 74.5 %, linear 77.0 %; ViT-B/16, 400 epochs: k-NN 76.1 %,
linear 78.2 % (table 2). Held to facebookresearch/dino by the golden case ``dino``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from steps.engine.schedules import Progress, cosine, ramp_by_epoch
from steps.methods.losses import self_distillation
from steps.methods.method import Batch, Draws, Losses, Method
from steps.models import drop_path, ema
from steps.models.center import Center
from steps.models.prototypes import PrototypeHead
from steps.models.tokens import embed, encode
from steps.params.methods.dino import DINOParams


class Network(nn.Module):
    """Backbone and head: images to class-token features to logits over prototypes."""

    def __init__(self, backbone: VisionTransformer, head: PrototypeHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, views: list[Tensor], keep: Tensor | None = None) -> Tensor:
        """Normed class tokens of all views, view by view: (V * B, D).

        Neighbouring views of equal size go through the backbone together.

        Args:
            views: V tensors (B, 3, H, W).
            keep: drop-path draws (B, V, 2 * depth).
        """
        outputs, first = [], 0
        for _, group in groupby(views, key=lambda view: view.shape[-1]):
            same = list(group)
            chosen = None
            if keep is not None:
                chosen = keep[:, first : first + len(same)].transpose(0, 1).flatten(0, 1)
            tokens = encode(self.backbone, embed(self.backbone, torch.cat(same)), chosen)
            outputs.append(self.backbone.norm(tokens[:, 0]))
            first += len(same)
        return torch.cat(outputs)

    def forward(self, views: list[Tensor], keep: Tensor | None = None) -> Tensor:
        """Logits (V * B, K), view by view."""
        return cast(Tensor, self.head(self.features(views, keep)))


class DINO(Method):
    """Self-distillation with no labels."""

    def __init__(self, params: DINOParams, backbone: VisionTransformer, views: int) -> None:
        super().__init__()
        self.params = params
        self.views = views
        self.student = Network(backbone, PrototypeHead(backbone.embed_dim, params.head))
        self.teacher = ema.teacher_of(self.student)
        drop_path.install(backbone, params.drop_path)
        self.center = Center(params.head.out_dim, params.center_momentum)

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """The student's drop-path choices: (B, views, 2 * depth)."""
        if self.params.drop_path == 0:
            return {}
        keep = drop_path.sample(self.student.backbone, batch * self.views, generator)
        return {"keep": keep.unflatten(0, (batch, self.views))}

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        with torch.no_grad():
            teacher_logits = self.teacher(batch.views[: self.params.global_views])
        student_logits = self.student(batch.views, draws.get("keep"))
        loss, entropy = self_distillation(
            student_logits.chunk(len(batch.views)),
            teacher_logits.chunk(self.params.global_views),
            center=self.center.value,
            student_temp=self.params.student_temp,
            teacher_temp=self.teacher_temp(progress),
        )
        self.center.add(teacher_logits)
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

    def frozen(self, progress: Progress) -> Iterable[nn.Parameter]:
        """The last layer, during the first epochs."""
        if progress.epoch < self.params.freeze_last_layer_epochs:
            return self.student.head.last_layer.parameters()
        return ()

    @torch.no_grad()
    def after_step(self, progress: Progress) -> dict[str, float]:
        """Move the centre by the teacher logits of the whole global batch, and the teacher."""
        self.center.move()
        momentum = cosine(progress, self.params.momentum, self.params.momentum_end)
        ema.update(self.teacher, self.student, momentum)
        return {"momentum": momentum, "teacher_temp": self.teacher_temp(progress)}

    def embeddings(self, batch: Batch) -> Tensor:
        """The student's class tokens of the first view."""
        return self.student.features(batch.views[:1])

    def exported(self) -> VisionTransformer:
        """The teacher's backbone (section 5)."""
        return self.teacher.backbone
