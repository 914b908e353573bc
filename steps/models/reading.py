"""Through a transformer to the tokens that something reads.

No other token goes through the last block: the others are attended to, so they have keys and values
there, but queries, projection and MLP are computed for those alone that a loss or a head reads.
Where that is the class token, keys and values are not computed either. The numbers are those of the
whole block, at a small part of its work where one token is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from steps.models import drop_path, packed, row_drop
from steps.models.backbones import Transformer
from steps.models.packed import Layout
from steps.models.tokens import encode


@dataclass(frozen=True)
class Crops:
    """Embedded crops of one size, and what is read of them.

    Args:
        tokens: class token, registers and K patches of each (B, N, D).
        read: True for the patches that are read beside the class token (B, K); None: that alone.
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
    plain = packed.is_plain(vit.blocks[-1]) and isinstance(vit, VisionTransformer)
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
    """Class tokens and some patches, through the final norm, in their places.

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
        Of each size (B, N, D) as ``normed_read`` gives it, or class tokens (B, D) where they alone
        are read.
    """
    reads = [None if crops.read is None else _with_class(vit, crops.read) for crops in kinds]
    if len(kinds) > 1 and packed.can_pack(vit):
        read = _encode_packed(vit, kinds, reads)
    else:
        read = [
            encode_read(vit, crops.tokens, read_BN, crops.keep, crops.gates)
            for crops, read_BN in zip(kinds, reads, strict=True)
        ]
    normed = vit.norm(torch.cat(read)).split([len(part) for part in read])
    return [
        part if read_BN is None else _placed(part, read_BN)
        for part, read_BN in zip(normed, reads, strict=True)
    ]


def block_read(block: Any, tokens_BND: Tensor, read_BN: Tensor) -> Tensor:
    """One block's tokens (M, D), the M that are read alone."""
    if not packed.is_plain(block):
        return cast(Tensor, block(tokens_BND)[read_BN])
    return _last_read(block, tokens_BND, read_BN, None)


def _encode_packed(
    vit: Transformer, kinds: Sequence[Crops], reads: Sequence[Tensor | None]
) -> list[Tensor]:
    tokens = torch.cat([crops.tokens.flatten(0, 1) for crops in kinds])
    layout = Layout(tuple((len(crops.tokens), crops.tokens.shape[1]) for crops in kinds))
    gates, leave_out = _gates(vit, kinds), True
    # As in ``encode``: elsewhere the device would wait for the host to learn which are dropped.
    if kinds[0].keep is not None:
        leave_out = tokens.device.type == "cpu"
    tokens = vit.norm_pre(tokens)
    for index, block in enumerate(vit.blocks[:-1]):
        own = None if gates is None else gates[:, 2 * index : 2 * index + 2]
        tokens = packed.through_block(block, tokens, layout, own, leave_out)
    last = None if gates is None else gates[:, -2:]
    return packed.read_last(vit.blocks[-1], tokens, layout, reads, last)


def _gates(vit: Transformer, kinds: Sequence[Crops]) -> Tensor | None:
    """What drop path multiplies the branches of all crops by: (R, 2 * depth); None: 1."""
    keeps = [crops.keep for crops in kinds if crops.keep is not None]
    gates = [crops.gates for crops in kinds if crops.gates is not None]
    if not keeps and not gates:
        return None
    return drop_path.gates(vit, torch.cat(keeps)) if keeps else torch.cat(gates)


def _last_read(
    block: Any, tokens_BND: Tensor, read_BN: Tensor | None, gates_B2: Tensor | None
) -> Tensor:
    layout = Layout(((len(tokens_BND), tokens_BND.shape[1]),))
    (read,) = packed.read_last(block, tokens_BND.flatten(0, 1), layout, [read_BN], gates_B2)
    return read


def _with_class(vit: Transformer, read_BK: Tensor) -> Tensor:
    """True for the class token and the patches that are read: (B, N)."""
    prefix = read_BK.new_zeros(len(read_BK), vit.num_prefix_tokens)
    prefix[:, 0] = True
    return torch.cat([prefix, read_BK], dim=1)


def _placed(read_MD: Tensor, read_BN: Tensor) -> Tensor:
    """Tokens in their places (B, N, D), among zeros."""
    places = read_MD.new_zeros(*read_BN.shape, read_MD.shape[1])
    places[read_BN] = read_MD
    return places
