"""Self-attention whose keys and values come from a part of the tokens."""

from __future__ import annotations

from typing import Any, cast

from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from steps.models.hooked import run_hooked
from steps.models.random_masking import take


def encode_in_context(vit: VisionTransformer, tokens_BND: Tensor, context_BC: Tensor) -> Tensor:
    """All blocks of the transformer, without its final norm; every block has the same context.

    Every token asks (queries), those of the context answer (keys and values). A token outside the
    context sees itself through the residual stream alone. Keys and values of the others are never
    computed.

    Args:
        tokens_BND: (B, N, D).
        context_BC: (B, C) int64, the places of the tokens that are keys and values.

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
    width = attention.attn_dim
    weight, bias = attention.qkv.weight, attention.qkv.bias
    asks = F.linear(tokens_BND, weight[:width], None if bias is None else bias[:width])
    answers = F.linear(
        take(tokens_BND, context_BC), weight[width:], None if bias is None else bias[width:]
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
