"""Crops of several sizes through a backbone and the heads of the DINO family."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from steps.command import UserError
from steps.models import dinov2_vit, row_drop
from steps.models.backbones import Transformer
from steps.models.heads import PrototypeHead, head_of
from steps.models.last_block import Crops, encode_read, normed_crops, normed_read
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


# --- A backbone with a head over prototypes: student or teacher of the DINO family


H = TypeVar("H", bound=PrototypeHead)


class Projected(nn.Module, Generic[H]):
    """Views to features by ``backbone``; features to logits over prototypes by ``head``."""

    def __init__(self, backbone: Transformer, head: H) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def classes(self, views: Sequence[Tensor], keep: Tensor | None = None) -> Tensor:
        """Normed class tokens of views of any sizes: (B, V, D).

        Args:
            views: V tensors (B, 3, H, W).
            keep: drop-path draws (B, V, 2 * depth), or None to keep every branch.
        """
        counts, kinds = self._by_size(views, keep)
        read = normed_crops(self.backbone, kinds)
        return torch.cat(
            [by_sample(classes, count) for classes, count in zip(read, counts, strict=True)], dim=1
        )

    def multicrop(
        self,
        views: Sequence[Tensor],
        keep: Tensor | None,
        mask_BGN: Tensor,
        mask_token: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Normed class tokens of all views (B, V, D), and masked patches of the global ones.

        Args:
            views: V tensors (B, 3, H, W), G global ones of one size before the others.
            keep: drop-path draws (B, V, 2 * depth), or None to keep every branch.
            mask_BGN: True where ``mask_token`` stands for a patch of a global view.
            mask_token: broadcast to (B, N, D).

        Returns:
            Patches (B, G, N, D), zeros where they are not masked.
        """
        first, vit, mask = mask_BGN.shape[1], self.backbone, by_view(mask_BGN)
        counts, kinds = self._by_size(views[first:], None if keep is None else keep[:, first:])
        masked = Crops(
            embed(vit, torch.cat(list(views[:first])), mask, mask_token),
            read=mask,
            keep=None if keep is None else by_view(keep[:, :first]),
        )
        tokens, *local = normed_crops(vit, [masked, *kinds])
        read = [tokens[:, 0], *local]
        classes = [by_sample(each, n) for each, n in zip(read, [first, *counts], strict=True)]
        patches = by_sample(tokens[:, vit.num_prefix_tokens :], first)
        return torch.cat(classes, dim=1), patches

    def _by_size(
        self, views: Sequence[Tensor], keep: Tensor | None
    ) -> tuple[list[int], list[Crops]]:
        """Neighbouring views of equal size as one: how many they are, and they themselves."""
        counts: list[int] = []
        kinds: list[Crops] = []
        for _, group in groupby(views, key=lambda view: view.shape[-2:]):
            same, first = list(group), sum(counts)
            own = None if keep is None else by_view(keep[:, first : first + len(same)])
            counts.append(len(same))
            kinds.append(Crops(embed(self.backbone, torch.cat(same)), keep=own))
        return counts, kinds

    def tokens(
        self,
        views: Sequence[Tensor],
        mask_BVN: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Normed class tokens (B, V, D) and patch tokens (B, V, N, D) of views of one size.

        Args:
            views: V tensors (B, 3, H, W).
            mask_BVN: True where ``mask_token`` stands for a patch.
            mask_token: broadcast to (B, N, D).
        """
        mask = None if mask_BVN is None else by_view(mask_BVN)
        embedded = embed(self.backbone, torch.cat(list(views)), mask, mask_token)
        encoded = self.backbone.norm(encode(self.backbone, embedded))
        tokens = by_sample(cast(Tensor, encoded), len(views))
        return tokens[:, :, 0], tokens[:, :, self.backbone.num_prefix_tokens :]

    def head_weights(self) -> dict[str, Tensor]:
        """The head's weights by name, as ``head.mlp.0.weight``."""
        return {f"head.{name}": weight for name, weight in self.head.state_dict().items()}


# --- A transformer with heads over prototypes for its class token and its patches


class Headed(nn.Module):
    """Backbone and heads, of student or teacher. Without ``ibot_head`` patches share the other."""

    def __init__(
        self,
        backbone: Transformer,
        dino_head: PrototypeHead,
        ibot_head: PrototypeHead | None,
        resizing: Resizing,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dino_head = dino_head
        self.ibot_head = ibot_head
        self.resizing = resizing

    def tokens(self, images: Tensor, read_RN: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normed class tokens (R, D) and patch tokens (R, N, D) of R crops of one size.

        Args:
            images: (R, 3, H, W).
            read_RN: True for patches that are read, the others come as zeros; None: all.
        """
        if read_RN is None:
            tokens = self.all_tokens(images)
        else:
            tokens = normed_read(self.backbone, self._embedded(images, None), read_RN)
        return tokens[:, 0], tokens[:, self.backbone.num_prefix_tokens :]

    def multicrop(
        self,
        images: Tensor,
        local: Tensor | None,
        mask_RN: Tensor | None = None,
        gates: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Normed tokens of R global crops and of local ones: what ``encode`` of a method reads.

        Args:
            images: (R, 3, H, W).
            local: (L, 3, h, w), where there are any.
            mask_RN: True where the mask token stands for a patch.
            gates: drop path of both, (R, 2 * depth) and (L, 2 * depth), see ``row_drop``.

        Returns:
            Class tokens (R, D) and patches (R, N, D) of the global crops, zeros where they are not
            masked unless there is no mask; class tokens (L, D) of the local ones.
        """
        embedded = self._embedded(images, mask_RN)
        patches = embedded.shape[1] - self.backbone.num_prefix_tokens
        read = mask_RN
        if read is None:
            read = torch.ones(len(images), patches, dtype=torch.bool, device=images.device)
        kinds = [Crops(embedded, read, gates=gates[0])]
        if local is not None:
            kinds.append(Crops(self._embedded(local, None), gates=gates[1]))
        tokens, *classes = normed_crops(self.backbone, kinds)
        return tokens[:, 0], tokens[:, -patches:], classes[0] if classes else None

    def all_tokens(
        self, images: Tensor, mask_RN: Tensor | None = None, gates: Tensor | None = None
    ) -> Tensor:
        """Class tokens, registers and patches (R, 1 + registers + N, D) of R crops of one size.

        Args:
            images: (R, 3, H, W).
            mask_RN: True where the mask token stands for a patch.
            gates: drop path (R, 2 * depth), see ``row_drop``.
        """
        vit, tokens = self.backbone, self._embedded(images, mask_RN)
        tokens = encode(vit, tokens) if gates is None else row_drop.encode(vit, tokens, gates)
        return cast(Tensor, vit.norm(tokens))

    def classes(self, images: Tensor) -> Tensor:
        """Normed class tokens alone: (R, D)."""
        classes = encode_read(self.backbone, self._embedded(images, None))
        return cast(Tensor, self.backbone.norm(classes))

    def _embedded(self, images: Tensor, mask_RN: Tensor | None) -> Tensor:
        token = None if mask_RN is None else dinov2_vit.mask_token(self.backbone)
        return embed(self.backbone, images, mask_RN, token, self.resizing)

    def patch_head(self, patches_MD: Tensor) -> Tensor:
        """Logits of patch tokens: (M, K)."""
        return cast(Tensor, (self.ibot_head or self.dino_head)(patches_MD))

    def head_weights(self) -> dict[str, Tensor]:
        """The heads' weights by name: what ``trained`` makes heads of."""
        weights = self.state_dict()
        return {name: weights[name] for name in weights if not name.startswith("backbone.")}


def trained(teacher: Teacher, like: Headed) -> Headed:
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
