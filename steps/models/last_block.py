"""Through a transformer to the tokens that something reads.

No other token goes through the last block: the others are attended to, so they have keys and values
there, but queries, projection and MLP are computed only for tokens that a loss or a head reads.
If that is the class token, keys and values are not computed either. The results are the same as
from the whole block, at a small part of the work.
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

from steps.models import drop_path, row_drop
from steps.models.backbones import Transformer
from steps.models.hooked import run_hooked
from steps.models.tokens import encode

# --- Crops of all sizes through a transformer as one set of tokens
# The tokens of all crops lie end to end, (T, D). Norms, linear layers, layer scale and MLP run
# once over all of them; only attention keeps to each crop, by a kernel for sequences of any length
# if the device has one, otherwise one length at a time. Results are the same as from one pass per
# size, with larger matrix products and one gradient per weight instead of one per size.


@dataclass(frozen=True)
class PackedCrops:
    """Sequences in a set of tokens: groups, each with its number of sequences and their length.

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
        """Repeat a value per sequence for each of its tokens: (R, …) to (T, …)."""
        parts = zip(values_R.split(self.rows), self.groups, strict=True)
        return torch.cat([part.repeat_interleave(length, dim=0) for part, (_, length) in parts])

    def kept(self, keep_R: Tensor) -> PackedCrops:
        """Only the sequences for which ``keep_R`` is True."""
        # Stacked first: a device is asked once for all groups, and not once for each.
        counts = torch.stack([part.sum() for part in keep_R.split(self.rows)]).tolist()
        lengths = [length for _, length in self.groups]
        return PackedCrops(tuple(zip(map(int, counts), lengths, strict=True)))

    def starts(self, device: torch.device) -> Tensor:
        """The index of each sequence's first token, and T: (R + 1,) int32."""
        ends = list(itertools.accumulate((c * n for c, n in self.groups), initial=0))
        parts = [
            torch.arange(start, stop, length, dtype=torch.int32, device=device)
            for start, stop, (_, length) in zip(ends, ends[1:], self.groups, strict=False)
        ]
        return torch.cat([*parts, parts[0].new_full((1,), ends[-1])])


def is_plain(block: Any) -> bool:
    """True for a block that does exactly what this module repeats."""
    return bool(
        isinstance(block, Block)
        and type(block.attn) is Attention
        and block.attn.gate is None
        and not (block.training and block.attn.attn_drop.p > 0)
    )


def can_pack(vit: Transformer) -> bool:
    """True if all blocks of a transformer are plain."""
    return isinstance(vit, VisionTransformer) and all(is_plain(block) for block in vit.blocks)


def through_block(
    block: Any, tokens_TD: Tensor, packed: PackedCrops, gates_R2: Tensor | None, leave_out: bool
) -> Tensor:
    """One plain block.

    Args:
        block: of timm.
        tokens_TD: of all sequences.
        packed: of the tokens.
        gates_R2: what the two branches of each sequence are multiplied by (drop path); None: 1.
        leave_out: branches whose gate is 0 are not computed.

    Returns:
        (T, D).
    """
    return run_hooked(block, _through, tokens_TD, packed, gates_R2, leave_out)


def read_last(
    block: Any,
    tokens_TD: Tensor,
    packed: PackedCrops,
    reads: Sequence[Tensor | None],
    gates_R2: Tensor | None,
) -> list[Tensor]:
    """Tokens that are read of the last block, a plain one.

    Args:
        block, tokens_TD, packed, gates_R2: as for ``through_block``.
        reads: of each group (B, N), True for what is read; None: the first token of each sequence.

    Returns:
        Of each group (M, D), sequence by sequence.
    """
    # Counted here, so that a device is waited for once.
    chosen = [None if read is None else read.flatten().nonzero().squeeze(1) for read in reads]
    counts = [
        rows if index is None else len(index)
        for rows, index in zip(packed.rows, chosen, strict=True)
    ]
    read = run_hooked(block, _read, tokens_TD, packed, chosen, gates_R2)
    return list(read.split(counts))


def _read(
    block: Any,
    tokens_TD: Tensor,
    packed: PackedCrops,
    chosen: Sequence[Tensor | None],
    gates_R2: Tensor | None,
) -> Tensor:
    normed = packed.by_group(block.norm1(tokens_TD))
    residual, attended, gates = [], [], []
    gates_by_group = [None] * len(normed) if gates_R2 is None else gates_R2.split(packed.rows)
    for tokens_BND, normed_BND, index, gates_B2 in zip(
        packed.by_group(tokens_TD), normed, chosen, gates_by_group, strict=True
    ):
        # A class token asks one query, which needs no keys and values.
        if index is None:
            residual.append(tokens_BND[:, 0])
            attended.append(_attend_once(block.attn, normed_BND))
        else:
            q, k, v = _project(block.attn, normed_BND)
            residual.append(tokens_BND.flatten(0, 1).index_select(0, index))
            attended.append(_attend_batch(q, k, v).index_select(0, index))
        if gates_B2 is not None:
            samples = slice(None) if index is None else index // tokens_BND.shape[1]
            gates.append(gates_B2[samples])
    gates_M2 = torch.cat(gates) if gates else None
    read = torch.cat(residual)
    read = read + _gated(_mix(block, torch.cat(attended)), gates_M2, 0)
    return read + _gated(block.ls2(block.mlp(block.norm2(read))), gates_M2, 1)


def _through(
    block: Any, tokens_TD: Tensor, packed: PackedCrops, gates_R2: Tensor | None, leave_out: bool
) -> Tensor:
    def attention(tokens: Tensor, packed: PackedCrops) -> Tensor:
        q, k, v = _project(block.attn, block.norm1(tokens))
        return _mix(block, attend(q, k, v, packed))

    def mlp(tokens: Tensor, packed: PackedCrops) -> Tensor:
        output: Tensor = block.ls2(block.mlp(block.norm2(tokens)))
        return output

    gates_T2 = None if gates_R2 is None or leave_out else packed.spread(gates_R2)
    for index, branch in enumerate((attention, mlp)):
        if gates_R2 is not None and leave_out:
            tokens_TD = _add_kept(branch, tokens_TD, packed, gates_R2[:, index])
        else:
            tokens_TD = tokens_TD + _gated(branch(tokens_TD, packed), gates_T2, index)
    return tokens_TD


def _add_kept(
    branch: Callable[[Tensor, PackedCrops], Tensor],
    tokens_TD: Tensor,
    packed: PackedCrops,
    gate_R: Tensor,
) -> Tensor:
    kept = packed.kept(gate_R != 0)
    gate_T = packed.spread(gate_R)
    # Nothing is dropped: no copy of the tokens.
    if kept == packed:
        output = branch(tokens_TD, packed) * gate_T.unsqueeze(1)
        return tokens_TD + output.to(tokens_TD.dtype)
    # No sequence at all still runs the branch: its weights get a gradient in every process.
    chosen = gate_T.nonzero().squeeze(1)
    output = branch(tokens_TD.index_select(0, chosen), kept) * gate_T[chosen].unsqueeze(1)
    return tokens_TD.index_add(0, chosen, output.to(tokens_TD.dtype))


def _gated(branch_TD: Tensor, gates_T2: Tensor | None, index: int) -> Tensor:
    return branch_TD if gates_T2 is None else branch_TD * gates_T2[:, index, None].to(branch_TD)


def _project(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of normed tokens: (…, D) to three (…, H, d)."""
    q, k, v = attention.qkv(tokens).unflatten(-1, (3, attention.num_heads, -1)).unbind(-3)
    return attention.q_norm(q), attention.k_norm(k), v


def _attend_once(attention: Attention, tokens_BND: Tensor) -> Tensor:
    """Attention output of each sequence's first token, without keys and values: (B, H * d).

    The logit of a token x is q . (K x + b) = (K^T q) . x + a constant, which the softmax cancels;
    the output is the sum of a (V x + c) = V (sum of a x) + c, for weights a that sum
    to 1. The products with K and V have one row per sequence instead of one per token.
    """
    if not isinstance(attention.k_norm, nn.Identity):
        q, k, v = _project(attention, tokens_BND)
        return _attend_batch(q[:, :1], k, v)
    qkv, heads = attention.qkv, (attention.num_heads, -1)
    to_q, to_k, to_v = qkv.weight.chunk(3)
    q_bias, _, v_bias = (None, None, None) if qkv.bias is None else qkv.bias.chunk(3)
    q_BHd = attention.q_norm(F.linear(tokens_BND[:, 0], to_q, q_bias).unflatten(-1, heads))
    asked_HBD = (q_BHd * attention.scale).transpose(0, 1) @ to_k.unflatten(0, heads)
    logits_BHN = asked_HBD.transpose(0, 1) @ tokens_BND.transpose(1, 2)
    gathered_BHD = logits_BHN.softmax(dim=-1).to(tokens_BND.dtype) @ tokens_BND
    values_HBd = gathered_BHD.transpose(0, 1) @ to_v.unflatten(0, heads).transpose(1, 2)
    values: Tensor = values_HBd.transpose(0, 1).flatten(1)
    return values if v_bias is None else values + v_bias


def _mix(block: Any, attended_TD: Tensor) -> Tensor:
    """Rest of the attention's branch."""
    attention = block.attn
    output: Tensor = block.ls1(attention.proj_drop(attention.proj(attention.norm(attended_TD))))
    return output


def attend(q_THd: Tensor, k_THd: Tensor, v_THd: Tensor, packed: PackedCrops) -> Tensor:
    """Attention output of each token within its own sequence: (T, H * d).

    Args:
        q_THd, k_THd, v_THd: of all sequences, end to end.
        packed: where each lies.
    """
    if _has_kernel(v_THd):
        from torch.nn.attention.varlen import varlen_attn

        # Norms of queries and keys give float32 under autocast; the kernel takes one type.
        dtype, starts = v_THd.dtype, packed.starts(v_THd.device)
        longest = max(length for _, length in packed.groups)
        gathered = varlen_attn(
            q_THd.to(dtype), k_THd.to(dtype), v_THd, starts, starts, longest, longest
        )
        return cast(Tensor, gathered).flatten(1)
    groups = zip(*(packed.by_group(part) for part in (q_THd, k_THd, v_THd)), strict=True)
    return torch.cat([_attend_batch(q, k, v) for q, k, v in groups])


def _attend_batch(q_BQHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor) -> Tensor:
    """The same of B sequences of one length: (B * Q, H * d)."""
    q, k, v = (part.transpose(1, 2) for part in (q_BQHd, k_BNHd, v_BNHd))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).flatten(0, 1)


def _has_kernel(v_THd: Tensor) -> bool:
    """True if torch has attention over sequences of any length for such tensors.

    The kernel is FlashAttention's: half precision, on a GPU of compute capability 8.0 or more.
    Switching off flash attention (``sdpa_kernel``) switches it off too.
    ``tests/pipeline/test_gpu.py`` holds it to the plain path; on an H100 it makes a step of DINO,
    iBOT and DINOv2 1.05 to 1.17 times as fast as one pass per size (benchmarks/results).
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


@dataclass(frozen=True)
class Crops:
    """Embedded crops of one size, and what is read of them.

    Args:
        tokens: class token, registers and K patches of each (B, N, D).
        read: True for the patches that are read beside the class token (B, K); None: only that is.
        keep, gates: drop path, as for ``encode_read``.
    """

    tokens: Tensor
    read: Tensor | None = None
    keep: Tensor | None = None
    gates: Tensor | None = None


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
    plain = is_plain(vit.blocks[-1]) and isinstance(vit, VisionTransformer)
    # A block of another kind has no parts that could be left out.
    stop = len(vit.blocks) - 1 if plain else len(vit.blocks)
    if gates is None:
        tokens = encode(vit, tokens_BND, keep, stop=stop)
        gates = drop_path.gates(vit, keep) if keep is not None else None
    else:
        tokens = row_drop.encode(vit, tokens_BND, gates, stop=stop)
    if not plain:
        return tokens[:, 0] if read_BN is None else tokens[read_BN]
    return _last_read(vit.blocks[-1], tokens, read_BN, None if gates is None else gates[:, -2:])


def normed_read(
    vit: Transformer,
    tokens_BND: Tensor,
    read_BK: Tensor,
    keep: Tensor | None = None,
    gates: Tensor | None = None,
) -> Tensor:
    """Class tokens and some patches, through the final norm, at their indices.

    Args:
        read_BK: True for the patches that are read.
        vit, tokens_BND, keep, gates: as for ``encode_read``.

    Returns:
        (B, N, D), zeros for registers and for patches that are not read.
    """
    read = _with_class(vit, read_BK)
    normed = cast(Tensor, vit.norm(encode_read(vit, tokens_BND, read, keep, gates)))
    return _placed(normed, read)


def normed_crops(vit: Transformer, kinds: Sequence[Crops]) -> list[Tensor]:
    """The same of crops of several sizes, which go through plain blocks as one set of tokens.

    Args:
        vit: where its blocks are of another kind, each size goes through by itself.
        kinds: the crops of each size. All have draws of drop path, of one kind, or none has.

    Returns:
        Of each size (B, N, D) as ``normed_read`` gives it, or class tokens (B, D) where only
        they are read.
    """
    reads = [None if crops.read is None else _with_class(vit, crops.read) for crops in kinds]
    if len(kinds) > 1 and can_pack(vit):
        read = _encode_packed(vit, kinds, reads)
    else:
        read = [
            encode_read(vit, crops.tokens, read_BN, crops.keep, crops.gates)
            for crops, read_BN in zip(kinds, reads, strict=True)
        ]
    # One call for all sizes: the norm treats tokens separately, and its weights get one gradient.
    normed = vit.norm(torch.cat(read)).split([len(part) for part in read])
    return [
        part if read_BN is None else _placed(part, read_BN)
        for part, read_BN in zip(normed, reads, strict=True)
    ]


def block_read(block: Any, tokens_BND: Tensor, read_BN: Tensor) -> Tensor:
    """The M tokens of one block that are read: (M, D)."""
    if not is_plain(block):
        return cast(Tensor, block(tokens_BND)[read_BN])
    return _last_read(block, tokens_BND, read_BN, None)


def _encode_packed(
    vit: Transformer, kinds: Sequence[Crops], reads: Sequence[Tensor | None]
) -> list[Tensor]:
    tokens = torch.cat([crops.tokens.flatten(0, 1) for crops in kinds])
    packed = PackedCrops(tuple((len(crops.tokens), crops.tokens.shape[1]) for crops in kinds))
    gates, leave_out = _gates(vit, kinds), True
    # As in ``encode``: elsewhere the device would wait for the host to learn which are dropped.
    if kinds[0].keep is not None:
        leave_out = tokens.device.type == "cpu"
    tokens = vit.norm_pre(tokens)
    for index, block in enumerate(vit.blocks[:-1]):
        own = None if gates is None else gates[:, 2 * index : 2 * index + 2]
        tokens = through_block(block, tokens, packed, own, leave_out)
    last = None if gates is None else gates[:, -2:]
    return read_last(vit.blocks[-1], tokens, packed, reads, last)


def _gates(vit: Transformer, kinds: Sequence[Crops]) -> Tensor | None:
    """Drop-path factors of the branches of all crops: (R, 2 * depth); None: 1."""
    keeps = [crops.keep for crops in kinds if crops.keep is not None]
    gates = [crops.gates for crops in kinds if crops.gates is not None]
    if not keeps and not gates:
        return None
    return drop_path.gates(vit, torch.cat(keeps)) if keeps else torch.cat(gates)


def _last_read(
    block: Any, tokens_BND: Tensor, read_BN: Tensor | None, gates_B2: Tensor | None
) -> Tensor:
    packed = PackedCrops(((len(tokens_BND), tokens_BND.shape[1]),))
    (read,) = read_last(block, tokens_BND.flatten(0, 1), packed, [read_BN], gates_B2)
    return read


def _with_class(vit: Transformer, read_BK: Tensor) -> Tensor:
    """True for the class token and the patches that are read: (B, N)."""
    prefix = read_BK.new_zeros(len(read_BK), vit.num_prefix_tokens)
    prefix[:, 0] = True
    return torch.cat([prefix, read_BK], dim=1)


def _placed(read_MD: Tensor, read_BN: Tensor) -> Tensor:
    """Tokens at their indices (B, N, D), zeros elsewhere."""
    tokens_BND = read_MD.new_zeros(*read_BN.shape, read_MD.shape[1])
    tokens_BND[read_BN] = read_MD
    return tokens_BND
