"""ResNet-18 for small images: a timm architecture of our own, ``resnet18_small_stem``.

The stem of a ResNet takes a sixteenth of the pixels away (a 7x7 convolution of stride 2, then max
pooling), which leaves 1 x 1 of an image of 32 px. For CIFAR-10, SimCLR (arXiv:2002.05709,
appendix B.9) takes a 3x3 convolution of stride 1 in place of both. timm's ResNet has no argument
for that. Importing this module makes ``timm.create_model`` know the architecture.
"""

from __future__ import annotations

from typing import Any, cast

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

__all__ = ["SmallStemResNet", "resnet18_small_stem"]


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
