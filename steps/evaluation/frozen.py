"""The backbone under evaluation, with the images that it expects."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from timm.models.beit import Beit
from torch import Tensor

from steps.command import UserError
from steps.data.views import normalise
from steps.models.backbones import (
    BackboneModel,
    Transformer,
    has_class_token,
    image_size,
    is_resnet,
    load_backbone,
    normalisation,
)


@dataclass(frozen=True)
class FrozenBackbone:
    """A network in eval mode that nothing trains, with the normalisation and size of its images."""

    model: BackboneModel
    mean: Sequence[float]
    std: Sequence[float]
    size: int
    """Side of an image in pixels."""
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Precision of the forward pass."""

    @classmethod
    def load(cls, artifact: Path) -> FrozenBackbone:
        """The backbone of an artifact, on the CPU.

        Raises:
            UserError: the folder holds no backbone artifact.
        """
        model = load_backbone(artifact)
        return cls(model, *normalisation(artifact), image_size(model))

    @classmethod
    def load_transformer(
        cls,
        artifact: Path,
        size: int | None,
        where: str,
        *,
        task: str,
        reads: str,
        class_token: bool = False,
    ) -> FrozenBackbone:
        """The vision transformer of an artifact, for images of a size (None: its own).

        Raises:
            UserError: a ResNet, which lacks what ``task`` ``reads``, or a transformer without the
                class token that it reads; or a size that does not divide into patches, which
                ``where`` names.
        """
        backbone = cls.load(artifact)
        if is_resnet(backbone.model):
            raise UserError(
                str(artifact),
                f"a ResNet, which has no {reads}",
                allowed="a vision transformer",
                remedy=f"leave the task {task} out",
            )
        if class_token and not has_class_token(backbone.model):
            raise UserError(
                str(artifact),
                f"a transformer without a {reads}",
                allowed="a vision transformer with a class token",
                remedy=f"leave the task {task} out",
            )
        size = size or backbone.size
        vit = sized(backbone.transformer, artifact, size, where)
        return dataclasses.replace(backbone, model=vit, size=size)

    def to(self, device: str | torch.device) -> FrozenBackbone:
        """The same on a device."""
        return dataclasses.replace(self, model=self.model.to(device))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def transformer(self) -> Transformer:
        """The network of a task that has no ResNet."""
        assert not is_resnet(self.model)
        return self.model

    def inputs(self, images: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) as the network takes them: float32, on its device."""
        return normalise(images.to(self.device), self.mean, self.std)


def sized(vit: Transformer, artifact: Path, size: int, where: str) -> Transformer:
    """A transformer for images of another size than it was trained at.

    A position table is resized to each image. A BEiT is loaded again, since its relative positions
    are tied to a grid.

    Raises:
        UserError: the size does not divide into patches; ``where`` names it.
    """
    patch = vit.patch_embed.patch_size[0]
    if size % patch:
        raise UserError(
            where,
            f"{size} px does not divide into the {patch} px patches of {artifact}",
            allowed=f"a multiple of {patch}",
        )
    if isinstance(vit, Beit) and size != image_size(vit):
        return cast(Beit, load_backbone(artifact, img_size=size))
    return vit
