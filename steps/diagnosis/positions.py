"""Errors of the positions that DropPos and MP3 predict on images they have not seen."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from steps.diagnosis.sheet import Batches, Denormaliser, Drawing, png, sheet
from steps.methods.droppos import DropPos
from steps.methods.method import Draws
from steps.methods.mp3 import MP3
from steps.models.masked_autoencoder import images_of, patch_pixels

SHOWN = 8
"""Images on the sheet."""
_UNASKED = 0.35
"""Brightness of a patch whose position is not predicted."""


@dataclass(frozen=True)
class Placement:
    """Predicted positions of the patches whose position a method has to tell."""

    asked: Tensor
    """(B, N) bool, in raster order of true positions."""
    guess: Tensor
    """(B, N) int64, index of the most likely position; -1 where not asked."""

    @property
    def distance(self) -> Tensor:
        """(B, N) float, in patches, from the truth; 0 where not asked."""
        grid = round(self.guess.shape[1] ** 0.5)
        true = torch.arange(self.guess.shape[1])
        down, right = true // grid - self.guess // grid, true % grid - self.guess % grid
        distance: Tensor = (down.square() + right.square()).float().sqrt() * self.asked
        return distance


@torch.inference_mode()
def draw(method: DropPos | MP3, batches: Batches, look: Denormaliser) -> Drawing:
    """Maps of the mean error by position, and some images with the errors of each."""
    placements: list[Placement] = []
    rows: list[tuple[Tensor, ...]] = []
    for images, draws in batches:
        placement = place(method, images, draws)
        placements.append(placement)
        size = images.shape[-1] // round(method.patches**0.5)
        pixels = look.pixels(images)
        shown = look.shown(pixels, pixels)
        columns = (shown, errors_over(shown, placement, size))
        rows += list(zip(*columns, strict=True))[: SHOWN - len(rows)]
    whole = Placement(
        torch.cat([placement.asked for placement in placements]),
        torch.cat([placement.guess for placement in placements]),
    )
    asked = whole.asked.sum()
    return Drawing(
        {"position_error.png": maps(whole), "positions.png": png(sheet(rows))},
        {
            "position_error": (whole.distance.sum() / asked).item(),
            "position_error_by_chance": chance(whole.guess.shape[1]),
            "position_accuracy": (exact(whole).sum() / asked).item(),
            "position_accuracy_by_chance": 1 / whole.guess.shape[1],
            **look.facts,
        },
    )


def place(method: DropPos | MP3, images: Tensor, draws: Draws) -> Placement:
    """Ask for positions: DropPos for those that were dropped, MP3 for all.

    Args:
        images: (B, 3, H, W), normalised.
        draws: of ``method.sample``.
    """
    if isinstance(method, DropPos):
        masks = method.maskings(draws)
        true, dropped = masks.patches.keep, masks.positions.removed
        guess = method.decoder(method.encode_visible(images, masks))[:, 1:].argmax(dim=2)
        nowhere = torch.full((len(images), method.patches), -1)
        everywhere = nowhere.scatter(1, true, torch.where(dropped, guess, -1))
        return Placement(everywhere >= 0, everywhere)
    guess = method.logits(method.features(images, draws["context"])).argmax(dim=2)
    return Placement(torch.ones_like(guess, dtype=torch.bool), guess)


def exact(placement: Placement) -> Tensor:
    """(B, N) bool: asked for, and right."""
    return placement.asked & (placement.distance == 0)


def chance(patches: int) -> float:
    """The mean distance, in patches, of a position from one guessed at random."""
    side = torch.arange(round(patches**0.5))
    positions = torch.cartesian_prod(side, side).float()
    return torch.cdist(positions, positions).mean().item()


def errors_over(pixels: Tensor, placement: Placement, size: int) -> Tensor:
    """Images tinted from green (exact) to red (a side of the image away), dark where not asked.

    Args:
        pixels: (B, 3, H, W) in 0 to 1.
        placement: of the same images.
        size: of a patch.
    """
    patches = patch_pixels(pixels, size)
    far = (placement.distance / (patches.shape[1] ** 0.5)).clamp(max=1).unsqueeze(2)
    tint = torch.cat([far, 1 - far, torch.zeros_like(far)], dim=2)
    tinted = patches / 2 + tint.repeat(1, 1, size * size) / 2
    dim = patches * _UNASKED
    return images_of(torch.where(placement.asked.unsqueeze(2), tinted, dim), size)


def maps(placement: Placement) -> bytes:
    """Two maps over the image's patches: mean distance, and share of exact answers. PNG."""
    patches = placement.asked.shape[1]
    grid, count = round(patches**0.5), placement.asked.sum(dim=0).clamp(min=1)
    by_chance = chance(patches)
    panels = (
        (placement.distance.sum(dim=0) / count, f"mean error, patches (chance {by_chance:.1f})"),
        (exact(placement).sum(dim=0) / count, f"exact answers, share (chance {1 / patches:.3f})"),
    )
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (values, title) in zip(figure.subplots(1, 2), panels, strict=True):
        image = axes.imshow(values.view(grid, grid).numpy(), cmap="viridis", vmin=0)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xticks([])
        axes.set_yticks([])
        figure.colorbar(image, ax=axes, shrink=0.9)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
