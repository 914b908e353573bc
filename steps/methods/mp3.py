"""MP3: position prediction as an effective pretraining strategy (arXiv:2207.07611).

Patches enter without positions. In every block all tokens ask, and a random context C answers; a
linear layer on each patch's final token tells its position among all N:

    attn_i = softmax over j in C of (q_i . k_j / sqrt(d)), times v_j
    loss   = mean over images and patches i of  -log softmax(W f_i + b)_i

C has N - int(mask_ratio * N) patches, drawn once an image and kept through all blocks. The class
token, where the backbone has one, is nobody's patch: it asks and answers in every block, and has no
position to tell.

For downstream tasks the paper adds positions to the pretrained network and fine-tunes. The backbone
that is exported has a position table of zeros: tasks on the frozen backbone see
the network as it was pretrained, and fine-tuning learns positions from there.

Published: pretraining without positions beats supervised training with them (abstract). No official
code exists; held to the formula by the golden case ``mp3``.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.schedules import Progress
from steps.methods.method import Batch, Draws, Losses, Method, MethodContext, besides_backbone
from steps.models.hooked import run_hooked
from steps.models.masks import gather_tokens
from steps.models.tokens import patch_tokens
from steps.params.methods.mp3 import MP3Params

# --- Self-attention whose keys and values come from a part of the tokens


def encode_in_context(vit: VisionTransformer, tokens_BND: Tensor, context_BC: Tensor) -> Tensor:
    """All blocks of the transformer, without its final norm; every block has the same context.

    Every token asks (queries), those of the context answer (keys and values). A token outside the
    context sees itself only through the residual stream. Keys and values of the others are never
    computed.

    Args:
        tokens_BND: (B, N, D).
        context_BC: (B, C) int64, indices of the tokens that are keys and values.

    Returns:
        (B, N, D).
    """
    tokens_BND = vit.norm_pre(tokens_BND)
    for block in vit.blocks:
        tokens_BND = run_hooked(block, _through, tokens_BND, context_BC)
    return tokens_BND


def _through(block: Any, tokens_BND: Tensor, context_BC: Tensor) -> Tensor:
    attended = _attend(block.attn, block.norm1(tokens_BND), context_BC)
    tokens_BND = tokens_BND + block.drop_path1(block.ls1(attended))
    mlp: Tensor = block.mlp(block.norm2(tokens_BND))
    return tokens_BND + cast(Tensor, block.drop_path2(block.ls2(mlp)))


def _attend(attention: Attention, tokens_BND: Tensor, context_BC: Tensor) -> Tensor:
    # The fused qkv layer is split: all tokens need queries, only the context keys and values.
    width = attention.attn_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    asks = F.linear(tokens_BND, weight[:width], None if bias is None else bias[:width])
    answers = F.linear(
        gather_tokens(tokens_BND, context_BC),
        weight[width:],
        None if bias is None else bias[width:],
    )
    heads = (attention.num_heads, attention.head_dim)
    query = asks.unflatten(2, heads).transpose(1, 2)
    key, value = (part.unflatten(2, heads).transpose(1, 2) for part in answers.chunk(2, dim=2))
    attended = F.scaled_dot_product_attention(
        attention.q_norm(query),
        attention.k_norm(key),
        value,
        dropout_p=attention.attn_drop.p if attention.training else 0.0,
    )
    attended = attention.norm(attended.transpose(1, 2).flatten(2))
    return cast(Tensor, attention.proj_drop(attention.proj(attended)))


class MP3(Method):
    """Masked position prediction."""

    def __init__(
        self, params: MP3Params, backbone: VisionTransformer, context: MethodContext
    ) -> None:
        super().__init__()
        self.params = params
        self.backbone = backbone
        self.patches: int = backbone.patch_embed.num_patches
        # Rounded down: where the ratio gives no whole number, one patch less is hidden.
        self.context_size = self.patches - int(params.mask_ratio * self.patches)
        self.position_head = nn.Linear(backbone.embed_dim, self.patches)
        nn.init.trunc_normal_(self.position_head.weight, std=0.02)
        nn.init.zeros_(self.position_head.bias)
        if backbone.pos_embed is not None:
            # Tokens must not know their position: it is the label.
            backbone.pos_embed.requires_grad_(False).zero_()

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """Indices of each image's context patches: (B, C) int64."""
        # By sorting noise, so that every image has a context of one size.
        noise = torch.rand(batch, self.patches, generator=generator)
        return {"context": noise.argsort(dim=1)[:, : self.context_size]}

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        (images,) = batch.views
        context = draws["context"]
        logits = self.logits(self.features(images, context))
        true_BN = torch.arange(self.patches, device=logits.device).expand(len(logits), -1)
        error_BN = F.cross_entropy(logits.transpose(1, 2), true_BN, reduction="none")
        # Logged apart: a token outside the context sees itself only in the residual stream.
        known = error_BN.detach().gather(1, context)
        losses = {
            "loss": error_BN.mean(),
            "context_loss": known.mean(),
            "position_accuracy": (logits.argmax(dim=2) == true_BN).float().mean(),
        }
        if others := self.patches - self.context_size:
            total = error_BN.detach().sum(dim=1) - known.sum(dim=1)
            losses["other_loss"] = total.mean() / others
        return losses

    def chance(self, batch: int) -> dict[str, float]:
        """log N, of N positions."""
        return {"loss": math.log(self.patches)}

    def export_backbone(self) -> VisionTransformer:
        """The network without its classifier, its position table zero."""
        return self.backbone

    def heads(self) -> dict[str, Tensor]:
        """The classifier, for pictures."""
        return besides_backbone(self)

    def features(self, images: Tensor, context_BC: Tensor) -> Tensor:
        """Normed tokens of all patches: (B, N, D).

        Args:
            images: (B, 3, H, W).
            context_BC: indices of the patches that are keys and values.
        """
        vit = self.backbone
        tokens = patch_tokens(vit, images)
        if vit.cls_token is not None:
            tokens = torch.cat([vit.cls_token.expand(len(images), -1, -1), tokens], dim=1)
            # The class token, at index 0, is always in the context.
            context_BC = F.pad(context_BC + 1, (1, 0))
        features: Tensor = vit.norm(encode_in_context(vit, tokens, context_BC))
        return features[:, vit.num_prefix_tokens :]

    def logits(self, features_BND: Tensor) -> Tensor:
        """Scores of each patch (row) for each position (column): (B, N, N)."""
        scores: Tensor = self.position_head(features_BND)
        return scores.float()
