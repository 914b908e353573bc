"""Through a transformer to the tokens that something reads.

No other token goes through the last block: the others are attended to, so they have keys and values
there, but queries, projection and MLP are computed for those alone that a loss or a head reads. The
numbers are those of the whole block, at ten twelfths less of its work where one token is read.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from steps.models import drop_path, row_drop
from steps.models.backbones import Transformer
from steps.models.hooked import run_hooked
from steps.models.tokens import encode


def encode_read(
    vit: Transformer,
    tokens_BND: Tensor,
    read_BN: Tensor | None = None,
    keep: Tensor | None = None,
    gates: Tensor | None = None,
) -> Tensor:
    """Blocks of the transformer, without its final norm, and what is read of the last.

    Args:
        vit: of any kind; a last block that is not timm's plain one is computed whole.
        tokens_BND: (B, N, D), embedded.
        read_BN: True for the M tokens that are read, in all; None: the class token of each.
        keep: drop-path draws (B, 2 * depth), see ``drop_path.sample``.
        gates: of drop path by rows (B, 2 * depth), see ``row_drop.sample``; not beside ``keep``.

    Returns:
        (M, D), sample by sample; (B, D) where class tokens are read.
    """
    plain = _is_plain(vit.blocks[-1]) and isinstance(vit, VisionTransformer)
    stop = len(vit.blocks) - 1 if plain else len(vit.blocks)
    if gates is None:
        tokens = encode(vit, tokens_BND, keep, stop=stop)
        gates = drop_path.gates(vit, keep) if keep is not None else None
    else:
        tokens = row_drop.encode(vit, tokens_BND, gates, stop=stop)
    if not plain:
        return tokens[:, 0] if read_BN is None else tokens[read_BN]
    last = None if gates is None else gates[:, -2:]
    return run_hooked(vit.blocks[-1], _last, tokens, read_BN, last)


def normed_read(
    vit: Transformer,
    tokens_BND: Tensor,
    read_BK: Tensor,
    keep: Tensor | None = None,
    gates: Tensor | None = None,
) -> Tensor:
    """Class tokens and some patches, through the final norm, in their places.

    Args:
        read_BK: True for the patches that are read.
        vit, tokens_BND, keep, gates: as for ``encode_read``.

    Returns:
        (B, N, D), zeros for registers and for patches that are not read.
    """
    read = torch.ones(tokens_BND.shape[:2], dtype=torch.bool, device=tokens_BND.device)
    read[:, 1 : vit.num_prefix_tokens] = False
    read[:, vit.num_prefix_tokens :] = read_BK
    normed = cast(Tensor, vit.norm(encode_read(vit, tokens_BND, read, keep, gates)))
    places = normed.new_zeros(tokens_BND.shape)
    places[read] = normed
    return places


def block_read(block: Any, tokens_BND: Tensor, read_BN: Tensor) -> Tensor:
    """One block's tokens (M, D), the M that are read alone."""
    if not _is_plain(block):
        return cast(Tensor, block(tokens_BND)[read_BN])
    return run_hooked(block, _last, tokens_BND, read_BN, None)


def _is_plain(block: Any) -> bool:
    """Whether a block does what ``_last`` repeats, and nothing else."""
    return bool(
        isinstance(block, Block)
        and type(block.attn) is Attention
        and block.attn.gate is None
        and not (block.training and block.attn.attn_drop.p > 0)
    )


def _last(
    block: Any, tokens_BND: Tensor, read_BN: Tensor | None, gates_B2: Tensor | None
) -> Tensor:
    normed = block.norm1(tokens_BND)
    if read_BN is None:
        read = tokens_BND[:, 0]
        attended = _attend(block.attn, normed[:, :1], normed).squeeze(1)
        samples = torch.arange(len(read), device=read.device)
    else:
        read = tokens_BND[read_BN]
        attended = _attend(block.attn, normed, normed)[read_BN]
        samples = read_BN.nonzero()[:, 0]
    attended = block.attn.proj_drop(block.attn.proj(block.attn.norm(attended)))
    gates_M2 = None if gates_B2 is None else gates_B2[samples]
    read = read + _gated(block.ls1(attended), gates_M2, 0)
    return read + _gated(block.ls2(block.mlp(block.norm2(read))), gates_M2, 1)


def _gated(branch_MD: Tensor, gates_M2: Tensor | None, index: int) -> Tensor:
    return branch_MD if gates_M2 is None else branch_MD * gates_M2[:, index, None].to(branch_MD)


def _attend(attention: Attention, queries_BQD: Tensor, tokens_BND: Tensor) -> Tensor:
    """What each query gathers from all tokens: (B, Q, D), before the projection."""
    heads, width, qkv = attention.num_heads, attention.attn_dim, attention.qkv
    if queries_BQD is tokens_BND:
        q, k, v = qkv(tokens_BND).chunk(3, dim=-1)
    else:
        bias = (None, None) if qkv.bias is None else qkv.bias.split([width, 2 * width])
        q = F.linear(queries_BQD, qkv.weight[:width], bias[0])
        k, v = F.linear(tokens_BND, qkv.weight[width:], bias[1]).chunk(2, dim=-1)
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    gathered = F.scaled_dot_product_attention(attention.q_norm(q), attention.k_norm(k), v)
    return gathered.transpose(1, 2).flatten(2)
