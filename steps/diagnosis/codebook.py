"""A tokenizer's pictures: which codes are used, what they stand for, and what decoding gives."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from steps.diagnosis.sheet import Denormaliser, Drawing, png, sheet
from steps.models.masked_autoencoder import images_of, patch_pixels
from steps.models.teacher import PIXELS
from steps.tokenizers import Tokenizer
from steps.tokenizers.codebook import perplexity

SHOWN = 8
"""Images on the sheet of reconstructions."""
CODES, EXAMPLES = 16, 12
"""Codes on the sheet of patches, the most used ones, and patches of each."""
_LEAST = 48
"""Pixels a side of a patch on the sheet, at least."""


@torch.inference_mode()
def draw(
    tokenizer: Tokenizer, batches: Iterable[Tensor], look: Denormaliser | None = None
) -> Drawing:
    """Use of each code, patches of the most used ones, and images with their reconstructions.

    Args:
        tokenizer: in eval mode.
        batches: held-out images (B, C, H, W) in 0 to 1.
        look: manner of showing them; None: as photographs.
    """
    look = look or Denormaliser(*PIXELS)
    size = tokenizer.token_pixels
    rows: list[tuple[Tensor, ...]] = []
    patches, codes = [], []
    errors = []
    for images in batches:
        tokens = tokenizer.tokens(images)
        codes.append(tokens.flatten())
        seen = look.shown(images, images)
        patches.append(patch_pixels(seen, size).flatten(0, 1))
        if tokenizer.decodes:
            decoded = tokenizer.decode(tokens)
            errors.append((decoded - images).square().mean(dim=(1, 2, 3)))
            rows += list(zip(seen, look.shown(decoded, images), strict=True))[: SHOWN - len(rows)]
    taken = torch.cat(codes)
    counts = taken.bincount(minlength=tokenizer.vocab_size)
    pictures = {
        "codebook.png": usage(counts),
        "codes.png": png(sheet(examples(torch.cat(patches), taken, counts, size), least=_LEAST)),
    }
    facts: dict[str, float | str] = {
        "codes_used": (counts > 0).float().mean().item(),
        "perplexity": perplexity(counts).item(),
        **look.facts,
    }
    if tokenizer.decodes:
        pictures["reconstructions.png"] = png(sheet(rows))
        facts["reconstruction_mse"] = torch.cat(errors).mean().item()
    return Drawing(pictures, facts)


def examples(
    patches_MP: Tensor, codes_M: Tensor, counts_K: Tensor, size: int
) -> list[tuple[Tensor, ...]]:
    """A row a code, the most used first: patches that have it, evenly spaced among all of them.

    Args:
        patches_MP: the pixels of every patch.
        codes_M: their codes.
        counts_K: how often each code is taken.
        size: of a patch.
    """
    blank = torch.ones(3, size, size)
    rows = []
    for code in counts_K.argsort(descending=True, stable=True)[:CODES]:
        indices = (codes_M == code).nonzero().squeeze(1)
        if len(indices):
            chosen = torch.linspace(0, len(indices) - 1, min(EXAMPLES, len(indices))).round().long()
            shown = [
                images_of(patches_MP[index].view(1, 1, -1), size)[0] for index in indices[chosen]
            ]
            rows.append((*shown, *[blank] * (EXAMPLES - len(shown))))
    return rows


def usage(counts_K: Tensor) -> bytes:
    """Frequency of each code, the most used first, on a logarithmic axis. PNG."""
    shares = counts_K.sort(descending=True).values.double() / counts_K.sum()
    used = int((counts_K > 0).sum())
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.bar(range(1, used + 1), shares[:used].numpy(), width=1.0, color="#3b6ea5")
    axes.axhline(1 / len(counts_K), color="#888888", linewidth=1.0, linestyle="--")
    axes.set_yscale("log")
    axes.set_xlim(0, len(counts_K) + 1)
    axes.set_xlabel("code, by use")
    axes.set_ylabel("share of all patches")
    axes.set_title(
        f"{used} of {len(counts_K)} codes are used, perplexity {float(perplexity(counts_K)):.1f}; "
        "dashed: evenly used",
        fontsize=9,
        loc="left",
    )
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
