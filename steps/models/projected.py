"""A backbone with a head over prototypes: student or teacher of the DINO family."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from steps.models.backbones import Transformer
from steps.models.crops import by_sample, by_view
from steps.models.prototypes import PrototypeHead
from steps.models.reading import Crops, normed_crops
from steps.models.tokens import embed, encode

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
