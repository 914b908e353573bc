"""A pretrained ResNet in a detector: its maps, for a feature pyramid (FPN, arXiv:1612.03144).

Few images go through a detector at a time, so batch norms keep the statistics, scales and shifts of
pretraining, as is usual (Mask R-CNN, arXiv:1703.06870).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from steps.command import UserError
from steps.models.backbones import load_backbone


class ResNetMaps(nn.Module):
    """The maps of a timm ResNet's stages, from a finest stride on.

    Args:
        resnet: whose modules this one takes over.
        strides: of the detector's levels; there is a map for each that a stage has.
        checkpoint_activations: compute each stage again in the backward pass.

    Raises:
        UserError: no stage has the finest stride.
    """

    depth = 4
    """Stages: layers that layer-wise decay tells apart."""

    def __init__(
        self, resnet: ResNet, strides: list[int], *, checkpoint_activations: bool = False
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.act1, resnet.maxpool)
        self.layers = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4])
        stages = resnet.feature_info[1:]
        self.taken = [stage["reduction"] in strides for stage in stages]
        if strides[0] not in (stage["reduction"] for stage in stages):
            raise UserError(
                "detection protocol: pyramid.strides",
                f"the finest is {strides[0]}, and this ResNet has no such map",
                allowed="to begin with " + ", ".join(str(stage["reduction"]) for stage in stages),
            )
        self.channels: list[int] = [
            stage["num_chs"] for stage, taken in zip(stages, self.taken, strict=True) if taken
        ]
        """Of each map."""
        for norm in self._norms():
            norm.requires_grad_(False)

    def init_weights(self) -> None:
        """Keep the pretrained weights: mmengine calls this on all parts of a detector."""

    def train(self, mode: bool = True) -> ResNetMaps:
        """Batch norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._norms():
            norm.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W), normalised, to maps (B, C, H / stride, W / stride), the finest first."""
        x, maps = self.stem(images), []
        for layer, taken in zip(self.layers, self.taken, strict=True):
            if self.checkpoint_activations and self.training:
                x = cast(Tensor, checkpoint(layer, x, use_reentrant=False))
            else:
                x = layer(x)
            if taken:
                maps.append(x)
        return tuple(maps)

    def _norms(self) -> list[_BatchNorm]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]


def load_resnet_maps(
    artifact: Path, strides: list[int], *, drop_path: float, checkpoint_activations: bool
) -> ResNetMaps:
    """The maps of a backbone artifact that is a ResNet.

    Raises:
        UserError: the folder holds no backbone artifact, or it has not the finest stride.
    """
    resnet = load_backbone(artifact, drop_path_rate=drop_path)
    return ResNetMaps(resnet, strides, checkpoint_activations=checkpoint_activations)
