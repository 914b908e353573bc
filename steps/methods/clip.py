"""CLIP: learning transferable visual models from natural language supervision (arXiv:2103.00020).

An image tower and a text tower meet in one space. With u_i, v_i the l2-normalised features of the
B images and their captions, s the learnt logarithm of an inverse temperature:

    z_ij = exp(s) <u_i, v_j>
    loss = (1 / 2B) sum_i ( -log softmax_j(z_ij)_i - log softmax_j(z_ji)_i )       (figure 3)
    s    <- min(max(s, 0), ln 100) after each step                                 (section 2.5)

or, with SigLIP's loss (arXiv:2303.15343, equation 1) and a learnt bias b, y = +1 for an image and
its own caption, -1 for any other pair:

    loss = (1 / B) sum_ij -log sigmoid( y_ij (z_ij + b) )

Captions and images of all processes are candidates, with gradient.

Published: ViT-B/16, 32 epochs of 400 M image-text pairs at batch 32,768: linear probe 80.2 %,
zero-shot 68.6 % on ImageNet (tables 10 and 11). Held to openai/CLIP and mlfoundations/open_clip by
the golden cases ``clip`` and ``siglip``.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.distributed import gather, rank
from steps.core.schedules import Progress
from steps.methods.losses import binary_entropy
from steps.methods.method import (
    Batch,
    BatchCoupledMethod,
    Draws,
    Encoded,
    Losses,
    MethodContext,
    besides_backbone,
)
from steps.models.backbones import BackboneModel
from steps.models.features import global_feature
from steps.models.text import TextTower
from steps.params.methods.clip import CLIPParams, SigmoidLoss


class CLIP(BatchCoupledMethod):
    """Two towers, of which the backbone is the image's, and a temperature."""

    def __init__(self, params: CLIPParams, backbone: BackboneModel, context: MethodContext) -> None:
        super().__init__()
        self.params = params
        self.backbone = backbone
        self.text = TextTower(params.text_tower, context.vocabulary)
        self.projection = _projection(backbone.num_features, params.embed_dim)
        self.text_projection = _projection(params.text_tower.width, params.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(params.loss.logit_scale))
        self.logit_bias: nn.Parameter | None = None
        if isinstance(params.loss, SigmoidLoss):
            self.logit_bias = nn.Parameter(torch.tensor(params.loss.logit_bias))

    def encode(self, batch: Batch, draws: Draws, progress: Progress) -> Encoded:
        (images,) = batch.views
        assert batch.text is not None, "captions are missing"
        # Unit length per sample, so that a batch can be encoded in chunks of any size.
        return {
            "image": F.normalize(self.image_features(images).float(), dim=1),
            "text": F.normalize(self.text_features(batch.text).float(), dim=1),
        }

    def losses(self, encoded: Encoded, draws: Draws, progress: Progress) -> Losses:
        image, text = encoded["image"], encoded["text"]
        scale = self.logit_scale.exp()
        # Every process has equally many pairs, so its own begin here among all candidates.
        first = rank() * len(image)
        if self.logit_bias is None:
            loss = image_text_softmax(image, text, gather(image), gather(text), scale, first)
        else:
            loss = image_text_sigmoid(image, gather(text), scale, self.logit_bias, first)
        return {"loss": loss, "temperature": 1 / scale.detach()}

    @torch.no_grad()
    def after_step(self, progress: Progress) -> dict[str, float]:
        """Keep the logarithm of the inverse temperature within its bounds."""
        if self.params.loss.logit_scale_clamp is not None:
            self.logit_scale.clamp_(*self.params.loss.logit_scale_clamp)
        return {}

    def image_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, E), of any length."""
        return cast(Tensor, self.projection(global_feature(self.backbone, images)))

    def text_features(self, ids_BL: Tensor) -> Tensor:
        """Token ids (B, L) to (B, E), of any length."""
        return cast(Tensor, self.text_projection(self.text(ids_BL)))

    def chance(self, batch: int) -> dict[str, float]:
        """log N; with SigLIP's loss N h(1 / N), h the entropy of a pair's being right, in nats."""
        if self.logit_bias is None:
            return {"loss": math.log(batch)}
        return {"loss": batch * binary_entropy(1 / batch)}

    def embeddings(self, batch: Batch) -> Tensor:
        """The image tower's class tokens."""
        return global_feature(self.backbone, batch.views[0])

    def export_backbone(self) -> BackboneModel:
        """The image tower without its projection."""
        return self.backbone

    def heads(self) -> dict[str, Tensor]:
        """Text tower, both projections and temperature: what pairs images with captions."""
        return besides_backbone(self)


def _projection(width: int, embed_dim: int) -> nn.Linear:
    layer = nn.Linear(width, embed_dim, bias=False)
    # As published: the initial scale of features does not depend on the tower's width.
    nn.init.normal_(layer.weight, std=width**-0.5)
    return layer


def image_text_softmax(
    image: Tensor, text: Tensor, images: Tensor, texts: Tensor, scale: Tensor, first: int
) -> Tensor:
    """Cross entropy of each image over captions and each caption over images.

    Args:
        image, text: l2-normalised features (B, E) of pairs: the queries.
        images, texts: of all pairs (N, E): the candidates. Where the queries are a process's own
            and the candidates those of all processes with gradient, the mean of the losses over
            processes is the loss of the whole batch, and so is its gradient.
        scale: inverse temperature.
        first: where the queries' own pairs begin among the candidates.
    """
    target = torch.arange(first, first + len(image), device=image.device)
    by_image = F.cross_entropy(image_text_logits(image, texts, scale), target)
    by_text = F.cross_entropy(image_text_logits(text, images, scale), target)
    return (by_image + by_text) / 2


def image_text_sigmoid(
    image: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, first: int
) -> Tensor:
    """Each pair of an image and a caption, yes or no: the sum over captions, the mean over images.

    Args:
        image: l2-normalised features (B, E).
        texts: of all captions (N, E), as for ``image_text_softmax``.
        scale: inverse temperature.
        bias: added to every logit.
        first: where the images' own captions begin among the candidates.
    """
    logits = image_text_logits(image, texts, scale) + bias
    rows = torch.arange(len(image), device=image.device)
    # All pairs are negatives except an image with its own caption.
    signs = torch.full_like(logits, -1.0)
    signs[rows, first + rows] = 1.0
    return -F.logsigmoid(signs * logits).sum(dim=1).mean()


def image_text_logits(queries: Tensor, candidates: Tensor, scale: Tensor) -> Tensor:
    """Scaled cosines (B, N) of l2-normalised features (B, E) and (N, E), in float32."""
    # A scale of up to 100 makes a rounding of bfloat16 a third of a nat.
    with torch.autocast(queries.device.type, enabled=False):
        return scale * (queries.float() @ candidates.float().T)
