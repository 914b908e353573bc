"""Quality of a tokenizer on images that it was not trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from steps.data.loader import EvaluationViews, evaluation_batches
from steps.data.views import normalise
from steps.methods.method import Batch
from steps.models.teacher import pixels_of
from steps.models.tokenizer import Tokenizer
from steps.tokenizers.codebook import perplexity

log = logging.getLogger(__name__)

COLLAPSED = 0.05
"""A codebook is taken for collapsed below this perplexity, as a share of its codes."""
_BATCH = 64

Judge = Callable[[Batch], dict[str, Tensor]]


@torch.no_grad()
def measure(
    tokenizer: Tokenizer, views: EvaluationViews, judge: Judge | None = None
) -> dict[str, float | bool]:
    """The use of the codebook and, where tokens turn back into pixels, what they lose.

    Args:
        tokenizer: in eval mode, on the device to use.
        views: images of the tokenizer's size.
        judge: further figures (B,) of a batch.

    Returns:
        ``codes_used``, the share of codes that any token has; ``perplexity`` of their use, and
        whether the codebook is ``collapsed``; ``reconstruction_mse`` beside ``mean_image_mse``,
        what the mean of these images would lose, both of pixels in 0 to 1; means of what ``judge``
        gives.
    """
    device = next(tokenizer.parameters()).device
    counts = torch.zeros(tokenizer.vocab_size, dtype=torch.float64, device=device)
    sums: dict[str, Tensor] = {}
    pixel_sum, square_sum = torch.zeros((), device=device), torch.zeros((), device=device)
    for images, labels in evaluation_batches(views, _BATCH):
        pixels = normalise(images.to(device), *pixels_of(images.shape[1]))
        tokens = tokenizer.tokens(pixels)
        counts += torch.bincount(tokens.flatten(), minlength=tokenizer.vocab_size)
        figures = {} if judge is None else judge(Batch([pixels], labels.to(device)))
        if tokenizer.decodes:
            error = tokenizer.decode(tokens) - pixels
            figures["reconstruction_mse"] = error.square().flatten(1).mean(dim=1)
            pixel_sum = pixel_sum + pixels.double().sum(dim=0)
            square_sum = square_sum + pixels.double().square().sum(dim=0)
        for name, values in figures.items():
            sums[name] = sums.get(name, 0.0) + values.double().sum()
    number = len(views)
    found: dict[str, float | bool] = {name: float(total) / number for name, total in sums.items()}
    if tokenizer.decodes:
        variance = square_sum / number - (pixel_sum / number).square()
        found["mean_image_mse"] = float(variance.mean())
    found["codes_used"] = float((counts > 0).double().mean())
    found["perplexity"] = float(perplexity(counts))
    found["collapsed"] = found["perplexity"] < COLLAPSED * tokenizer.vocab_size
    return found


def warn_if_collapsed(found: dict[str, float | bool], vocab_size: int, title: str) -> None:
    """Warn of a collapsed codebook, as of other kinds of collapse (``steps.engine.watch``)."""
    if found["collapsed"]:
        log.warning(
            "collapse: %s: %.1f %% of %d codes are used, at a perplexity of %.1f, below %g: a "
            "method that predicts these tokens has little to learn; remedy: %s",
            title,
            100 * found["codes_used"],
            vocab_size,
            found["perplexity"],
            COLLAPSED * vocab_size,
            "fewer codes, a lower learning rate, for dalle a higher kl_weight or a slower fall of "
            "the temperature",
        )
