"""iBOT: image BERT pre-training with online tokenizer (arXiv:2111.07832).

DINO's self-distillation of class tokens, and the same of masked patches: the student sees global
views with some patches replaced by a learnt token, the teacher, a moving average of the student,
sees them whole and is the tokenizer. With cross entropy H, class-token probabilities p and patch
probabilities q, each with its own centre and temperature, and m_j = 1 for masked patches:

    loss_cls   = mean over (global view a, any view b != a) of  H(p_t(a), p_s(b))         (eq. 2)
    loss_patch = mean over global views a of  sum_j m_j H(q_t(a_j), q_s(a_j)) / sum_j m_j (eq. 3)
    loss       = lambda_1 loss_cls + lambda_2 loss_patch

A view without masked patches counts as one whose patch loss is 0. Class tokens and patches share
the projection, and its prototypes where the head is shared.

Published: ViT-S/16, 800 epochs: k-NN 75.2 %, linear 77.9 %, fine-tune 82.3 %; ViT-B/16, 400
epochs: 77.1 %, 79.5 %, 84.0 % (tables 1 and 2). Held to bytedance/ibot by the golden cases
``ibot``, ``ibot_mixed_heads`` and ``ibot_loss``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.command import UserError
from steps.core.schedules import Progress, cosine, ramp_by_epoch
from steps.methods.losses import masked_patches, patch_weights, self_distillation
from steps.methods.method import Batch, BatchCoupledMethod, Draws, Encoded, Losses, MethodContext
from steps.models import drop_path, ema
from steps.models.backbones import Transformer
from steps.models.center import Center
from steps.models.heads import PatchPrototypeHead
from steps.models.masks import sample_ratio_masks
from steps.models.multicrop import Projected, by_view
from steps.models.teacher import CENTER
from steps.params.methods.ibot import IBOTParams


class IBOT(BatchCoupledMethod):
    """Masked image modelling with an online tokenizer."""

    def __init__(self, params: IBOTParams, backbone: Transformer, context: MethodContext) -> None:
        """Student and teacher around a fresh backbone, which becomes the student's.

        Raises:
            UserError: the global views differ in size.
        """
        super().__init__()
        self.params = params
        sides = context.sides
        self.views = len(sides)
        if len(set(sides[: params.global_views])) > 1:
            raise UserError(
                "recipe: training.views",
                f"global views of {sides[: params.global_views]} px",
                allowed="one size for all global views",
            )
        self.grid = sides[0] // int(backbone.patch_embed.patch_size[0])
        # A parameter of the method: the teacher sees no mask, and no average of it is kept.
        self.mask_token = nn.Parameter(torch.zeros(1, backbone.embed_dim))
        head = PatchPrototypeHead(backbone.embed_dim, params.head, shared=params.head.shared)
        self.student = Projected(backbone, head)
        self.teacher = ema.teacher_of(self.student)
        # Student and teacher may differ in whether classes and patches share prototypes.
        self.teacher.head.share(params.head.shared_teacher)
        drop_path.install(backbone, params.drop_path)
        momentum = params.center_momentum
        self.center = Center(1, params.head.out_dim, momentum=momentum)
        self.patch_center = Center(
            *(1, 1, params.head.patch_out_dim), momentum=params.patch_center_momentum
        )

    @property
    def is_batch_coupled(self) -> bool:
        """Only the centres couple samples, and those move between steps."""
        return False

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """Masks of the global views (B, G, N) and the student's drop path (B, V, 2 * depth)."""
        views = self.params.global_views
        masks = sample_ratio_masks(batch * views, self.grid, self.params.masks, generator)
        draws = {"mask": masks.unflatten(0, (batch, views))}
        if self.params.drop_path > 0:
            keep = drop_path.sample(self.student.backbone, batch * self.views, generator)
            draws["keep"] = keep.unflatten(0, (batch, self.views))
        return draws

    def encode(self, batch: Batch, draws: Draws, progress: Progress) -> Encoded:
        """Class tokens of all views; patches of the global ones, of the student's the masked."""
        views = batch.views[: self.params.global_views]
        with torch.no_grad():
            teacher_class, teacher_patches = self.teacher.tokens(views)
        mask = self.mask(draws, progress)
        classes, patches = self.student.multicrop(
            batch.views, len(views), mask, self.mask_token, keep=draws.get("keep")
        )
        return {
            "student_class": classes,
            "student_patches": patches,
            "teacher_class": teacher_class,
            "teacher_patches": teacher_patches,
        }

    def losses(self, encoded: Encoded, draws: Draws, progress: Progress) -> Losses:
        params = self.params
        with torch.no_grad():
            teacher_logits = self.teacher.head(by_view(encoded["teacher_class"]))
        loss_cls, entropy = self_distillation(
            self.student.head(by_view(encoded["student_class"])).chunk(self.views),
            teacher_logits.chunk(params.global_views),
            center=self.center.value,
            student_temp=params.student_temp,
            teacher_temp=self.teacher_temp(progress),
        )
        # Collected after its use: this step's centre is the previous steps' mean.
        self.center.accumulate(teacher_logits)
        # The class loss is averaged over pairs of views, the patch loss over crops and their masks.
        cls = params.dino_weight * loss_cls
        patch = params.ibot_weight * self.patch_loss(encoded, self.mask(draws, progress), progress)
        return {
            "loss": cls + patch,
            "cls": cls.detach(),
            "patch": patch.detach(),
            "teacher_entropy": entropy,
            "kl": loss_cls.detach() - entropy,
        }

    def patch_loss(self, encoded: Encoded, mask_BGN: Tensor, progress: Progress) -> Tensor:
        """Equation 3. Only masked patches need logits, except for the centre."""
        mask_RN = by_view(mask_BGN)
        with torch.no_grad():
            projected = self.teacher.head.project(by_view(encoded["teacher_patches"]))
            # The mean of all patches' logits is the last layer's answer to their mean.
            mean = projected.flatten(0, 1).mean(dim=0, keepdim=True)
            self.patch_center.accumulate(self.teacher.head.patch_layer(mean))
            teacher_logits = self.teacher.head.patch_layer(projected[mask_RN])
        targets = self.patch_targets(teacher_logits, progress)
        logits = self.student.head.patches(by_view(encoded["student_patches"])[mask_RN])
        weights, rows = patch_weights(mask_RN), len(mask_RN)
        return masked_patches(logits, targets, weights, rows, self.params.student_temp)

    def patch_targets(self, logits: Tensor, progress: Progress) -> Tensor:
        """The teacher's probabilities of patches: (M, K)."""
        centred = logits.float() - self.patch_center.value.flatten()
        return F.softmax(centred / self.patch_temp(progress), dim=-1)

    def mask(self, draws: Draws, progress: Progress) -> Tensor:
        """The masks (B, G, N): none before the epoch in which prediction starts."""
        # Until then masks are drawn all the same, so that draws do not depend on the epoch.
        started = progress.epoch >= self.params.masks.start_epoch
        return draws["mask"] if started else torch.zeros_like(draws["mask"])

    def teacher_temp(self, progress: Progress) -> float:
        """Temperature of class tokens: linear over the first epochs, constant within an epoch."""
        params = self.params
        return ramp_by_epoch(
            progress,
            params.warmup_teacher_temp,
            params.teacher_temp,
            params.warmup_teacher_temp_epochs,
        )

    def patch_temp(self, progress: Progress) -> float:
        """Temperature of patches: the same ramp, from the epoch in which prediction starts."""
        params = self.params
        return ramp_by_epoch(
            progress,
            params.warmup_teacher_patch_temp,
            params.teacher_patch_temp,
            params.warmup_teacher_temp_epochs,
            first=params.masks.start_epoch,
        )

    def without_gradient(self, progress: Progress) -> Iterable[nn.Parameter]:
        """The last layers, during the first epochs."""
        if progress.epoch >= self.params.freeze_last_layer_epochs:
            return ()
        head = self.student.head
        return [*head.last_layer.parameters(), *head.patch_layer.parameters()]

    @torch.no_grad()
    def after_step(self, progress: Progress) -> Mapping[str, float | Tensor]:
        """Move both centres by the teacher's logits of the whole global batch, and the teacher."""
        self.center.update()
        self.patch_center.update()
        momentum = cosine(progress, self.params.momentum, self.params.momentum_end)
        ema.update(self.teacher, self.student, momentum)
        return {
            "momentum": momentum,
            "teacher_temp": self.teacher_temp(progress),
            "teacher_patch_temp": self.patch_temp(progress),
        }

    def chance(self, batch: int) -> dict[str, float]:
        """The class tokens' log K; the patches' depends on how many views are masked."""
        return {"cls": self.params.dino_weight * math.log(self.params.head.out_dim)}

    def embeddings(self, batch: Batch) -> Tensor:
        """The student's class tokens of the first view, unmasked."""
        return self.student.classes(batch.views[:1])[:, 0]

    def export_backbone(self) -> Transformer:
        """The teacher's backbone (section 4.1)."""
        return self.teacher.backbone

    def heads(self) -> dict[str, Tensor]:
        """The teacher's head and the centre of class tokens, for a student distilled from it."""
        weights = self.teacher.head_weights()
        classes = {name: weights[name] for name in weights if ".patch_layer." not in name}
        return {**classes, CENTER: self.center.value}
