"""Crops of several sizes through a backbone and the heads of the DINO family."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from steps.command import UserError
from steps.models.backbones import Transformer
from steps.models.heads import PrototypeHead, head_of
from steps.models.last_block import Crops, normed_crops, normed_read
from steps.models.positions import Resizing
from steps.models.teacher import Teacher
from steps.models.tokens import embed, encode

# --- Crops of a batch of images: sample by sample, as draws have them, and view by view, as rows


def by_view(tensor: Tensor) -> Tensor:
    """(B, V, …) to (V * B, …), view by view."""
    return tensor.transpose(0, 1).flatten(0, 1)


def by_sample(rows: Tensor, views: int) -> Tensor:
    """(V * B, …), view by view, to (B, V, …)."""
    samples: Tensor = rows.unflatten(0, (views, -1)).transpose(0, 1)
    return samples


def global_side(sides: Sequence[int], crops: int) -> int:
    """The side of global crops in pixels.

    Args:
        sides: of each view of an image, the global ones first.
        crops: global ones among them.

    Raises:
        UserError: crops of one kind differ in size.
    """
    for kind, own in (("global", sides[:crops]), ("local", sides[crops:])):
        if len(set(own)) > 1:
            raise UserError(
                "recipe: training.views",
                f"{kind} crops of {' and '.join(map(str, own))} px",
                allowed=f"one size for all {kind} crops",
            )
    return sides[0]


# --- Student or teacher: a backbone and its heads over prototypes


class CropNetwork(nn.Module):
    """A backbone that crops of several sizes go through. Its heads are a subclass's attributes."""

    def __init__(self, backbone: Transformer, resizing: Resizing | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.resizing = resizing
        """Resizing of the position table to smaller crops; None: the backbone's own."""

    def embed(
        self, images: Tensor, mask_RN: Tensor | None = None, mask_token: Tensor | None = None
    ) -> Tensor:
        """Tokens ahead of the first block, with positions: (R, 3, H, W) to (R, P + N, D)."""
        return embed(self.backbone, images, mask_RN, mask_token, self.resizing)

    def classes(self, views: Sequence[Tensor], keep: Tensor | None = None) -> Tensor:
        """Normed class tokens of views of any sizes: (B, V, D).

        Args:
            views: V tensors (B, 3, H, W).
            keep: drop-path draws (B, V, 2 * depth), or None to keep every branch.
        """
        counts, kinds = self._by_size(views, 0, keep, None)
        read = normed_crops(self.backbone, kinds)
        return torch.cat([by_sample(x, count) for x, count in zip(read, counts, strict=True)], 1)

    def tokens(
        self,
        views: Sequence[Tensor],
        mask_BVN: Tensor | None = None,
        mask_token: Tensor | None = None,
        *,
        read_BVN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Normed class tokens (B, V, D) and patch tokens (B, V, N, D) of views of one size.

        Args:
            views: V tensors (B, 3, H, W).
            mask_BVN: True where ``mask_token`` stands for a patch.
            mask_token: broadcast to (B, N, D).
            read_BVN: True for patches that are read, the others come as zeros; None: all.
        """
        vit, mask = self.backbone, None if mask_BVN is None else by_view(mask_BVN)
        embedded = self.embed(torch.cat(list(views)), mask, mask_token)
        # Reading some patches saves most of the last block.
        if read_BVN is None:
            rows = cast(Tensor, vit.norm(encode(vit, embedded)))
        else:
            rows = normed_read(vit, embedded, by_view(read_BVN))
        tokens = by_sample(rows, len(views))
        return tokens[:, :, 0], tokens[:, :, vit.num_prefix_tokens :]

    def multicrop(
        self,
        views: Sequence[Tensor],
        crops: int,
        mask_BGN: Tensor | None,
        mask_token: Tensor,
        *,
        keep: Tensor | None = None,
        gates: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Normed class tokens of all views (B, V, D), and masked patches of the global ones.

        Args:
            views: V tensors (B, 3, H, W), the global ones, of one size, before the others.
            crops: G, how many are global.
            mask_BGN: True where ``mask_token`` stands for a patch of a global view; None: nowhere,
                and all patches are read.
            mask_token: broadcast to (B, N, D).
            keep: draws of ``drop_path`` (B, V, 2 * depth), or None to keep every branch.
            gates: draws of ``row_drop`` (B, V, 2 * depth), in place of ``keep``.

        Returns:
            Patches (B, G, N, D), zeros where they are not read.
        """
        vit, mask = self.backbone, None if mask_BGN is None else by_view(mask_BGN)
        embedded = self.embed(torch.cat(list(views[:crops])), mask, mask_token)
        read = mask
        # Without masks the patch loss is over all patches, as in distillation.
        if read is None:
            read = torch.ones_like(embedded[:, vit.num_prefix_tokens :, 0], dtype=torch.bool)
        # Draws are one list over all views: those of the local ones begin behind the global.
        counts, kinds = self._by_size(views[crops:], crops, keep, gates)
        first = Crops(embedded, read, _rows(keep, 0, crops), _rows(gates, 0, crops))
        tokens, *local = normed_crops(vit, [first, *kinds])
        classes = zip([tokens[:, 0], *local], [crops, *counts], strict=True)
        patches = by_sample(tokens[:, vit.num_prefix_tokens :], crops)
        return torch.cat([by_sample(each, count) for each, count in classes], dim=1), patches

    def _by_size(
        self, views: Sequence[Tensor], start: int, keep: Tensor | None, gates: Tensor | None
    ) -> tuple[list[int], list[Crops]]:
        """Neighbouring views of equal size together: how many they are, and they themselves.

        ``start`` is the index of the first view in the draws.
        """
        counts: list[int] = []
        kinds: list[Crops] = []
        # Views of one size share a pass; only neighbours, so that their order stays.
        for _, group in groupby(views, key=lambda view: view.shape[-2:]):
            same = list(group)
            stop = start + len(same)
            drawn = {"keep": _rows(keep, start, stop), "gates": _rows(gates, start, stop)}
            kinds.append(Crops(self.embed(torch.cat(same)), **drawn))
            counts.append(len(same))
            start = stop
        return counts, kinds

    def head_weights(self) -> dict[str, Tensor]:
        """Weights of the heads by name, such as ``head.mlp.0.weight``."""
        weights = self.state_dict()
        return {name: weights[name] for name in weights if not name.startswith("backbone.")}


def _rows(draws_BV: Tensor | None, start: int, stop: int) -> Tensor | None:
    """Draws of some views as rows, view by view."""
    return None if draws_BV is None else by_view(draws_BV[:, start:stop])


H = TypeVar("H", bound=PrototypeHead)


class Projected(CropNetwork, Generic[H]):
    """One head for all tokens (DINO, iBOT)."""

    def __init__(self, backbone: Transformer, head: H) -> None:
        super().__init__(backbone)
        self.head = head


class Headed(CropNetwork):
    """A head of class tokens, and one of patches, which otherwise share the first (DINOv2)."""

    def __init__(
        self,
        backbone: Transformer,
        dino_head: PrototypeHead,
        ibot_head: PrototypeHead | None,
        resizing: Resizing | None,
    ) -> None:
        super().__init__(backbone, resizing)
        self.dino_head = dino_head
        self.ibot_head = ibot_head

    def patch_head(self, patches_MD: Tensor) -> Tensor:
        """Logits of patch tokens: (M, K)."""
        return cast(Tensor, (self.ibot_head or self.dino_head)(patches_MD))


def with_heads(teacher: Teacher, like: Headed) -> Headed:
    """A fixed teacher with the heads that it was trained with.

    Images must first go through ``teacher.renormalise``.

    Args:
        teacher: whose method left its heads beside the backbone.
        like: the student, whose patches and prototypes the teacher must have.

    Raises:
        UserError: it has no heads, other prototypes, or patches of another size.
    """
    if "dino_head.last_layer.weight_v" not in teacher.heads:
        raise UserError(
            "recipe: teacher",
            "a backbone without heads over prototypes",
            allowed="one that was pretrained by dinov2",
        )
    own = any(name.startswith("ibot_head.") for name in teacher.heads)
    network = Headed(
        teacher.backbone,
        head_of(teacher.heads, "dino_head"),
        head_of(teacher.heads, "ibot_head") if own else None,
        like.resizing,
    )
    for key, theirs, ours in (
        ("prototypes of class tokens", network.dino_head, like.dino_head),
        (
            "prototypes of patches",
            network.ibot_head or network.dino_head,
            like.ibot_head or like.dino_head,
        ),
    ):
        found, wanted = (len(head.last_layer.weight_v) for head in (theirs, ours))
        if found != wanted:
            raise UserError(
                "recipe: teacher",
                f"{found} {key}, and the student's head has {wanted}",
                remedy="give the recipe's head the teacher's out_dim",
            )
    patches = [network.backbone.patch_embed.patch_size for network in (network, like)]
    if patches[0] != patches[1]:
        raise UserError(
            "recipe: teacher",
            f"patches of {patches[0][0]} px, and the student's have {patches[1][0]} px",
            remedy="name a teacher and a student with the same patch_size",
        )
    return network
