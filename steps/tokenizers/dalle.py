"""The discrete VAE of DALL-E: zero-shot text-to-image generation (arXiv:2102.12092), section 2.1.

A convolutional encoder gives logits over V tokens for each 8 x 8 pixels, a decoder gives the
pixels back:

    q = softmax(enc(x))     y = softmax((enc(x) + g) / tau), g ~ Gumbel(0, 1)    (mu, ln b) = dec(y)
    loss = -mean over values of ln f(x | mu, b) + beta / 192 * mean over tokens of KL(q || uniform)
    f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)), x in [eps, 1 - eps]  (appendix A.3)

A token stands for 8 * 8 * 3 = 192 values, so that both terms are sums over the image divided by
its values. tau and beta follow cosines, and a moving average of the weights is kept (appendix
A.2). A token is the argmax of the logits, without noise.

Published: V = 8192, 3,000,000 updates at batch 512 on images of 256 px. Held to openai/DALL-E by
the golden case ``dalle_dvae`` (forward: its training code is not public).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.schedules import Progress, half_cosine
from steps.methods.method import Batch, Draws, Losses
from steps.models import ema
from steps.models.tokenizer import Tokenizer
from steps.params.tokenizers import DalleDecoder, DalleNetwork, DalleParams
from steps.tokenizers.codebook import CodeUse, use_of
from steps.tokenizers.training import TokenizerTraining

VALUES_PER_CHANNEL = 64
"""Values of a channel that a token stands for."""


class Conv(nn.Conv2d):
    """A convolution that keeps the size, its weights normal with deviation 1 / sqrt(fan in)."""

    def __init__(self, width_in: int, width: int, kernel: int) -> None:
        super().__init__(width_in, width, kernel, padding=(kernel - 1) // 2)
        nn.init.normal_(self.weight, std=1 / math.sqrt(width_in * kernel**2))
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Halve(nn.Module):
    """The largest of each 2 x 2: a reduction, whose gradient is deterministic on every device."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h / 2, w / 2)."""
        batch, width, rows, columns = features.shape
        squares = features.reshape(batch, width, rows // 2, 2, columns // 2, 2)
        return squares.amax(dim=(3, 5))


class Double(nn.Module):
    """Nearest-neighbour upsampling by 2."""

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, 2 h, 2 w)."""
        batch, width, rows, columns = features.shape
        doubled = features.reshape(batch, width, rows, 1, columns, 1).expand(-1, -1, -1, 2, -1, 2)
        return doubled.reshape(batch, width, 2 * rows, 2 * columns)


class Block(nn.Module):
    """skip(x) + gain * res(x), with a ReLU before each convolution of the residual path."""

    def __init__(self, width_in: int, width: int, kernels: tuple[int, ...], gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.id_path = Conv(width_in, width, 1) if width_in != width else nn.Identity()
        self.res_path = nn.Sequential()
        widths = pairwise([width_in, *[width // 4] * (len(kernels) - 1), width])
        for index, (kernel, (before, after)) in enumerate(zip(kernels, widths, strict=True), 1):
            self.res_path.add_module(f"relu_{index}", nn.ReLU())
            self.res_path.add_module(f"conv_{index}", Conv(before, after, kernel))

    def forward(self, features: Tensor) -> Tensor:
        """(B, width_in, h, w) to (B, width, h, w)."""
        residual: Tensor = self.res_path(features)
        skip: Tensor = self.id_path(features)
        return skip + self.gain * residual


def network(
    first: Conv,
    widths: list[int],
    params: DalleNetwork,
    kernels: tuple[int, ...],
    rescale: nn.Module,
    width_out: int,
) -> nn.Sequential:
    """A first convolution, four groups of blocks, all but the last ``rescale``d, and a 1 x 1."""
    gain = 1 / (len(widths) * params.blocks_per_group) ** 2
    blocks = nn.Sequential(OrderedDict(input=first))
    before = first.out_channels
    for index, width in enumerate(widths, 1):
        group = nn.Sequential()
        for number in range(1, params.blocks_per_group + 1):
            group.add_module(f"block_{number}", Block(before, width, kernels, gain))
            before = width
        if index < len(widths):
            group.add_module("rescale", rescale)
        blocks.add_module(f"group_{index}", group)
    output = OrderedDict(relu=nn.ReLU(), conv=Conv(before, width_out, 1))
    blocks.add_module("output", nn.Sequential(output))
    return blocks


class Encoder(nn.Module):
    """Mapped pixels (B, C, H, W) to token logits (B, V, H / 8, W / 8)."""

    def __init__(self, params: DalleNetwork, vocab_size: int, channels: int) -> None:
        super().__init__()
        widths = [params.hidden * factor for factor in (1, 2, 4, 8)]
        first = Conv(channels, params.hidden, 7)
        self.blocks = network(first, widths, params, (3, 3, 3, 1), Halve(), vocab_size)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.blocks(pixels)
        return logits


class Decoder(nn.Module):
    """Token weights (B, V, h, w) to mu and ln b of each value (B, 2 C, 8 h, 8 w)."""

    def __init__(self, params: DalleDecoder, vocab_size: int, channels: int) -> None:
        super().__init__()
        widths = [params.hidden * factor for factor in (8, 4, 2, 1)]
        first = Conv(vocab_size, params.input, 1)
        self.blocks = network(first, widths, params, (1, 3, 3, 3), Double(), 2 * channels)

    def forward(self, weights: Tensor) -> Tensor:
        stats: Tensor = self.blocks(weights)
        return stats


class DVAE(Tokenizer):
    """Encoder and decoder."""

    token_pixels = 8
    decodes = True

    def __init__(self, params: DalleParams, channels: int = 3) -> None:
        super().__init__()
        self.vocab_size = params.vocab_size
        self.channels = channels
        self.eps = params.logit_laplace_eps
        self.encoder = Encoder(params.encoder, params.vocab_size, channels)
        self.decoder = Decoder(params.decoder, params.vocab_size, channels)

    def map_pixels(self, pixels: Tensor) -> Tensor:
        """From [0, 1] to [eps, 1 - eps]."""
        return (1 - 2 * self.eps) * pixels + self.eps

    def unmap_pixels(self, mapped: Tensor) -> Tensor:
        """The way back, cut to [0, 1]."""
        return ((mapped - self.eps) / (1 - 2 * self.eps)).clamp(0, 1)

    def logits(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in 0 to 1 to (B, V, H / 8, W / 8)."""
        logits: Tensor = self.encoder(self.map_pixels(pixels))
        return logits

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.logits(pixels).argmax(dim=1).flatten(1)

    def decode(self, tokens_BN: Tensor, rows: int | None = None) -> Tensor:
        rows = rows or math.isqrt(tokens_BN.shape[1])
        one_hot = F.one_hot(tokens_BN.unflatten(1, (rows, -1)), self.vocab_size)
        location = self.decoder(one_hot.permute(0, 3, 1, 2).float())[:, : self.channels]
        return self.unmap_pixels(location.float().sigmoid())


class DVAETraining(TokenizerTraining):
    """Trains a discrete VAE by the relaxation of its tokens."""

    def __init__(self, params: DalleParams, channels: int = 3) -> None:
        super().__init__()
        if params.learning is None:
            raise ValueError("a discrete VAE is trained with the params under 'learning'")
        self.learning = params.learning
        self.dvae = DVAE(params, channels)
        self.values = VALUES_PER_CHANNEL * channels
        self.average = ema.teacher_of(self.dvae)
        self.use = CodeUse(params.vocab_size)

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """A seed for each sample's Gumbel noise, which is as large as its logits: (B,)."""
        return {"gumbel": torch.randint(2**62, (batch,), generator=generator)}

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        (pixels,) = batch.views
        rates = self.rates(progress)
        logits = self.dvae.logits(pixels).float()
        relaxed = ((logits + gumbel(draws["gumbel"], logits)) / rates["temperature"]).softmax(dim=1)
        stats = self.dvae.decoder(relaxed).float()
        nll = -log_likelihood(self.dvae.map_pixels(pixels), *stats.chunk(2, dim=1)).mean()
        log_q = logits.log_softmax(dim=1)
        kl = (log_q.exp() * log_q).sum(dim=1).mean() + math.log(self.dvae.vocab_size)
        self.use.accumulate(logits.argmax(dim=1))
        loss = nll + rates["kl_weight"] / self.values * kl
        return {"loss": loss, "nll": nll.detach(), "kl": kl.detach()}

    def rates(self, progress: Progress) -> dict[str, float]:
        """Temperature and beta of a step."""
        learning = self.learning
        curves = {"temperature": learning.temperature, "kl_weight": learning.kl_weight}
        return {
            name: half_cosine(progress, curve.start, curve.end, curve.epochs)
            for name, curve in curves.items()
        }

    def after_step(self, progress: Progress) -> Mapping[str, float | Tensor]:
        """Move the average of the weights; log the use of tokens."""
        ema.update(self.average, self.dvae, self.learning.momentum)
        return {**self.rates(progress), **use_of(self.use.take())}

    def trained(self) -> DVAE:
        """The average of the weights."""
        return self.average


def gumbel(seeds: Tensor, logits: Tensor) -> Tensor:
    """Standard Gumbel noise in the shape of ``logits``, each sample's from its own seed.

    It is drawn on the device: 8192 tokens at 32 x 32 positions are 8 million numbers a sample.
    """
    noise = torch.empty_like(logits)
    generator = torch.Generator(logits.device)
    for row, seed in zip(noise, seeds.tolist(), strict=True):
        row.exponential_(generator=generator.manual_seed(seed))
    return -noise.log()


def log_likelihood(values: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """ln f of the logit-Laplace distribution, elementwise (appendix A.3)."""
    distance = (values.logit() - location).abs() * (-log_scale).exp()
    return -(distance + log_scale + (2 * values * (1 - values)).log())
