"""MAE's pictures: what the encoder saw, and what the decoder made of it."""

from __future__ import annotations

import torch
from torch import Tensor

from steps.diagnosis.sheet import Batches, Denormaliser, Drawing, png, sheet
from steps.methods.mae import MAE
from steps.methods.method import Draws
from steps.models.masked_autoencoder import images_of, patch_pixels, patch_statistics

SHOWN = 8
"""Images on the sheet."""
_HIDDEN = 0.5
"""Grey in place of a removed patch."""


@torch.inference_mode()
def draw(method: MAE, batches: Batches, look: Denormaliser) -> Drawing:
    """One row per image: the image, what the encoder saw, the reconstruction.

    The numbers are the mean squared error of removed pixels, in units of 0 to 1, and what it would
    be with each patch's true mean colour in its place.
    """
    rows: list[tuple[Tensor, ...]] = []
    errors, flat_errors = [], []
    for images, draws in batches:
        rebuilt, removed = reconstruct(method, images, draws)
        true, ours = (
            patch_pixels(look.pixels(pixels), method.patch_size) for pixels in (images, rebuilt)
        )
        channels = images.shape[1]
        by_channel = true.unflatten(2, (-1, channels)).transpose(2, 3)
        mean, _ = patch_statistics(by_channel.flatten(1, 2))
        flat = mean.unflatten(1, (-1, channels)).squeeze(3).repeat(1, 1, method.patch_size**2)
        errors.append((ours - true).square()[removed].mean())
        flat_errors.append((flat - true).square()[removed].mean())
        size, whole = method.patch_size, look.pixels(images)
        shown, made = (look.shown(images_of(each, size), whole) for each in (true, ours))
        seen = patch_pixels(shown, size).masked_fill(removed.unsqueeze(2), _HIDDEN)
        columns = (shown, images_of(seen, size), made)
        rows += list(zip(*columns, strict=True))[: SHOWN - len(rows)]
    return Drawing(
        {"reconstructions.png": png(sheet(rows))},
        {
            "pixel_error": torch.stack(errors).mean().item(),
            "pixel_error_of_mean_colours": torch.stack(flat_errors).mean().item(),
            **look.facts,
        },
    )


def reconstruct(method: MAE, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """The images with their removed patches predicted.

    A prediction of normalised pixels is given the mean and deviation of the true patch, which the
    network was never asked for (as in the demonstration of the reference).

    Args:
        images: (B, 3, H, W), normalised.
        draws: of ``method.sample``.

    Returns:
        (B, 3, H, W) images, and (B, N) True where a patch was removed.
    """
    latent, masking = method.encode(images, draws["noise"])
    predicted = method.decoder(latent, masking.restore)
    pixels = patch_pixels(images, method.patch_size)
    if method.params.norm_pix_loss:
        mean, deviation = patch_statistics(pixels)
        predicted = predicted * deviation + mean
    merged = torch.where(masking.removed.unsqueeze(2), predicted, pixels)
    return images_of(merged, method.patch_size), masking.removed
