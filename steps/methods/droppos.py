"""DropPos: pre-training vision transformers by reconstructing dropped positions (arXiv:2309.03576).

The encoder sees a quarter of the patches, and of three quarters of those not where they are. A
shallow decoder tells the position of each among all L:

    S_ij = exp(-|i - j|^2 / sigma^2) / sum_k exp(-|j - k|^2 / sigma^2)     (position smoothing)
    l_p  = -sum_j S_{pos(p), j} log softmax(y_p)_j
    loss = sum_p w_p l_p / sum_p w_p,  over the whole batch

with distances in patches, and w_p the attentive reconstruction's weight where the position of p
was dropped, else 0: the softmax of cos(class token, patch) / tau, from a pass without gradient over
the whole image with all its positions, normalised over the visible patches. sigma falls to 0, epoch
by epoch. The multi-task variant adds MAE's pixel loss, from a decoder of its own.

Published: ViT-B/16, 800 epochs of ImageNet-1K: fine-tune 84.2 %, 200 epochs: 83.0 %; ViT-L/16, 800
epochs: 85.8 % (README of the reference). Held to Haochen-Wang409/DropPos by the golden cases
``droppos`` and ``droppos_multitask``.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.distributed import sum_over_processes
from steps.core.schedules import Progress
from steps.methods.losses import pixel_error
from steps.methods.method import (
    Batch,
    BatchCoupledMethod,
    Draws,
    Encoded,
    Losses,
    MethodContext,
    besides_backbone,
)
from steps.models.masked_autoencoder import Decoder, PixelDecoder, initialise, pixel_targets
from steps.models.masks import Masking, gather_tokens, num_visible, random_masking
from steps.models.positions import sincos_table
from steps.models.tokens import embed, encode, patch_tokens
from steps.params.methods.droppos import DropPosParams


@dataclass(frozen=True)
class Maskings:
    """The two maskings: of all patches, and of the positions of those that are visible."""

    patches: Masking
    positions: Masking
    """Its indices are into ``patches.keep``."""


class DropPos(BatchCoupledMethod):
    """Position reconstruction. The weights of the whole batch divide its losses."""

    def __init__(
        self, params: DropPosParams, backbone: VisionTransformer, context: MethodContext
    ) -> None:
        super().__init__()
        self.params = params
        self.backbone = backbone
        dim: int = backbone.embed_dim
        self.patch_size: int = backbone.patch_embed.patch_size[0]
        self.channels: int = backbone.patch_embed.proj.in_channels
        self.patches: int = backbone.patch_embed.num_patches
        self.grid: int = backbone.patch_embed.grid_size[0]
        self.visible = num_visible(self.patches, params.mask_ratio, least=1)
        learnt = params.dropped_position == "learnt"
        # Zeros leave both tokens as they are drawn: they take no gradient (reference code).
        self.position_token = nn.Parameter(torch.zeros(1, 1, dim), requires_grad=learnt)
        tokens = [backbone.cls_token, self.position_token]
        self.decoder = Decoder(params.decoder, dim, self.patches)
        self.pixel_decoder: PixelDecoder | None = None
        if params.pixel_task is not None:
            self.pixel_decoder = PixelDecoder(
                params.decoder, dim, self.grid, self.channels * self.patch_size**2
            )
            tokens.append(self.pixel_decoder.mask_token.requires_grad_(learnt))
        # Fixed sin-cos positions, as in the reference.
        backbone.pos_embed.requires_grad_(False)
        backbone.pos_embed.data.copy_(sincos_table(dim, self.grid))
        initialise(self, backbone, tokens)

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """A uniform number for each patch and for each visible position: the smallest stay."""
        return {
            "noise_patch": torch.rand(batch, self.patches, generator=generator),
            "noise_pos": torch.rand(batch, self.visible, generator=generator),
        }

    def encode(self, batch: Batch, draws: Draws, progress: Progress) -> Encoded:
        """Position logits (B, K, L) of the visible patches; weights and pixel errors if asked."""
        (images,) = batch.views
        masks = self.maskings(draws)
        latent = self.encode_visible(images, masks)
        # Without the class token; in float32, since the loss is a softmax over all positions.
        encoded = {"logits": self.decoder(latent)[:, 1:].float()}
        if self.params.attn_guide:
            encoded["attention"] = self.attention(images)
        if self.pixel_decoder is not None:
            prediction = self.pixel_decoder(latent, masks.patches.restore)
            targets = self.pixel_targets(images)
            encoded["pixel_error"] = pixel_error(prediction, targets, masks.patches.removed)
        return encoded

    def losses(self, encoded: Encoded, draws: Draws, progress: Progress) -> Losses:
        masks, logits = self.maskings(draws), encoded["logits"]
        true_BK = masks.patches.keep
        labels = smoothed_labels(self.grid, self.sigma(progress)).to(logits)
        loss_BK = -(labels[true_BK] * F.log_softmax(logits, dim=-1)).sum(dim=-1)
        # A patch that keeps its position would only have to copy it.
        weights = masks.positions.removed.float()
        if self.params.conf_ignore:
            weights = weights * (confidence(logits, true_BK) < labels.diagonal()[true_BK])
        if "attention" in encoded:
            weights = weights * self.visible_attention(encoded["attention"], true_BK)
        hits = (logits.argmax(dim=-1) == true_BK) * weights
        sums = torch.stack([(weights * loss_BK).sum(), hits.sum(), weights.sum()])
        # Divided by the weights of all processes, so that the loss does not depend on their number.
        total, hit, weight = sum_over_processes(sums).unbind()
        # Confidence may leave no patch at all: then there is nothing to learn from.
        weight = weight.clamp(min=torch.finfo(weight.dtype).tiny)
        position = total / weight
        losses = {"loss": position, "position_accuracy": (hit / weight).detach()}
        if self.params.pixel_task is not None:
            pixel = encoded["pixel_error"].mean()
            losses["loss"] = self.params.pixel_task.pos_weight * position + pixel
            losses |= {"position_loss": position.detach(), "pixel_loss": pixel.detach()}
        return losses

    def chance(self, batch: int) -> dict[str, float]:
        """log L, of L positions: labels sum to 1 in the mean over positions."""
        name = "loss" if self.params.pixel_task is None else "position_loss"
        return {name: math.log(self.patches)}

    def export_backbone(self) -> VisionTransformer:
        """The encoder."""
        return self.backbone

    def heads(self) -> dict[str, Tensor]:
        """The decoders and the tokens, for pictures."""
        return besides_backbone(self)

    def maskings(self, draws: Draws) -> Maskings:
        """Which patches are visible, and which of those keep their position."""
        return Maskings(
            random_masking(draws["noise_patch"], self.params.mask_ratio),
            random_masking(draws["noise_pos"], self.params.pos_mask_ratio),
        )

    def encode_visible(self, images: Tensor, masks: Maskings) -> Tensor:
        """Encode only the visible patches: (B, 1 + K, D), class token first."""
        vit, learnt = self.backbone, self.params.dropped_position == "learnt"
        token = self.position_token if learnt else torch.zeros_like(self.position_token)
        visible = masks.patches.keep
        table = vit.pos_embed[:, 1:].expand(len(images), -1, -1)
        dropped = masks.positions.removed.unsqueeze(2)
        positions = torch.where(dropped, token, gather_tokens(table, visible))
        tokens = gather_tokens(patch_tokens(vit, images), visible) + positions
        cls = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
        latent: Tensor = vit.norm(encode(vit, torch.cat([cls, tokens], dim=1)))
        return latent

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """Similarity of each patch of the whole image to the class token: (B, L), sum 1."""
        # A second pass: the similarity is over the whole image, nothing masked.
        tokens = self.backbone.norm(encode(self.backbone, embed(self.backbone, images))).float()
        similarity = F.cosine_similarity(tokens[:, :1], tokens[:, 1:], dim=-1)
        return (similarity / self.params.attn_temperature).softmax(dim=-1)

    def visible_attention(self, attention_BL: Tensor, visible_BK: Tensor) -> Tensor:
        """The attention of the visible patches, normalised over them: (B, K)."""
        visible = attention_BL.gather(1, visible_BK)
        return visible / visible.sum(dim=1, keepdim=True)

    def pixel_targets(self, images: Tensor) -> Tensor:
        """Targets of the second task: (B, L, patch^2 * 3)."""
        task = self.params.pixel_task
        assert task is not None, "the second task is off"
        return pixel_targets(images, self.patch_size, normalised=task.norm_pix_loss)

    def sigma(self, progress: Progress) -> float:
        """Width of the labels, in patches: falls linearly to 0, constant within an epoch."""
        if not self.params.sigma_decay:
            return self.params.label_smoothing_sigma
        epochs = progress.total_steps / progress.steps_per_epoch
        return self.params.label_smoothing_sigma * max(1 - progress.epoch / epochs, 0.0)


@functools.lru_cache(maxsize=2)
def smoothed_labels(grid: int, sigma: float) -> Tensor:
    """The label of each true position (row) over all positions: (L, L).

    As in the reference, column j is divided by the sum of row j, so that it is columns that sum
    to 1, and rows near the border do not. sigma 0 is the identity. It changes once an epoch.
    """
    if sigma == 0:
        return torch.eye(grid * grid)
    positions = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).double()
    distance = (positions.unsqueeze(1) - positions.unsqueeze(0)).square().sum(dim=2)
    similar = (-distance / sigma**2).exp()
    return (similar / similar.sum(dim=1)).float()


def confidence(logits_BKL: Tensor, true_BK: Tensor) -> Tensor:
    """The probability that each patch gives its true position: (B, K), without gradient."""
    probability = logits_BKL.detach().softmax(dim=-1)
    return probability.gather(2, true_BK.unsqueeze(2)).squeeze(2)
