"""A frozen transformer for images of another size than it was trained at."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from timm.models.beit import Beit

from steps.command import UserError
from steps.models.backbones import Transformer, image_size, load_backbone


def sized(vit: Transformer, artifact: Path, size: int, where: str) -> Transformer:
    """The backbone for images of a size.

    A transformer with a position table resizes it to the image; a BEiT, whose relative positions
    are tied to a grid, is read anew.

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
