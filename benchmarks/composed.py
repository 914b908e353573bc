"""Methods composed of lightly's modules, losses and moving average, as its documentation does.

Each is what a user of that package would train: its wrapper of timm's vision transformer, its
heads, its losses, ``update_momentum``. Views of one size go through a network together, heads over
patches see masked patches alone, and the masks are handed in, the same that our side gets.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss, NTXentLoss
from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerTIMM
from lightly.models.modules.heads import (
    DINOProjectionHead,
    MoCoProjectionHead,
    SimCLRProjectionHead,
)
from lightly.models.modules.masked_vision_transformer_decoder_timm import (
    MaskedVisionTransformerDecoderTIMM,
)
from torch import Tensor, nn

_MOMENTUM = 0.99


class Composed(nn.Module):
    """What the benchmark trains: a loss, and what follows the update."""

    def loss(self, views: Sequence[Tensor], draws: dict[str, Tensor]) -> Tensor:
        """Of a batch, with masks from ``draws``."""
        raise NotImplementedError

    def move(self) -> None:
        """What follows the optimiser."""


class SimCLR(Composed):
    """Two views through one network."""

    def __init__(self, vit: nn.Module, params: Any) -> None:
        super().__init__()
        self.backbone = MaskedVisionTransformerTIMM(vit)
        width, shape = vit.embed_dim, params.projector
        self.head = SimCLRProjectionHead(
            width, shape.hidden_dim or width, shape.out_dim, num_layers=shape.layers
        )
        self.criterion = NTXentLoss(params.temperature)

    def loss(self, views: Sequence[Tensor], draws: dict[str, Tensor]) -> Tensor:
        return self.criterion(*self.head(self.backbone(torch.cat(list(views)))).chunk(2))


class MoCo(Composed):
    """MoCo v3's networks and symmetry; the loss is the package's NT-Xent of queries and keys."""

    def __init__(self, vit: nn.Module, params: Any) -> None:
        super().__init__()
        projector, predictor = params.projector, params.predictor
        head = MoCoProjectionHead(
            *(vit.embed_dim, projector.hidden_dim, projector.out_dim, projector.layers),
            batch_norm=True,
        )
        vit.patch_embed.requires_grad_(not params.frozen_patch_embed)
        self.online = nn.ModuleList([MaskedVisionTransformerTIMM(vit), head])
        vit.pos_embed.requires_grad_(False)
        self.average = _frozen(copy.deepcopy(self.online))
        self.predictor = MoCoProjectionHead(
            *(projector.out_dim, predictor.hidden_dim, projector.out_dim, predictor.layers),
            batch_norm=True,
        )
        self.criterion = NTXentLoss(params.temperature)

    def loss(self, views: Sequence[Tensor], draws: dict[str, Tensor]) -> Tensor:
        utils.update_momentum(self.online, self.average, m=_MOMENTUM)
        backbone, head = self.online
        queries = [self.predictor(head(backbone(view))) for view in views]
        with torch.no_grad():
            backbone, head = self.average
            keys = [head(backbone(view)) for view in views]
        first = self.criterion(queries[0], keys[1])
        return first + self.criterion(queries[1], keys[0])


class MAE(Composed):
    """Encoder of the visible patches, decoder of all, pixels of the hidden ones."""

    def __init__(self, vit: nn.Module, params: Any) -> None:
        super().__init__()
        shape, self.patch = params.decoder, vit.patch_embed.patch_size[0]
        self.backbone = MaskedVisionTransformerTIMM(vit)
        vit.pos_embed.requires_grad_(False)
        self.embed = nn.Linear(vit.embed_dim, shape.embed_dim)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            *(vit.patch_embed.num_patches, shape.embed_dim, shape.depth, shape.num_heads)
        )
        self.pred = nn.Linear(shape.embed_dim, 3 * self.patch**2)
        self.criterion = nn.MSELoss()
        self.ratio = params.mask_ratio

    def loss(self, views: Sequence[Tensor], draws: dict[str, Tensor]) -> Tensor:
        (images,) = views
        order = draws["noise"].argsort(dim=1) + 1
        visible = int(order.shape[1] * (1 - self.ratio))
        keep = torch.cat([order.new_zeros(len(order), 1), order[:, :visible]], dim=1)
        hidden = order[:, visible:]
        encoded = self.embed(self.backbone.encode(images, idx_keep=keep))
        places = (len(images), self.backbone.sequence_length)
        tokens = utils.repeat_token(self.decoder.mask_token, places)
        decoded = self.decoder(utils.set_at_index(tokens, keep, encoded))
        predicted = self.pred(utils.get_at_index(decoded, hidden))
        patches = utils.get_at_index(utils.patchify(images, self.patch), hidden - 1)
        return self.criterion(predicted, utils.normalize_mean_var(patches))


class DINO(Composed):
    """Global and local crops, class tokens alone."""

    def __init__(self, vit: nn.Module, params: Any) -> None:
        super().__init__()
        shape = params.head
        # The old weight norm of the package's heads cannot be copied.
        self.teacher = _frozen(nn.ModuleList([_masked(copy.deepcopy(vit)), _head(vit, shape)]))
        self.student = nn.ModuleList([_masked(vit), _head(vit, shape)])
        if rate := getattr(params, "drop_path", 0.0):
            uniform = getattr(params, "drop_path_uniform", False)
            utils.update_drop_path_rate(vit, rate, mode="uniform" if uniform else "linear")
        self.criterion = DINOLoss(shape.out_dim, teacher_temp=params.teacher_temp)

    def loss(self, views: Sequence[Tensor], draws: dict[str, Tensor]) -> Tensor:
        first, rest = torch.cat(list(views[:2])), torch.cat(list(views[2:]))
        backbone, head = self.student
        with torch.no_grad():
            targets = self.teacher[1](self.teacher[0](first))
        student = torch.cat([head(backbone(first)), head(backbone(rest))])
        return self.criterion(targets.chunk(2), student.chunk(len(views)), teacher_temp=0.05)

    def move(self) -> None:
        utils.update_momentum(self.student, self.teacher, m=_MOMENTUM)


class IBOT(DINO):
    """DINO, and masked patches by the same head."""

    koleo_weight = 0.0

    def __init__(self, vit: nn.Module, params: Any) -> None:
        super().__init__(vit, params)
        # Where a recipe's patches have a head of their own, it has that of class tokens in shape.
        own = getattr(params, "patch_head", None) is not None
        if own:
            self.student.append(_head(vit, params.patch_head))
            self.teacher.append(_frozen(_head(vit, params.patch_head)))
        self.patches = 2 if own else 1
        self.patch_criterion = IBOTPatchLoss(params.head.out_dim, params.teacher_temp)
        self.koleo = KoLeoLoss()

    def loss(self, views: Sequence[Tensor], draws: dict[str, Tensor]) -> Tensor:
        first, rest = torch.cat(list(views[:2])), torch.cat(list(views[2:]))
        mask_RN = draws["mask"].transpose(0, 1).flatten(0, 1)
        side = int(mask_RN.shape[1] ** 0.5)
        mask = torch.cat([mask_RN.new_zeros(len(mask_RN), 1), mask_RN], dim=1)
        with torch.no_grad():
            features = self.teacher[0].encode(first)
            targets = self.teacher[1](features[:, 0])
            patch_targets = self.teacher[self.patches](features[mask])
        backbone, head = self.student[0], self.student[1]
        features = backbone.encode(first, mask=mask)
        classes = features[:, 0]
        patches = self.student[self.patches](features[mask])
        student = torch.cat([head(classes), head(backbone(rest))])
        loss = self.criterion(targets.chunk(2), student.chunk(len(views)), teacher_temp=0.05)
        loss = loss + self.patch_criterion(
            patch_targets, patches, mask_RN.unflatten(1, (side, side)), teacher_temp=0.05
        )
        if self.koleo_weight:
            views_of = classes.chunk(2)
            loss = loss + self.koleo_weight * sum(self.koleo(view) for view in views_of)
        return loss


class DINOv2(IBOT):
    """iBOT, and KoLeo."""

    koleo_weight = 0.1


class Supervised(Composed):
    """A plain loop over a timm model; nothing of lightly."""

    def __init__(self, vit: nn.Module, params: Any) -> None:
        super().__init__()
        self.vit = vit
        self.criterion = nn.CrossEntropyLoss(label_smoothing=params.label_smoothing)

    def loss(self, views: Sequence[Tensor], draws: dict[str, Tensor]) -> Tensor:
        return self.criterion(self.vit(views[0]), draws["labels"])


COMPOSED: dict[str, type[Composed]] = {
    "simclr": SimCLR,
    "mocov3": MoCo,
    "mae": MAE,
    "dino": DINO,
    "ibot": IBOT,
    "dinov2": DINOv2,
    "supervised": Supervised,
}


def _masked(vit: nn.Module) -> nn.Module:
    return MaskedVisionTransformerTIMM(vit, antialias=False, pos_embed_initialization="skip")


def _head(vit: nn.Module, shape: Any) -> nn.Module:
    return DINOProjectionHead(
        *(vit.embed_dim, shape.hidden_dim, shape.bottleneck_dim, shape.out_dim),
        norm_last_layer=shape.norm_last_layer,
    )


def _frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)
