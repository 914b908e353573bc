"""Params of tokenizers: the discrete VAE of DALL-E, VQ-KD, and the training of either."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from annotated_types import Gt, Lt
from pydantic import Field, model_validator

from steps.params.base import Count, Momentum, NotNegative, Params, Positive
from steps.params.methods.method import Need
from steps.params.names import Below
from steps.params.recipe import Teacher, Training, check_needs

__all__ = ["DalleParams", "TokenizerParams", "VQKDParams"]

# --- Params that all tokenizers share


class Tokenizer(Params):
    """Params of a tokenizer, which turns an image into a grid of visual tokens."""

    takes_teacher: ClassVar[Need] = "none"
    official_files: ClassVar[tuple[str, ...]]
    """Parts of the network that official files hold, one file per part."""
    name: str
    image_size: Count
    """Side in pixels of the training images."""

    @property
    def token_pixels(self) -> int:
        """Side in pixels of the patch that a token represents."""
        raise NotImplementedError

    def check_batch(self, batch: int) -> None:
        """Raise ValueError if a batch of this many images is too small to initialise from."""

    def check_view(self, size: int) -> None:
        """Raise ValueError if the tokenizer cannot be trained on views of this side in pixels."""

    def check_trained(self, trained: bool) -> None:
        """Raise ValueError if the params do not fit a tokenizer that is trained, or not."""


# --- Params of the discrete VAE of DALL-E


class Anneal(Params):
    """A value that goes from ``start`` to ``end`` in a half cosine and stays there."""

    start: NotNegative
    end: NotNegative
    epochs: Positive


class Temperature(Anneal):
    """An annealed temperature, by which logits are divided."""

    start: Positive
    end: Positive


class DalleTraining(Params):
    """Training of a discrete VAE (arXiv:2102.12092, appendix A.2)."""

    temperature: Temperature
    """Temperature of the Gumbel-softmax relaxation."""
    kl_weight: Anneal
    """Beta: weight of KL(q || uniform), summed over tokens, relative to the negative log
    likelihood, summed over pixels and channels."""
    momentum: Momentum = 0.999
    """Momentum of the moving average of the weights, which the artifact keeps."""


class DalleNetwork(Params):
    """Widths of the encoder or the decoder: four groups of residual blocks."""

    hidden: Count
    """Width of the group next to the image; the others have 2, 4 and 8 times this width."""
    blocks_per_group: Count

    @model_validator(mode="after")
    def _quarters(self) -> DalleNetwork:
        if self.hidden % 4:
            raise ValueError(f"hidden {self.hidden} is not a multiple of 4")
        return self


class DalleDecoder(DalleNetwork):
    """The decoder's widths."""

    input: Count
    """Width of its first layer, which reads the tokens."""


class DalleParams(Tokenizer):
    """The discrete VAE of DALL-E (arXiv:2102.12092), with one token per 8 x 8 pixels."""

    official_files = ("encoder", "decoder")
    name: Literal["dalle"]
    vocab_size: Count
    encoder: DalleNetwork
    decoder: DalleDecoder
    logit_laplace_eps: Annotated[float, Gt(0), Lt(0.5)] = 0.1
    """Pixels are mapped from [0, 1] to [eps, 1 - eps]."""
    learning: DalleTraining | None = None

    @property
    def token_pixels(self) -> int:
        """8: three of the four groups halve the image."""
        return 8

    def check_view(self, size: int) -> None:
        """Raise ValueError if the groups cannot halve views of this size."""
        if size % self.token_pixels:
            raise ValueError(
                f"training.views[0].size {size} is not a multiple of {self.token_pixels}"
            )

    def check_trained(self, trained: bool) -> None:
        """Raise ValueError unless annealing is given exactly for training."""
        if trained and self.learning is None:
            raise ValueError("tokenizer dalle is trained by the key 'tokenizer.learning': add it")
        if not trained and self.learning is not None:
            raise ValueError("official weights are not trained: remove 'tokenizer.learning'")

    @model_validator(mode="after")
    def _halves(self) -> DalleParams:
        if self.image_size % self.token_pixels:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of {self.token_pixels}"
            )
        return self


# --- Params of vector-quantised knowledge distillation


class Transformer(Params):
    """A plain vision transformer with learnt positions."""

    embed_dim: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Positive = 4.0

    @model_validator(mode="after")
    def _divides(self) -> Transformer:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads")
        return self


class VQKDParams(Tokenizer):
    """The tokenizer of BEiT v2 (arXiv:2208.06366), with one token per patch."""

    takes_teacher = "required"
    official_files = ("model",)
    name: Literal["vqkd"]
    patch_size: Count
    encoder: Transformer
    decoder: Transformer
    codes: Count
    code_dim: Count
    projected: bool = False
    """Take the teacher's patch features after its projection into the space shared with text, as
    BEiT v2 does. Only clip has such a projection."""
    ema_decay: Momentum = 0.99
    """Momentum of the codebook's moving average."""
    kmeans_init: bool = True
    """Initialise the codebook from clusters of the first batch."""
    commitment: NotNegative = 1.0
    """Beta: weight of the distance between features and codes."""
    rec_loss_type: Literal["cosine"] = "cosine"
    process_type: Literal["default", "imagenet_norm"] = "default"
    """default: pixels in [-1, 1]. imagenet_norm: normalised by ImageNet's mean and std."""

    @property
    def token_pixels(self) -> int:
        """Side of a patch."""
        return self.patch_size

    def check_batch(self, batch: int) -> None:
        """Raise ValueError if the first batch has fewer patches than k-means needs."""
        features = batch * (self.image_size // self.patch_size) ** 2
        if self.kmeans_init and features < self.codes:
            raise ValueError(
                f"training.batch_size {batch}: its {features:,} patches are fewer than the "
                f"{self.codes:,} codes that k-means starts from them; take a larger batch, fewer "
                "codes, or kmeans_init: false"
            )

    def check_view(self, size: int) -> None:
        """Raise ValueError if views have another size than the positions."""
        if size != self.image_size:
            raise ValueError(
                f"training.views[0].size {size} is not image_size {self.image_size}: remove it"
            )

    @model_validator(mode="after")
    def _fits(self) -> VQKDParams:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        return self


# --- The union of both


TokenizerParams = Annotated[DalleParams | VQKDParams, Field(discriminator="name")]


# --- A tokenizer's file: training, or official weights


class TokenizerRecipe(Params):
    """``params/tokenizers/<regime>/<tokenizer>.yaml``."""

    tokenizer: TokenizerParams
    official: dict[str, Below] | None = None
    """Files of official weights below the data root, by part of the network, in place of
    training."""
    teacher: Teacher | None = None
    training: Training | None = None

    @model_validator(mode="after")
    def _consistent(self) -> TokenizerRecipe:
        params = self.tokenizer
        trained = self.training is not None
        if trained == (self.official is not None):
            raise ValueError("one of the keys 'official' and 'training' is needed, not both")
        params.check_trained(trained)
        check_needs(
            f"tokenizer {params.name}" + ("" if trained else " with official weights"),
            {"teacher": params.takes_teacher if trained else "none"},
            {"teacher": self.teacher},
        )
        if self.official is not None and set(self.official) != set(params.official_files):
            raise ValueError(
                f"official names the files {', '.join(self.official)}; tokenizer {params.name} "
                f"takes {', '.join(params.official_files)}"
            )
        if self.training is not None:
            params.check_batch(self.training.batch_size)
            views = sum(view.count for view in self.training.views)
            if views != 1:
                raise ValueError(f"training.views gives {views} views per image; it takes one")
            params.check_view(self.training.views[0].size or params.image_size)
            self.training.check_second_images(f"tokenizer {params.name}", wanted=False)
            self.training.check_final_phase(f"tokenizer {params.name}", allowed=False)
            self.training.check_frozen(f"tokenizer {params.name}", allowed=False)
            self.training.check_watched(f"tokenizer {params.name}")
            self.training.check_kept(f"tokenizer {params.name}")
            if self.training.normalise is not None:
                raise ValueError("a tokenizer takes pixels in 0 to 1: remove training.normalise")
        return self
