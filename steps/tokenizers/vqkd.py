"""VQ-KD, the tokenizer of BEiT v2: masked image modeling with vector-quantized visual tokenizers
(arXiv:2208.06366), section 2.2.

An encoder gives each patch a feature z of unit norm, the nearest code e_k takes its place, and a
shallow decoder must tell from the codes what a fixed teacher sees there:

    k = argmin_j |z - e_j|^2          z_q = z + sg(e_k - z)
    loss = mean over tokens of (1 - cos(dec(z_q), teacher))
           + beta * mean over values of (sg(e_k) - z)^2

The codes follow the features by moving averages, not by gradient (see ``Codebook``). The reference
moves them inside the forward pass, after they have been read; moved after the step they are the
same numbers.

Published: ViT-B encoder, three decoder blocks, 8192 codes of width 32, CLIP ViT-B/16 as teacher,
100 epochs of ImageNet-1K at batch 512; a BEiT v2 ViT-B of 300 epochs on it fine-tunes to 85.0 %
(section 3.2).
Held to microsoft/unilm by the golden cases ``vqkd`` and ``vqkd_kmeans``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from timm.models.beit import Beit
from torch import Tensor, nn
from torch.nn import functional as F

from steps.core.distributed import gather
from steps.core.schedules import Progress
from steps.methods.method import Batch, Draws, Losses
from steps.models.teacher import Renormalise, Teacher, pixels_of
from steps.models.tokenizer import Tokenizer
from steps.params.tokenizers import Transformer, VQKDParams
from steps.tokenizers.codebook import Codebook, use_of
from steps.tokenizers.training import TokenizerTraining

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def transformer(params: Transformer, image_size: int, patch_size: int, in_chans: int) -> Beit:
    """A vision transformer as the reference builds it: no key biases, position table, norm last."""
    return Beit(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=in_chans,
        num_classes=0,
        embed_dim=params.embed_dim,
        depth=params.depth,
        num_heads=params.num_heads,
        mlp_ratio=params.mlp_ratio,
        init_values=None,
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
    )


def patch_features(vit: Beit, images: Tensor) -> Tensor:
    """Normed patch tokens (B, N, D); the class token only takes part in attention."""
    tokens: Tensor = vit.fc_norm(vit.forward_features(images)[:, 1:])
    return tokens


def task_layer(dim: int, out_dim: int) -> nn.Sequential:
    """Linear, tanh, linear."""
    first, last = nn.Linear(dim, dim), nn.Linear(dim, out_dim)
    for layer in (first, last):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.Tanh(), last)


class VQTokenizer(Tokenizer):
    """Encoder and codebook: what is kept of the training."""

    def __init__(self, params: VQKDParams, channels: int = 3) -> None:
        super().__init__()
        self.vocab_size = params.codes
        self.token_pixels = params.patch_size
        signed = ((0.5,) * channels, (0.5,) * channels)
        wanted = signed if params.process_type == "default" else _IMAGENET
        self.normalise = Renormalise(pixels_of(channels), wanted)
        self.encoder = transformer(params.encoder, params.image_size, params.patch_size, channels)
        self.task_layer = task_layer(params.encoder.embed_dim, params.code_dim)
        self.codebook = Codebook(
            params.codes, params.code_dim, params.ema_decay, kmeans_init=params.kmeans_init
        )

    def features(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) in 0 to 1 to patch features of unit norm (B, N, C), always in float32."""
        return F.normalize(self.raw_features(pixels), dim=-1)

    def raw_features(self, pixels: Tensor) -> Tensor:
        """Those features as they are before normalisation."""
        tokens = patch_features(self.encoder, self.normalise(pixels))
        with torch.autocast(tokens.device.type, enabled=False):
            features: Tensor = self.task_layer(tokens.float())
        return features

    def tokens(self, pixels: Tensor) -> Tensor:
        return self.codebook.nearest(self.features(pixels))


class VQKD(TokenizerTraining):
    """Trains encoder, codebook and decoder against a teacher's patch features."""

    def __init__(
        self, params: VQKDParams, teacher: Teacher | None, teacher_dim: int, channels: int = 3
    ) -> None:
        super().__init__()
        self.params = params
        self.tokenizer = VQTokenizer(params, channels)
        self.teacher = teacher
        self.grid = params.image_size // params.patch_size
        self.decoder = transformer(params.decoder, self.grid, 1, params.code_dim)
        self.task_layer = task_layer(params.decoder.embed_dim, teacher_dim)

    def sample(self, batch: int, generator: torch.Generator) -> Draws:
        """A number for each token of the first batch: k-means starts at the smallest ones."""
        if self.tokenizer.codebook.ready:
            return {}
        return {"order": torch.rand(batch, self.grid**2, generator=generator)}

    @torch.no_grad()
    def start(self, parts: Iterable[tuple[Batch, Draws]]) -> None:
        """Cluster the features of the first global batch, before anything is trained on it.

        The reference lets each process cluster its own part of the batch.
        """
        if not self.tokenizer.codebook.ready:
            seen = [(self.tokenizer.features(batch.views[0]), draws) for batch, draws in parts]
            self.start_from([(features, draws["order"]) for features, draws in seen])

    def start_from(self, seen: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Cluster features (b, N, C), each with its draws (b, N), and those of other processes."""
        features, order = (gather(torch.cat(part)) for part in zip(*seen, strict=True))
        self.tokenizer.codebook.start(features.flatten(0, 1), order.flatten().argsort())

    def forward(self, batch: Batch, draws: Draws, progress: Progress) -> Losses:
        (pixels,) = batch.views
        return self.losses(pixels, self.targets(pixels))

    def targets(self, pixels: Tensor) -> Tensor:
        """The teacher's patch features (B, N, D)."""
        if self.teacher is None:
            raise ValueError("vqkd is trained against a teacher")
        return self.teacher.patches(pixels, projected=self.params.projected)

    def losses(self, pixels: Tensor, targets_BND: Tensor) -> Losses:
        """Both terms; collects the features that move the codebook."""
        codebook = self.tokenizer.codebook
        features = self.tokenizer.features(pixels)
        indices = codebook.nearest(features.detach())
        codes = codebook.codes[indices]
        commitment = self.params.commitment * (codes - features).square().mean()
        codebook.accumulate(features, indices)
        distance = self.distance(features + (codes - features).detach(), targets_BND).mean()
        return {
            "loss": distance + commitment,
            "rec_loss": distance.detach(),
            "quant_loss": commitment.detach(),
        }

    def decode(self, quantised_BNC: Tensor) -> Tensor:
        """Codes (B, N, C) to predicted teacher features (B, N, D)."""
        grid = quantised_BNC.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        predicted: Tensor = self.task_layer(patch_features(self.decoder, grid))
        return predicted

    def distance(self, quantised_BNC: Tensor, targets_BND: Tensor) -> Tensor:
        """1 - cosine of prediction and target, (B, N)."""
        predicted, targets = self.decode(quantised_BNC).float(), targets_BND.float()
        predicted = predicted / predicted.norm(dim=-1, keepdim=True)
        targets = targets / targets.norm(dim=-1, keepdim=True)
        cosine: Tensor = (predicted * targets).sum(dim=-1)
        return 1 - cosine

    def after_step(self, progress: Progress) -> dict[str, Tensor]:
        """Move the codebook by the features of the whole global batch; log its use."""
        new_epoch = progress.step % progress.steps_per_epoch == 0
        counts = self.tokenizer.codebook.update(new_epoch=new_epoch)
        return use_of(counts)

    def trained(self) -> VQTokenizer:
        """Encoder and codebook."""
        return self.tokenizer

    def judge(self, batch: Batch) -> dict[str, Tensor]:
        """1 - cosine to the teacher's features."""
        (pixels,) = batch.views
        codes = self.tokenizer.codebook.codes[self.tokenizer.tokens(pixels)]
        return {"cosine_distance": self.distance(codes, self.targets(pixels)).mean(dim=1)}
