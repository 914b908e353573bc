"""A backbone with a head over prototypes: student or teacher of the DINO family."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from steps.models.backbones import Transformer
from steps.models.crops import by_sample, by_view
from steps.models.features import global_feature
from steps.models.prototypes import PrototypeHead
from steps.models.reading import normed_read
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

        Neighbouring views of equal size go through the backbone together.

        Args:
            views: V tensors (B, 3, H, W).
            keep: drop-path draws (B, V, 2 * depth), or None to keep every branch.
        """
        outputs, first = [], 0
        for _, group in groupby(views, key=lambda view: view.shape[-2:]):
            same = list(group)
            last = first + len(same)
            rows = None if keep is None else by_view(keep[:, first:last])
            outputs.append(
                by_sample(global_feature(self.backbone, torch.cat(same), rows), len(same))
            )
            first = last
        return torch.cat(outputs, dim=1)

    def tokens(
        self,
        views: Sequence[Tensor],
        keep: Tensor | None = None,
        mask_BVN: Tensor | None = None,
        mask_token: Tensor | None = None,
        read_BVN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Normed class tokens (B, V, D) and patch tokens (B, V, N, D) of views of one size.

        Args:
            views: V tensors (B, 3, H, W).
            keep: drop-path draws (B, V, 2 * depth), or None to keep every branch.
            mask_BVN: True where ``mask_token`` stands for a patch.
            mask_token: broadcast to (B, N, D).
            read_BVN: True for patches that are read, the others come as zeros; None: all.
        """
        mask = None if mask_BVN is None else by_view(mask_BVN)
        rows = None if keep is None else by_view(keep)
        embedded = embed(self.backbone, torch.cat(list(views)), mask, mask_token)
        if read_BVN is None:
            tokens = self.backbone.norm(encode(self.backbone, embedded, rows))
        else:
            tokens = normed_read(self.backbone, embedded, by_view(read_BVN), rows)
        tokens = by_sample(cast(Tensor, tokens), len(views))
        return tokens[:, :, 0], tokens[:, :, self.backbone.num_prefix_tokens :]

    def head_weights(self) -> dict[str, Tensor]:
        """The head's weights by name, as ``head.mlp.0.weight``."""
        return {f"head.{name}": weight for name, weight in self.head.state_dict().items()}
