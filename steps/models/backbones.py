"""Backbones: created from params, written as and read from ``timm.create_model("local-dir:…")``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import timm
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from steps.artifacts import verify
from steps.command import UserError
from steps.core.finite import DIVERGED, check_weights
from steps.models.batch_norm import BatchNorm2d
from steps.models.positions import WITH_OFFSET, Resizing
from steps.params.backbone import Backbone
from steps.params.sets import RGB

if TYPE_CHECKING:
    from typing_extensions import TypeIs

__all__ = ["SmallStemResNet", "resnet18_small_stem"]

# --- ResNet-18 for small images: a timm architecture of our own, ``resnet18_small_stem``
# The stem of a ResNet takes a sixteenth of the pixels away (a 7x7 convolution of stride 2, then
# max pooling), which leaves 1 x 1 of an image of 32 px. For CIFAR-10, SimCLR (arXiv:2002.05709,
# appendix B.9) takes a 3x3 convolution of stride 1 in place of both. timm's ResNet has no argument
# for that. Importing this module makes ``timm.create_model`` know the architecture.


default_cfgs = generate_default_cfgs(
    {
        "resnet18_small_stem": {
            "input_size": (3, 32, 32),
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)
"""Where timm looks for them."""


class SmallStemResNet(ResNet):
    """timm's ResNet with the stem for small images; its blocks see the image at full size."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        width = self.bn1.num_features
        self.conv1 = nn.Conv2d(self.in_chans, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for index, info in enumerate(self.feature_info):
            # The stem's own map was at half the size, the others at a quarter and below.
            info["reduction"] //= 4 if index else 2


@register_model  # type: ignore[untyped-decorator]
def resnet18_small_stem(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNet-18 with the stem for small images."""
    arguments = {"block": BasicBlock, "layers": (2, 2, 2, 2), **kwargs}
    model = build_model_with_cfg(SmallStemResNet, "resnet18_small_stem", pretrained, **arguments)
    return cast(ResNet, model)


CONFIG = "config.json"
WEIGHTS = "model.safetensors"
HEADS = "heads.safetensors"
RESIZING, NORM_EPS = "resizing", "norm_eps"
"""Keys in ``config.json`` of what timm does not know of: ``own_resizing`` and ``set_norm_eps``."""

Transformer: TypeAlias = VisionTransformer | Beit | Eva
"""A backbone of tokens: what ``steps.models.tokens`` embeds and encodes with."""
BackboneModel: TypeAlias = Transformer | ResNet
"""Any backbone: ``steps.models.features`` says what heads and evaluations take of it."""


def is_resnet(model: object) -> TypeIs[ResNet]:
    """True for a ResNet, which has neither tokens nor blocks in a row; any other backbone is a
    ``Transformer``. Code that has to tell them apart asks here, params their ``is_resnet``.
    """
    return isinstance(model, ResNet)


def create_backbone(backbone: Backbone) -> BackboneModel:
    """A backbone without a head, initialised from torch's global generator.

    Raises:
        UserError: timm does not know the architecture, or it does not take the arguments.
    """
    try:
        model = timm.create_model(
            backbone.architecture,
            num_classes=0,
            **_model_args(backbone),
            **_batch_norm(backbone.is_resnet),
        )
        if isinstance(model, Eva) != backbone.is_eva:
            raise ValueError(f"a {type(model).__name__}, though its name says otherwise")
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise UserError(
            f"backbone {backbone.architecture}",
            f"timm cannot build it: {error}",
            remedy="correct architecture or model_args in params/backbones/",
        ) from error
    if not isinstance(model, BackboneModel):
        raise UserError(
            f"backbone {backbone.architecture}",
            f"a {type(model).__name__}",
            allowed="timm's VisionTransformer, Eva or ResNet",
        )
    if is_resnet(model):
        # Its weights do not depend on it, so that timm has the size of its own training there.
        side = backbone.image_size
        shape = (in_channels(model), side, side)
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": shape}
    return model


def save_backbone(
    model: BackboneModel,
    backbone: Backbone,
    folder: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    heads: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors`` as timm's ``local-dir:`` source reads them.

    Args:
        model: the weights.
        backbone: what the model was created from.
        folder: an existing folder.
        mean, std: per channel, of pixels in 0 to 1; the input that the weights expect.
        heads: weights that belong to it and are not part of it, for a file of their own.
    """
    size, channels = image_size(model), in_channels(model)
    # Where a config names it, timm takes it for one of three channels, to be adapted.
    first = {"first_conv": "conv1" if backbone.is_resnet else "patch_embed.proj"}
    config = {
        "architecture": backbone.architecture,
        "num_classes": 0,
        "num_features": model.num_features,
        # A final phase may have given it another size than its params have.
        "model_args": _model_args(backbone.model_copy(update={"image_size": size})),
        "pretrained_cfg": {
            "input_size": [channels, size, size],
            "num_classes": 0,
            "mean": list(mean),
            "std": list(std),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            **(first if channels == RGB[0] else {}),
            "classifier": "fc" if backbone.is_resnet else "head",
        },
    }
    # Only what differs from the default is written, so most configs are plain timm.
    if (resizing := own_resizing(model)) != WITH_OFFSET:
        config[RESIZING] = dataclasses.asdict(resizing)
    if (eps := getattr(model, NORM_EPS, None)) is not None:
        config[NORM_EPS] = eps
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_weights(model.state_dict(), folder / WEIGHTS)
    if heads:
        save_weights(heads, folder / HEADS)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors.

    Raises:
        UserError: one holds NaN or infinity.
    """
    remedy = f"{DIVERGED}; of weights that were imported, get the file again"
    check_weights(weights.items(), path.name, remedy)
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(whole, path, metadata={"format": "pt"})


def load_backbone(artifact: Path, **overrides: Any) -> BackboneModel:
    """The backbone of an artifact, on the CPU, in float32 and eval mode.

    Args:
        artifact: a folder that ``steps.pretrain`` published.
        overrides: arguments of the timm model that replace those of the artifact.

    Raises:
        UserError: the folder holds no backbone artifact, not the bytes that were written, or
            weights that are not finite.
    """
    # Checksums first: timm would load whatever bytes are there.
    verify(artifact, "pretrain")
    model = timm.create_model(
        f"local-dir:{artifact}",
        pretrained=True,
        num_classes=0,
        **_batch_norm(holds_resnet(artifact)),
        **overrides,
    )
    config = _config(artifact)
    if (resizing := config.get(RESIZING)) is not None:
        model.resizing = Resizing(**resizing)
    if (eps := config.get(NORM_EPS)) is not None:
        set_norm_eps(model, eps)
    check_weights(
        model.state_dict().items(), str(artifact), f"train it anew ({DIVERGED}), or import it again"
    )
    return cast(BackboneModel, model.float().eval())


def own_resizing(model: BackboneModel) -> Resizing:
    """Resizing of the position table for images of another size: DINO's, unless the backbone has
    the attribute ``resizing``.
    """
    return cast(Resizing, getattr(model, "resizing", WITH_OFFSET))


def norm_eps(model: BackboneModel) -> float | None:
    """The epsilon of a transformer's layer norms; None for a ResNet."""
    return None if is_resnet(model) else float(model.blocks[0].norm1.eps)


def set_norm_eps(model: BackboneModel, eps: float) -> None:
    """Give all layer norms another epsilon than timm's, which ``save_backbone`` then records."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = eps
    setattr(model, NORM_EPS, eps)


def has_class_token(model: BackboneModel) -> bool:
    """False for a ResNet, and for a transformer without such a token (SigLIP)."""
    return not is_resnet(model) and model.cls_token is not None


def holds_resnet(artifact: Path) -> bool:
    """True for the artifact of a ResNet, whose weights need not be loaded to say so."""
    architecture: str = _config(artifact)["architecture"]
    return architecture.startswith("resnet")


def normalisation(artifact: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel (of pixels in 0 to 1) that a backbone expects."""
    config = _config(artifact)["pretrained_cfg"]
    return config["mean"], config["std"]


def _config(artifact: Path) -> dict[str, Any]:
    """The content of ``config.json``, as it was written."""
    verify(artifact, "pretrain")
    content: dict[str, Any] = json.loads((artifact / CONFIG).read_bytes())
    return content


def image_size(model: BackboneModel) -> int:
    """The side in pixels of the images that a model was built for."""
    if is_resnet(model):
        return int(model.pretrained_cfg["input_size"][-1])
    return int(model.patch_embed.img_size[0])


def with_channels(backbone: Backbone, channels: int) -> Backbone:
    """The backbone for images of a number of channels."""
    if channels == RGB[0]:
        return backbone
    arguments = {**backbone.model_args, "in_chans": channels}
    # A copy is not validated: params files may not name a BEiT themselves.
    return backbone.model_copy(update={"model_args": arguments})


def in_channels(model: BackboneModel) -> int:
    """Number of channels of the images that a model takes."""
    first = model.conv1 if is_resnet(model) else model.patch_embed.proj
    return int(first.in_channels)


def depth(model: BackboneModel) -> int:
    """Layers that layer-wise decay tells apart: blocks of a transformer, stages of a ResNet."""
    return 4 if is_resnet(model) else len(model.blocks)


def _model_args(backbone: Backbone) -> dict[str, Any]:
    """The arguments of the timm model that a config records."""
    if backbone.is_resnet:
        return dict(backbone.model_args)
    size: dict[str, Any] = {"img_size": backbone.image_size, "patch_size": backbone.patch_size}
    if backbone.is_eva:
        # Else timm keeps the rotary positions of one grid and gives them for any other.
        size["dynamic_img_size"] = True
    return {**size, **backbone.model_args}


def _batch_norm(resnet: bool) -> dict[str, Any]:
    """Ours in place of torch's, under the same names, where a model has any."""
    return {"norm_layer": BatchNorm2d} if resnet else {}
