"""Crops of all sizes through a transformer as one set of tokens.

The tokens of all crops lie end to end, (T, D). Norms, linear layers, layer scale and MLP run once
over all of them; attention alone keeps to each crop, by a kernel for sequences of any length where
the device has one, otherwise crops of one length at a time. The numbers are those of a pass for
each size, with larger matrix products and one gradient for each weight instead of one a size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from steps.models.backbones import Transformer
from steps.models.hooked import run_hooked


@dataclass(frozen=True)
class Layout:
    """Where sequences lie in a set of tokens: groups of so many sequences, each of such a length.

    R sequences and T tokens in all.
    """

    groups: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> list[int]:
        """Sequences of each group."""
        return [count for count, _ in self.groups]

    def by_group(self, values_T: Tensor) -> Sequence[Tensor]:
        """(T, …) as a (sequences, length, …) of each group."""
        if len(self.groups) == 1:
            return [values_T.unflatten(0, self.groups[0])]
        parts = values_T.split([count * length for count, length in self.groups])
        return [part.unflatten(0, group) for part, group in zip(parts, self.groups, strict=True)]

    def spread(self, values_R: Tensor) -> Tensor:
        """What each sequence has, for each of its tokens: (R, …) to (T, …)."""
        parts = zip(values_R.split(self.rows), self.groups, strict=True)
        return torch.cat([part.repeat_interleave(length, dim=0) for part, (_, length) in parts])

    def kept(self, keep_R: Tensor) -> Layout:
        """That of the sequences for which ``keep_R`` is True."""
        counts = torch.stack([part.sum() for part in keep_R.split(self.rows)]).tolist()
        lengths = [length for _, length in self.groups]
        return Layout(tuple(zip(map(int, counts), lengths, strict=True)))

    def starts(self, device: torch.device) -> Tensor:
        """The index of each sequence's first token, and T: (R + 1,) int32."""
        ends = list(itertools.accumulate((c * n for c, n in self.groups), initial=0))
        parts = [
            torch.arange(start, stop, length, dtype=torch.int32, device=device)
            for start, stop, (_, length) in zip(ends, ends[1:], self.groups, strict=False)
        ]
        return torch.cat([*parts, parts[0].new_full((1,), ends[-1])])


def is_plain(block: Any) -> bool:
    """Whether a block does what is repeated here, and nothing else."""
    return bool(
        isinstance(block, Block)
        and type(block.attn) is Attention
        and block.attn.gate is None
        and not (block.training and block.attn.attn_drop.p > 0)
    )


def can_pack(vit: Transformer) -> bool:
    """Whether all blocks of a transformer are plain."""
    return isinstance(vit, VisionTransformer) and all(is_plain(block) for block in vit.blocks)


def through_block(
    block: Any, tokens_TD: Tensor, layout: Layout, gates_R2: Tensor | None, leave_out: bool
) -> Tensor:
    """One plain block.

    Args:
        block: of timm.
        tokens_TD: of all sequences.
        layout: of the tokens.
        gates_R2: what the two branches of each sequence are multiplied by (drop path); None: 1.
        leave_out: branches whose gate is 0 are not computed.

    Returns:
        (T, D).
    """
    return run_hooked(block, _through, tokens_TD, layout, gates_R2, leave_out)


def read_last(
    block: Any,
    tokens_TD: Tensor,
    layout: Layout,
    reads: Sequence[Tensor | None],
    gates_R2: Tensor | None,
) -> list[Tensor]:
    """What is read of one plain block, the last.

    Args:
        block, tokens_TD, layout, gates_R2: as for ``through_block``.
        reads: of each group (B, N), True for what is read; None: the first token of each sequence.

    Returns:
        Of each group (M, D), sequence by sequence.
    """
    reading = _Reading.of(layout, reads, tokens_TD.device)
    read = run_hooked(block, _read, tokens_TD, layout, reading, gates_R2)
    return list(read.split(reading.counts))


@dataclass(frozen=True)
class _Reading:
    """What is computed of a last block."""

    queries: Layout
    asked: Tensor | None
    """Tokens that have a query, by index; None: all."""
    read: Tensor | None
    """Queries whose answer is read, by index; None: all."""
    read_tokens: Tensor
    """The same, as tokens."""
    counts: list[int]
    """How many of each group."""

    @staticmethod
    def of(layout: Layout, reads: Sequence[Tensor | None], device: torch.device) -> _Reading:
        groups: list[tuple[int, int]] = []
        asked: list[Tensor] = []
        answers: list[Tensor] = []
        token = query = 0
        for (count, length), read_BN in zip(layout.groups, reads, strict=True):
            step = length if read_BN is None else 1
            groups.append((count, length // step))
            asked.append(torch.arange(token, token + count * length, step, device=device))
            if read_BN is None:
                answers.append(torch.arange(query, query + count, device=device))
            else:
                answers.append(read_BN.flatten().nonzero().squeeze(1) + query)
            token, query = token + count * length, query + len(asked[-1])
        read = torch.cat(answers)
        return _Reading(
            Layout(tuple(groups)),
            torch.cat(asked) if any(read_BN is None for read_BN in reads) else None,
            read if any(read_BN is not None for read_BN in reads) else None,
            torch.cat(asked)[read],
            [len(part) for part in answers],
        )


def _read(
    block: Any, tokens_TD: Tensor, layout: Layout, reading: _Reading, gates_R2: Tensor | None
) -> Tensor:
    normed_TD = block.norm1(tokens_TD)
    if reading.read is None and isinstance(block.attn.k_norm, nn.Identity):
        asking = normed_TD.index_select(0, reading.read_tokens)
        attended = _attend_once(block.attn, asking, normed_TD, layout)
    else:
        q, k, v = _project(block.attn, normed_TD, reading.asked)
        attended = attend(q, k, v, reading.queries, layout)
    gates = None if gates_R2 is None else reading.queries.spread(gates_R2)
    if reading.read is not None:
        attended = attended.index_select(0, reading.read)
        gates = None if gates is None else gates[reading.read]
    read = tokens_TD.index_select(0, reading.read_tokens)
    read = read + _gated(_mix(block, attended), gates, 0)
    return read + _gated(block.ls2(block.mlp(block.norm2(read))), gates, 1)


def _through(
    block: Any, tokens_TD: Tensor, layout: Layout, gates_R2: Tensor | None, leave_out: bool
) -> Tensor:
    def attention(tokens: Tensor, layout: Layout) -> Tensor:
        q, k, v = _project(block.attn, block.norm1(tokens))
        return _mix(block, attend(q, k, v, layout, layout))

    def mlp(tokens: Tensor, layout: Layout) -> Tensor:
        output: Tensor = block.ls2(block.mlp(block.norm2(tokens)))
        return output

    gates_T2 = None if gates_R2 is None or leave_out else layout.spread(gates_R2)
    for index, branch in enumerate((attention, mlp)):
        if gates_R2 is not None and leave_out:
            tokens_TD = _add_kept(branch, tokens_TD, layout, gates_R2[:, index])
        else:
            tokens_TD = tokens_TD + _gated(branch(tokens_TD, layout), gates_T2, index)
    return tokens_TD


def _add_kept(
    branch: Callable[[Tensor, Layout], Tensor], tokens_TD: Tensor, layout: Layout, gate_R: Tensor
) -> Tensor:
    kept = layout.kept(gate_R != 0)
    gate_T = layout.spread(gate_R)
    if kept == layout:
        output = branch(tokens_TD, layout) * gate_T.unsqueeze(1)
        return tokens_TD + output.to(tokens_TD.dtype)
    # No sequence at all still runs the branch: its weights get a gradient in every process.
    chosen = gate_T.nonzero().squeeze(1)
    output = branch(tokens_TD.index_select(0, chosen), kept) * gate_T[chosen].unsqueeze(1)
    return tokens_TD.index_add(0, chosen, output.to(tokens_TD.dtype))


def _gated(branch_TD: Tensor, gates_T2: Tensor | None, index: int) -> Tensor:
    return branch_TD if gates_T2 is None else branch_TD * gates_T2[:, index, None].to(branch_TD)


def _project(
    attention: Attention, tokens_TD: Tensor, queried: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (Q, H, d), keys and values (T, H, d), before the attention.

    Args:
        attention: of a plain block.
        tokens_TD: normed.
        queried: the Q tokens that ask, by index; None: all.
    """
    qkv, width, heads = attention.qkv, attention.attn_dim, (attention.num_heads, -1)
    if queried is None:
        q, k, v = qkv(tokens_TD).unflatten(-1, (3, *heads)).unbind(1)
    else:
        bias = (None, None) if qkv.bias is None else qkv.bias.split([width, 2 * width])
        asking = tokens_TD.index_select(0, queried)
        q = F.linear(asking, qkv.weight[:width], bias[0]).unflatten(-1, heads)
        both = F.linear(tokens_TD, qkv.weight[width:], bias[1])
        k, v = both.unflatten(-1, (2, *heads)).unbind(1)
    return attention.q_norm(q), attention.k_norm(k), v


def _attend_once(
    attention: Attention, asking_RD: Tensor, tokens_TD: Tensor, layout: Layout
) -> Tensor:
    """What one query of each sequence gathers from its tokens: (R, H * d), without keys and values.

    The logit of a token x is q . (K x + b) = (K^T q) . x + a constant, which the softmax cancels;
    what the query gathers is the sum of a (V x + c) = V (sum of a x) + c, for weights a that sum
    to 1. The products with K and V are of one row a sequence instead of one a token.
    """
    heads, qkv = attention.num_heads, attention.qkv
    to_q, to_k, to_v = qkv.weight.chunk(3)
    q_bias, _, v_bias = (None, None, None) if qkv.bias is None else qkv.bias.chunk(3)
    q_RHd = attention.q_norm(F.linear(asking_RD, to_q, q_bias).unflatten(-1, (heads, -1)))
    asked_HRD = (q_RHd * attention.scale).transpose(0, 1) @ to_k.unflatten(0, (heads, -1))
    found = []
    rows = asked_HRD.transpose(0, 1).split(layout.rows)
    for asked_BHD, tokens_BND in zip(rows, layout.by_group(tokens_TD), strict=True):
        weights_BHN = (asked_BHD @ tokens_BND.transpose(1, 2)).softmax(dim=-1)
        found.append(weights_BHN.to(tokens_BND.dtype) @ tokens_BND)
    gathered_HRD = torch.cat(found).transpose(0, 1)
    values_HRd = gathered_HRD @ to_v.unflatten(0, (heads, -1)).transpose(1, 2)
    values: Tensor = values_HRd.transpose(0, 1).flatten(1)
    return values if v_bias is None else values + v_bias


def _mix(block: Any, attended_TD: Tensor) -> Tensor:
    """What follows the attention in its branch."""
    attention = block.attn
    output: Tensor = block.ls1(attention.proj_drop(attention.proj(attention.norm(attended_TD))))
    return output


def attend(q_QHd: Tensor, k_THd: Tensor, v_THd: Tensor, queries: Layout, keys: Layout) -> Tensor:
    """What each query gathers from the tokens of its own sequence: (Q, H * d).

    Args:
        q_QHd: of all sequences, end to end.
        k_THd, v_THd: of the same sequences.
        queries, keys: where each sequence's lie.
    """
    if _has_kernel(v_THd):
        from torch.nn.attention.varlen import varlen_attn

        device, dtype = v_THd.device, v_THd.dtype
        gathered = varlen_attn(
            *(q_QHd.to(dtype), k_THd.to(dtype), v_THd),
            *(queries.starts(device), keys.starts(device)),
            *(max(n for _, n in queries.groups), max(n for _, n in keys.groups)),
        )
        return cast(Tensor, gathered).flatten(1)
    groups = zip(queries.by_group(q_QHd), keys.by_group(k_THd), keys.by_group(v_THd), strict=True)
    return torch.cat([_attend_batch(q, k, v) for q, k, v in groups])


def _attend_batch(q_BQHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor) -> Tensor:
    """The same of B sequences of one length: (B * Q, H * d)."""
    q, k, v = (part.transpose(1, 2) for part in (q_BQHd, k_BNHd, v_BNHd))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1)


def _has_kernel(v_THd: Tensor) -> bool:
    """Whether torch has attention over sequences of any length for such tensors.

    It is that of FlashAttention: for half precision, on a GPU of compute capability 8.0 or more.
    Where flash attention is switched off (``sdpa_kernel``), so is this.
    """
    return (
        v_THd.is_cuda
        and len(v_THd) > 0
        and v_THd.dtype in (torch.float16, torch.bfloat16)
        and v_THd.shape[-1] % 8 == 0
        and v_THd.shape[-1] <= 256
        and torch.backends.cuda.flash_sdp_enabled()
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(v_THd.device) >= (8, 0)
    )
