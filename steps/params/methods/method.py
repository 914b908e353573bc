"""Params that several methods share."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from steps.params.base import Count, DropPath, Momentum, Params, Positive, Whole
from steps.params.masks import Incompatibility

# --- What the params of all methods have in common


Kind = Literal[
    "Random", "Supervised", "Generative", "Contrastive", "Hybrid", "Position", "Language"
]
Family = Literal[
    "contrastive", "masked", "position", "hybrid", "language", "supervised", "untrained"
]
Need = Literal["none", "optional", "required"]
FeatureSpec = Literal["tokens", "features"]
TokenSpec = Literal["any", "no registers", "plain", "sine-cosine"]
SizeSpec = Literal["any", "backbone", "equal", "global", "kinds"]


class Method(Params):
    """Params of a method: what its paper calls hyper-parameters, views and optimiser aside."""

    kind: ClassVar[Kind]
    """Kind of method as the tables print it."""
    family: ClassVar[Family]
    """Family by pretraining task. contrastive: two views of an image agree (with other
    images as contrast, or by self-distillation); masked: hidden patches are predicted; position:
    where patches were; hybrid: views and hidden patches; language: captions, which may name the
    class."""
    reads: ClassVar[FeatureSpec] = "tokens"
    """Input from the backbone: the tokens of a vision transformer, or one vector per image, which
    a ResNet gives too."""
    rotary: ClassVar[bool] = False
    """True if it also trains timm's class Eva (rotary positions): all patches of a view go through
    the blocks, each at its position, and the method does not change the backbone."""
    takes_tokens: ClassVar[TokenSpec] = "any"
    """Tokens that it takes of a vision transformer. no registers: a class token and patches. plain:
    these, and a learnt position of each. sine-cosine: the same, and a width that is a multiple of
    4, since positions become the fixed table."""
    view_sizes: ClassVar[SizeSpec] = "any"
    """Sizes of an image's views. backbone: that of the backbone's images. equal: one size. global:
    one size of the global views. kinds: one of the global and one of the local views."""
    takes_teacher: ClassVar[Need] = "none"
    """Need of a ``teacher`` in the recipe."""
    takes_tokenizer: ClassVar[Need] = "none"
    """Need of a ``tokenizer`` in the recipe."""
    takes_init: ClassVar[Need] = "optional"
    """Need of an ``init`` in the recipe: the weights that the backbone starts from."""
    takes_second_image: ClassVar[bool] = False
    """True if its views have a ``second`` image, for the tokenizer."""
    text: ClassVar[bool] = False
    """True if the method has a text tower, which zero-shot classification and retrieval need."""
    drawn: ClassVar[bool] = False
    """True if ``steps.diagnose`` has pictures of it."""
    compares: ClassVar[str] = ""
    """Verb for what it does with an image and the others of its batch, if anything."""
    final_phase: ClassVar[bool] = False
    """True if its recipe may have ``training.final_phase``."""
    name: str

    @property
    def needs_class_token(self) -> bool:
        """True if a vision transformer without a class token cannot be trained."""
        return self.reads == "tokens" or self.takes_tokens in ("plain", "sine-cosine")

    def incompatibility(self, patches: int, depth: int | None) -> Incompatibility | None:
        """Key of the params that does not fit a backbone.

        Args:
            patches: of an image.
            depth: blocks of the backbone, where they are known.

        Returns:
            The key below ``method``, what was found, and what is allowed; None where all fits.
        """
        return None

    def check_run(self, batch: int, epochs: float) -> None:
        """Raise ValueError if the method has nothing to learn from such a run.

        Args:
            batch: images in a global batch.
            epochs: of the run.
        """
        if self.compares and batch < 2:
            raise ValueError(
                f"training.batch_size is {batch}; {self.name} {self.compares}: it takes 2 or more"
            )

    def check_views(self, views: int) -> None:
        """Raise ValueError if the method cannot take this number of views."""
        if views != 1:
            raise ValueError(f"training.views gives {views} views an image; {self.name} takes one")


# --- Params that the methods on momentum contrast share: MoCo v3, DILEMMA


class Projector(Params):
    """An MLP from features to the space of the loss, batch norm after every layer."""

    layers: Count = 3
    hidden_dim: Count
    out_dim: Count


class Predictor(Params):
    """A further MLP only for queries, as wide as the projector at both ends."""

    layers: Count = 2
    hidden_dim: Count
    last_norm: bool = True
    """End with a batch norm (MoCo v3 of vision transformers) or not (of residual networks)."""


class MomentumContrast(Method):
    """Two views, queries of one encoder, keys of its moving average."""

    compares = "tells an image from the others of its batch"
    temperature: Positive = 0.2
    momentum: Momentum = 0.99
    """Momentum of the moving average at the start; a cosine takes it to ``momentum_end``."""
    momentum_end: Momentum = 1.0
    projector: Projector
    predictor: Predictor

    def check_views(self, views: int) -> None:
        """Two views."""
        if views != 2:
            raise ValueError(f"training.views gives {views} views an image; {self.name} takes two")


# --- Params of the narrow transformer that decodes what a masked encoder saw


class Decoder(Params):
    """Width, depth, heads and MLPs of a decoder (MAE, DropPos)."""

    embed_dim: Count
    depth: Count
    num_heads: Count
    mlp_ratio: Positive = 4.0
    """Hidden width of a block's MLP over ``embed_dim``; their product is rounded down."""

    @model_validator(mode="after")
    def _divides(self) -> Decoder:
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads")
        if self.embed_dim % 4:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of 4 (sin-cos table)")
        return self


# --- Params of the projection head that DINO, iBOT and DINOv2 share


class PrototypeHead(Params):
    """Projection onto prototypes."""

    layers: Count = 3
    hidden_dim: Count
    bottleneck_dim: Count
    out_dim: Count
    norm_last_layer: bool = True
    """Keep the prototypes' lengths at 1 (True) or train them."""
    use_bn: bool = False


class PatchPrototypeHead(PrototypeHead):
    """Projection of class tokens and of patches (iBOT)."""

    patch_out_dim: Count
    """Prototypes of patches."""
    shared: bool = True
    """True if the student has the same prototypes for both."""
    shared_teacher: bool = True
    """True if the teacher has."""

    @model_validator(mode="after")
    def _consistent(self) -> PatchPrototypeHead:
        if (self.shared or self.shared_teacher) and self.patch_out_dim != self.out_dim:
            raise ValueError(
                f"patch_out_dim {self.patch_out_dim} is not out_dim {self.out_dim}, though "
                "student or teacher has the same prototypes for both"
            )
        if self.use_bn:
            raise ValueError("use_bn: a head of class tokens and patches has no batch norm")
        return self


# --- Params that DINO and iBOT share


class SelfDistillation(Method):
    """A student that predicts, from any view, what its moving average says of the global ones."""

    rotary = True
    view_sizes = "global"
    global_views: Count = 2
    """Number of first views that go through the teacher too."""
    student_temp: Positive = 0.1
    teacher_temp: Positive
    warmup_teacher_temp: Positive
    warmup_teacher_temp_epochs: Whole
    momentum: Momentum
    """Momentum of the moving average at the start; a cosine takes it to ``momentum_end``."""
    momentum_end: Momentum = 1.0
    center_momentum: Momentum = 0.9
    freeze_last_layer_epochs: Whole = 1
    drop_path: DropPath = 0.0

    def check_views(self, views: int) -> None:
        """Two views or more, the global ones among them."""
        if views < 2 or views < self.global_views:
            raise ValueError(
                f"training.views gives {views} views an image; {self.name} needs two or more, "
                f"global_views = {self.global_views} of them global"
            )
