"""DINOv2: learning robust visual features without supervision (arXiv:2304.07193).

DINO's loss on class tokens, iBOT's on masked patches and KoLeo, in one run. The student sees two
global crops, some of their patches masked, and local crops; the teacher, a moving average of the
student, sees the global crops whole. With cross entropy H and n pairs of different crops of which
the teacher sees one:

    loss = w_d / n * sum over pairs (a, b) of H(p_t(a), p_s(b))                 (class tokens)
         + w_i * mean over global crops of mean over masked patches j of H(p_t(j), p_s(j))
         - w_k * sum over global views of mean_i log(|x_i - x_nn(i)| + eps)     (KoLeo)

The teacher's probabilities p_t come from Sinkhorn-Knopp over the whole batch, or from
softmax((t - c) / tau) with a running centre (sections 4 and 6; equations of DINO, arXiv:2104.14294,
iBOT, arXiv:2111.07832, and arXiv:1806.03198).

Distillation (section 5): the same losses against a larger, fixed teacher with the heads it was
trained with, without masks (``masks.probability: 0``: the patch loss is over all patches) and
without drop path; a moving average of the student is the result.

Published: ViT-L/16, 100 short epochs of ImageNet-1K: k-NN 81.6 %, linear 82.9 % (the reference's
README). Held to facebookresearch/dinov2 by the golden cases ``dinov2*``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.schedules import Progress, cosine, ramp_by_step
from steps.methods.losses import all_pairs, koleo, masked_patches, patch_weights
from steps.methods.method import Batch, BatchCoupledMethod, Draws, Encoded, Losses, MethodContext
from steps.models import dinov2_vit, ema, row_drop
from steps.models.backbones import Transformer
from steps.models.center import LazyCenter, sinkhorn_knopp
from steps.models.heads import PrototypeHead
from steps.models.masks import sample_spread_blocks
from steps.models.multicrop import Headed, by_view, global_side, with_heads
from steps.models.positions import Resizing
from steps.models.teacher import FixedNetwork
from steps.params.methods.dinov2 import DINOv2Params

_GLOBAL = 2
"""Global crops of an image: the first ones among the views."""


class DINOv2(BatchCoupledMethod):
    """Self-distillation of images and of masked patches."""

    def __init__(self, params: DINOv2Params, backbone: Transformer, context: MethodContext) -> None:
        """Student and teacher around a fresh backbone, which becomes the student's.

        A teacher in the context is distilled from; without one the moving average is the teacher.

        Raises:
            UserError: backbone, views or teacher do not fit.
        """
        super().__init__()
        self.params = params
        sides = context.sides
        self.views = len(sides)
        vit = dinov2_vit.for_training(backbone)
        # Without masks no pass reads it, and DDP expects a gradient of all that trains.
        dinov2_vit.mask_token(vit).requires_grad_(params.masks.probability > 0)
        self.grid = global_side(sides, _GLOBAL) // int(vit.patch_embed.patch_size[0])
        """Patches a side of a global crop."""
        self.resizing = Resizing(params.positions.offset, params.positions.antialias)
        self.student = Headed(
            vit,
            PrototypeHead(vit.embed_dim, params.head),
            PrototypeHead(vit.embed_dim, params.patch_head) if params.patch_head else None,
            self.resizing,
        )
        # The average starts at the student's weights.
        self.teacher = ema.teacher_of(self.student)
        self.drop_rates = row_drop.rates(
            len(vit.blocks), params.drop_path, uniform=params.drop_path_uniform
        )
        patch_prototypes = (params.patch_head or params.head).out_dim
        momentum = params.center_momentum
        self.class_center = LazyCenter(1, params.head.out_dim, momentum=momentum)
        self.patch_center = LazyCenter(1, 1, patch_prototypes, momentum=momentum)
        self.fixed: FixedNetwork[Headed] | None = None
        self.renormalise: nn.Module = nn.Identity()
        if (teacher := context.teacher) is not None:
            self.fixed = FixedNetwork(with_heads(teacher, self.student))
            self.renormalise = teacher.renormalise

    @property
    def source(self) -> Headed:
        """The network that gives the targets."""
        return self.teacher if self.fixed is None else self.fixed.network

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """Masks (B, 2, N) and drop path (B, crops, 2 * depth), for global and for local crops."""
        params, draws = self.params, {}
        if params.masks.probability > 0:
            low, high = params.masks.ratios
            side: int = self.grid
            crops = _GLOBAL * batch
            masks = sample_spread_blocks(
                crops, side, params.masks.probability, (low, high), generator
            )
            draws["mask"] = masks.unflatten(0, (batch, _GLOBAL))
        if params.drop_path > 0:
            for name, crops in (("global", _GLOBAL), ("local", self.views - _GLOBAL)):
                gates = row_drop.sample(self.drop_rates, batch * crops, generator)
                draws[f"gates_{name}"] = gates.unflatten(0, (batch, crops))
        return draws

    def encode(self, batch: Batch, draws: Draws, progress: Progress) -> Encoded:
        """Class tokens of all crops and masked patches of the global ones, of both networks."""
        mask, gates = draws.get("mask"), None
        if "gates_global" in draws:
            gates = torch.cat([draws["gates_global"], draws["gates_local"]], dim=1)
        # Only a fixed teacher may expect another normalisation than the batch has.
        views = [self.renormalise(view) for view in batch.views[:_GLOBAL]]
        with torch.no_grad():
            teacher_class, teacher_patches = self.source.tokens(views, read_BVN=mask)
        token = dinov2_vit.mask_token(self.student.backbone)
        student_class, student_patches = self.student.multicrop(
            batch.views, _GLOBAL, mask, token, gates=gates
        )
        return {
            "student_class": student_class,
            "student_patches": student_patches,
            "teacher_class": teacher_class,
            "teacher_patches": teacher_patches,
        }

    def losses(self, encoded: Encoded, draws: Draws, progress: Progress) -> Losses:
        params, temp = self.params, self.teacher_temp(progress)
        losses = self.class_losses(encoded, temp)
        dino = [losses[name] for name in ("dino_global", "dino_local") if name in losses]
        loss = params.dino_weight * torch.stack(dino).sum()
        if params.koleo_weight > 0:
            # KoLeo spreads images, so each global view is spread on its own.
            views = encoded["student_class"][:, :_GLOBAL].unbind(dim=1)
            losses["koleo"] = torch.stack([koleo(view) for view in views]).sum()
            loss = loss + params.koleo_weight * losses["koleo"]
        if params.ibot_weight > 0:
            losses["ibot"] = self.patch_loss(encoded, draws.get("mask"), temp)
            loss = loss + params.ibot_weight * losses["ibot"]
        return {"loss": loss, **losses}

    def class_losses(self, encoded: Encoded, temp: float) -> Losses:
        """DINO's loss of global and of local crops; the teacher's entropy and KL in nats."""
        teacher = by_view(encoded["teacher_class"].detach())
        targets = self.targets(self.source.dino_head(teacher), self.class_center, temp)
        one, other = targets.chunk(_GLOBAL)
        student = self.student.dino_head(by_view(encoded["student_class"]))
        # A global crop predicts the other one, a local crop predicts both.
        first, second, *local = student.chunk(self.views)
        student_temp = self.params.student_temp
        pairs = _GLOBAL + _GLOBAL * len(local)
        # The reference counts a local pair even where there are no local crops.
        counted = pairs if local else pairs + 1
        across = all_pairs([first], [other], student_temp)
        total = across = across + all_pairs([second], [one], student_temp)
        losses = {"dino_global": across / counted}
        if local:
            within = all_pairs(local, [one, other], student_temp)
            losses["dino_local"] = within / counted
            total = across + within
        # xlogy: a probability that underflows to 0 contributes 0, not NaN.
        entropy = -torch.xlogy(targets, targets).sum(dim=-1).mean()
        return {**losses, "teacher_entropy": entropy, "kl": total.detach() / pairs - entropy}

    def patch_loss(self, encoded: Encoded, mask: Tensor | None, temp: float) -> Tensor:
        """iBOT's loss on masked patches, or on all of them where ``mask`` (B, 2, N) is None."""
        student, teacher = by_view(encoded["student_patches"]), encoded["teacher_patches"]
        mask_RN = student.new_ones(student.shape[:2], dtype=torch.bool)
        if mask is not None:
            mask_RN = by_view(mask)
        # Only masked patches: logits over all prototypes take much memory.
        teacher_logits = self.source.patch_head(by_view(teacher.detach())[mask_RN])
        targets = self.targets(teacher_logits, self.patch_center, temp)
        logits = self.student.patch_head(student[mask_RN])
        weights = patch_weights(mask_RN)
        return masked_patches(logits, targets, weights, len(mask_RN), self.params.student_temp)

    @torch.no_grad()
    def targets(self, logits_NK: Tensor, center: LazyCenter, temp: float) -> Tensor:
        """The teacher's probabilities of class tokens or patches: (N, K)."""
        if self.params.centering == "sinkhorn_knopp":
            return sinkhorn_knopp(logits_NK, temp, self.params.sinkhorn_iterations)
        center.accumulate(logits_NK)
        return F.softmax((logits_NK.float() - center.used.flatten()) / temp, dim=-1)

    def teacher_temp(self, progress: Progress) -> float:
        """Linear over the steps of the first epochs."""
        params = self.params
        return ramp_by_step(
            progress,
            params.warmup_teacher_temp,
            params.teacher_temp,
            params.warmup_teacher_temp_epochs,
        )

    def with_zero_lr(self, progress: Progress) -> Iterable[nn.Parameter]:
        """The heads' last layers, during the first epochs."""
        if progress.epoch >= self.params.freeze_last_layer_epochs:
            return ()
        heads = [head for head in self.student.children() if isinstance(head, PrototypeHead)]
        return [parameter for head in heads for parameter in head.last_layer.parameters()]

    def submodules(self) -> Iterable[nn.Module]:
        """Backbone and heads of the student."""
        return self.student.children()

    @torch.no_grad()
    def after_step(self, progress: Progress) -> dict[str, float | Tensor]:
        """Move the centres by the teacher's logits of the whole global batch, and the average."""
        self.class_center.update()
        self.patch_center.update()
        momentum = cosine(progress, self.params.momentum, self.params.momentum_end)
        ema.update(self.teacher, self.student, momentum)
        return {"momentum": momentum, "teacher_temp": self.teacher_temp(progress)}

    def enter_final_phase(self, sides: Sequence[int]) -> None:
        """Resize both position tables, once, to the grid of the final global crops."""
        self.views = len(sides)
        side = global_side(sides, _GLOBAL)
        self.grid = side // int(self.student.backbone.patch_embed.patch_size[0])
        for network in (self.student, self.teacher):
            dinov2_vit.resize(network.backbone, side, self.resizing)

    def chance(self, batch: int) -> dict[str, float]:
        """log K for each pair of crops, shared out as the class tokens' losses are."""
        local = _GLOBAL * (self.views - _GLOBAL)
        uniform = math.log(self.params.head.out_dim) / (_GLOBAL + max(local, 1))
        losses = {"dino_global": _GLOBAL * uniform}
        return {**losses, "dino_local": local * uniform} if local else losses

    def embeddings(self, batch: Batch) -> Tensor:
        """The student's class tokens of the first view, nothing masked."""
        return self.student.classes(batch.views[:1])[:, 0]

    def export_backbone(self) -> VisionTransformer:
        """The average's backbone, without mask token, in timm's layout."""
        return dinov2_vit.as_timm(self.teacher.backbone)

    def heads(self) -> dict[str, Tensor]:
        """The average's heads, for a student that is distilled from it."""
        return self.teacher.head_weights()
