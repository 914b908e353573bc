"""The ViTDet backbone: a pretrained vision transformer that attends within windows.

Exploring Plain Vision Transformer Backbones for Object Detection (arXiv:2203.16527), section 3:
attention in windows, but for a few evenly spaced blocks that attend globally; decomposed relative
positions (MViTv2, arXiv:2112.01526, equation 4); the absolute positions of pretraining resized
as the backbone itself resizes them (``own_resizing``; ViTDet's own way is ``offset=0``).
The class token does not exist in the detector, and nor does the final norm, unless the backbone is
frozen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from timm.layers import Attention
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from steps.command import UserError
from steps.detection.beit import PositionBias, as_plain, position_biases
from steps.detection.eva import RotaryAttention, RotaryPositions, queries
from steps.models.backbones import CONFIG, load_backbone, normalisation, own_resizing
from steps.models.positions import Resizing, resize_map


class ViTDet(nn.Module):
    """Patch maps of one or several blocks of a timm vision transformer, for images of any size.

    Args:
        vit: the transformer, whose modules this one takes over; class and register tokens are
            dropped, layer scale, pre-norm, query-key norms and rotary positions stay.
        window_size: side of a window in patches; ``None``: every block attends globally.
        global_blocks: how many blocks attend globally; ``None`` where their indices are given.
        global_indices: the blocks that attend globally, in place of ``global_blocks``.
        relative_grid: side of the patch grid that the relative tables of the global blocks are
            made for; ``None``: no relative positions.
        checkpoint_activations: compute each block again in the backward pass.
        biases: of a BEiT (``steps.detection.beit``), one a block.
        outputs: the blocks whose maps are given, in order; ``None``: the last one.
        resizing: how the position table is resized to an image's grid; ``None``: as the
            transformer itself says.
        frozen: no weight is trained, and maps pass the transformer's final norm.

    Raises:
        UserError: relative positions with an attention that is neither timm's ``Attention`` nor
            that of its class Eva, or an EVA with norms after attention and MLP.
    """

    def __init__(
        self,
        vit: VisionTransformer | Eva,
        *,
        window_size: int | None,
        global_blocks: int | None = None,
        global_indices: tuple[int, ...] = (),
        relative_grid: int | None = None,
        checkpoint_activations: bool = False,
        biases: nn.ModuleList | None = None,
        outputs: Sequence[int] | None = None,
        resizing: Resizing | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.resizing = own_resizing(vit) if resizing is None else resizing
        self.depth = depth = len(vit.blocks)
        self.outputs = (depth - 1,) if outputs is None else tuple(outputs)
        # Blocks above the last map have no effect and would get no gradient.
        blocks = vit.blocks[: self.outputs[-1] + 1]
        if global_blocks is not None:
            global_indices = evenly_spaced(global_blocks, depth)
        self.embed_dim = vit.embed_dim
        self.patch_size = int(vit.patch_embed.patch_size[0])
        self.window_size = window_size
        self.windows = [
            None if window_size is None or index in global_indices else window_size
            for index in range(len(blocks))
        ]
        self.checkpoint_activations = checkpoint_activations
        self.proj = vit.patch_embed.proj
        self.patch_norm = vit.patch_embed.norm
        self.pos_embed: nn.Parameter | None = None
        if vit.pos_embed is not None:
            prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
            self.pos_embed = nn.Parameter(vit.pos_embed.detach()[:, prefix:].clone())
        self.pretrain_grid: tuple[int, int] = vit.patch_embed.grid_size
        self.norm_pre = vit.norm_pre
        self.rotary = RotaryPositions(vit) if isinstance(vit, Eva) else None
        self.blocks = nn.ModuleList(blocks)
        self.biases = nn.ModuleList() if biases is None else biases[: len(blocks)]
        self.relative = nn.ModuleList()
        if relative_grid is not None:
            for block, window in zip(self.blocks, self.windows, strict=True):
                attn = cast(Attention, block.attn)
                plain = isinstance(attn, Attention) and attn.gate is None
                if not plain and not isinstance(attn, RotaryAttention):
                    raise UserError(
                        f"backbone with {type(attn).__name__}",
                        "relative positions need plain attention",
                        remedy="set backbone.relative_positions: false in the protocol",
                    )
                self.relative.append(RelativePositions(attn.head_dim, window or relative_grid))
        self.frozen = frozen
        # Of a trained backbone, the pyramid learns its own scale; of a frozen one, scales differ
        # from method to method.
        self.final_norm = vit.norm if frozen else nn.Identity()
        self.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> ViTDet:
        """Set the mode; a frozen backbone stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def init_weights(self) -> None:
        """Keep the pretrained weights: mmengine calls this on all parts of a detector."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images to patches.

        Args:
            images: (B, 3, H, W), normalised, with sides that are multiples of the patch size.

        Returns:
            The maps of ``outputs``, each (B, D, H / patch, W / patch).
        """
        x_BHWD, maps = self.embed(images), []
        positions = self.rotary_positions((x_BHWD.shape[1], x_BHWD.shape[2]))
        for index, rope in enumerate(positions):
            if self.checkpoint_activations and self.training:
                x_BHWD = checkpoint(self.block, index, x_BHWD, rope, use_reentrant=False)
            else:
                x_BHWD = self.block(index, x_BHWD, rope)
            if index in self.outputs:
                maps.append(self.final_norm(x_BHWD).permute(0, 3, 1, 2).contiguous())
        return tuple(maps)

    def embed(self, images: Tensor) -> Tensor:
        """Patches with their positions, (B, H, W, D)."""
        x_BHWD = self.patch_norm(self.proj(images).permute(0, 2, 3, 1))
        if self.pos_embed is not None:
            table = self.pos_embed.unflatten(1, self.pretrain_grid)
            x_BHWD = x_BHWD + resize_map(table, (x_BHWD.shape[1], x_BHWD.shape[2]), self.resizing)
        embedded: Tensor = self.norm_pre(x_BHWD)
        return embedded

    def rotary_positions(self, grid: tuple[int, int]) -> list[Tensor | None]:
        """Rotary positions of each block, for its windows or the whole grid; None: it has none."""
        if self.rotary is None:
            return [None] * len(self.blocks)
        grids = [grid if window is None else (window, window) for window in self.windows]
        # Once for all blocks of a grid: positions are made on the host.
        tables = {each: self.rotary(each) for each in dict.fromkeys(grids)}
        return [self.rotary.of_block(tables[each], index) for index, each in enumerate(grids)]

    def block(self, index: int, x_BHWD: Tensor, rope: Tensor | None = None) -> Tensor:
        """One transformer block, its attention in windows where it is to be; (B, H, W, D)."""
        block = cast(Block, self.blocks[index])
        window = self.windows[index]
        y = block.norm1(x_BHWD)
        if window is not None:
            height, width = y.shape[1:3]
            y = to_windows(y, window)
        relative = cast(RelativePositions, self.relative[index]) if self.relative else None
        bias = cast(PositionBias, self.biases[index]) if self.biases else None
        if isinstance(block.attn, RotaryAttention):
            y = _attend_rotated(block.attn, y, relative, rope)
        else:
            y = _attend(cast(Attention, block.attn), y, relative, bias)
        if window is not None:
            y = from_windows(y, window, height, width)
        x_BHWD = x_BHWD + block.drop_path1(_scaled(block, 1, y))
        y = _scaled(block, 2, block.mlp(block.norm2(x_BHWD)))
        out: Tensor = x_BHWD + block.drop_path2(y)
        return out


class RelativePositions(nn.Module):
    """Decomposed relative positions: one table for each axis (arXiv:2112.01526, equation 4).

    Args:
        head_dim: channels of a head.
        size: side of the grid that the tables are for; they start at zero.
    """

    def __init__(self, head_dim: int, size: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * size - 1, head_dim))
        self.columns = nn.Parameter(torch.zeros(2 * size - 1, head_dim))

    def forward(self, query_BNLD: Tensor, height: int, width: int) -> Tensor:
        """Bias to add to the scaled logits.

        Args:
            query_BNLD: (B, heads, height * width, head_dim), not scaled.

        Returns:
            (B, heads, height * width, height * width).
        """
        query = query_BNLD.unflatten(2, (height, width))
        rows = torch.einsum("bnhwd,hkd->bnhwk", query, by_offset(self.rows, height))
        columns = torch.einsum("bnhwd,wkd->bnhwk", query, by_offset(self.columns, width))
        return (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(4, 5).flatten(2, 3)


def by_offset(table: Tensor, size: int) -> Tensor:
    """(size, size, D): the table's row for each pair of positions, resized linearly if needed."""
    if table.shape[0] != 2 * size - 1:
        resized = F.interpolate(table.T.unsqueeze(0), size=2 * size - 1, mode="linear")
        table = resized.squeeze(0).T
    at = torch.arange(size, device=table.device)
    return table[at[:, None] - at[None, :] + size - 1]


def _attend(
    attn: Attention,
    x_BHWD: Tensor,
    relative: RelativePositions | None,
    bias: PositionBias | None,
) -> Tensor:
    batch, height, width, dim = x_BHWD.shape
    x = x_BHWD.reshape(batch, height * width, dim)
    if relative is None and bias is None:
        y: Tensor = attn(x)
    else:
        heads = attn.qkv(x).reshape(batch, height * width, 3, attn.num_heads, attn.head_dim)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = attn.q_norm(query), attn.k_norm(key)
        added = None if relative is None else relative(query, height, width)
        if bias is not None:
            by_offset = bias(height, width)
            added = by_offset if added is None else added + by_offset
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=attn.scale)
        y = attn.proj(attn.norm(y.transpose(1, 2).flatten(2)))
    return y.reshape(batch, height, width, dim)


def _attend_rotated(
    attn: RotaryAttention,
    x_BHWD: Tensor,
    relative: RelativePositions | None,
    rope: Tensor | None,
) -> Tensor:
    x = x_BHWD.flatten(1, 2)
    height, width = x_BHWD.shape[1:3]
    added = None if relative is None else relative(queries(attn, x), height, width)
    attended: Tensor = attn(x, rope=rope, attn_mask=added)
    return attended.reshape(x_BHWD.shape)


def _scaled(block: nn.Module, branch: int, y: Tensor) -> Tensor:
    """A branch's output after its layer scale, a module or, in an EVA, a parameter."""
    scale = getattr(block, f"ls{branch}", None)
    if scale is not None:
        return cast(Tensor, scale(y))
    gamma = getattr(block, f"gamma_{branch}")
    return y if gamma is None else gamma * y


def to_windows(x_BHWD: Tensor, size: int) -> Tensor:
    """Cut (B, H, W, D) into (B * windows, size, size, D), zero-padded below and to the right."""
    height, width, dim = x_BHWD.shape[1:]
    x = F.pad(x_BHWD, (0, 0, 0, -width % size, 0, -height % size))
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    windows: Tensor = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size, size, dim)
    return windows


def from_windows(x: Tensor, size: int, height: int, width: int) -> Tensor:
    """The reverse of :func:`to_windows`, padding cut off: (B, height, width, D)."""
    rows, columns = math.ceil(height / size), math.ceil(width / size)
    x = x.reshape(-1, rows, columns, size, size, x.shape[-1]).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(x.shape[0], rows * size, columns * size, -1)[:, :height, :width]


def evenly_spaced(count: int, depth: int) -> tuple[int, ...]:
    """Indices of ``count`` of ``depth`` blocks, evenly spaced, ending with the last.

    ViT-B has 4 of 12: 2, 5, 8, 11 (arXiv:2203.16527, section 3).
    """
    return tuple(depth * (k + 1) // count - 1 for k in range(min(count, depth)))


def load_vitdet(
    artifact: Path,
    *,
    image_size: int,
    window_size: int | None,
    global_blocks: int,
    relative_positions: bool,
    drop_path: float,
    checkpoint_activations: bool,
    frozen: bool = False,
    square: bool = True,
    maps: int = 1,
    outputs: Sequence[int] | None = None,
) -> ViTDet:
    """The ViTDet backbone of a backbone artifact.

    Args:
        artifact: a plain vision transformer, a BEiT or an EVA.
        image_size: the longest side of an image.
        square: images are padded to that size.
        maps: how many maps, of blocks evenly spaced, the last one among them.
        outputs: the blocks instead, for :class:`ViTDet`, as the others.

    Raises:
        UserError: the artifact is none, ``image_size`` is no multiple of its patch size, or it has
            not these blocks.
    """
    vit = load_backbone(artifact, drop_path_rate=drop_path)
    biases, resizing = None, own_resizing(vit)
    if isinstance(vit, Beit):
        biases, vit = position_biases(vit), as_plain(vit, drop_path)
    patch = int(vit.patch_embed.patch_size[0])
    if square and image_size % patch:
        raise UserError(
            "detection protocol: image_size",
            f"{image_size}",
            allowed=f"a multiple of {patch}, the patch size of {artifact}",
        )
    depth = len(vit.blocks)
    if outputs is None:
        outputs = evenly_spaced(maps, depth)
    if len(outputs) < maps or outputs[-1] >= depth:
        raise UserError(
            "detection protocol: pyramid",
            f"{maps} maps of blocks {list(outputs)}, and {artifact} has blocks 0 to {depth - 1}",
        )
    return ViTDet(
        vit,
        window_size=window_size,
        global_blocks=global_blocks,
        relative_grid=math.ceil(image_size / patch) if relative_positions else None,
        checkpoint_activations=checkpoint_activations,
        biases=biases,
        outputs=outputs,
        resizing=resizing,
        frozen=frozen,
    )


def pretraining_normalisation(artifact: Path) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, per channel of pixels in 0 to 1, of a backbone artifact.

    Raises:
        UserError: its config.json does not say.
    """
    try:
        return normalisation(artifact)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"{artifact / CONFIG}: pretrained_cfg",
            "no mean and std of the images that the backbone was pretrained on",
            remedy="add both, per channel of pixels in 0 to 1",
        ) from error


# --- A pretrained ResNet in a detector: its maps, for a feature pyramid (FPN, arXiv:1612.03144)
# Few images go through a detector at a time, so batch norms keep the statistics, scales and shifts
# of pretraining, as is usual (Mask R-CNN, arXiv:1703.06870).


class ResNetMaps(nn.Module):
    """The maps of a timm ResNet's stages, from a finest stride on.

    Args:
        resnet: whose modules this one takes over.
        strides: of the detector's levels; there is a map for each that a stage has.
        checkpoint_activations: compute each stage again in the backward pass.
        frozen: no weight is trained.

    Raises:
        UserError: no stage has the finest stride.
    """

    depth = 4
    """Stages: layers that layer-wise decay tells apart."""

    def __init__(
        self,
        resnet: ResNet,
        strides: list[int],
        *,
        checkpoint_activations: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.frozen = frozen
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
        """Channels of each map."""
        for norm in self._norms():
            norm.requires_grad_(False)
        if frozen:
            self.requires_grad_(False)

    def init_weights(self) -> None:
        """Keep the pretrained weights: mmengine calls this on all parts of a detector."""

    def train(self, mode: bool = True) -> ResNetMaps:
        """Set the mode; batch norms, and all of a frozen backbone, stay in evaluation mode."""
        super().train(mode and not self.frozen)
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
    artifact: Path,
    strides: list[int],
    *,
    drop_path: float,
    checkpoint_activations: bool,
    frozen: bool = False,
) -> ResNetMaps:
    """The maps of a backbone artifact that is a ResNet.

    Raises:
        UserError: the folder holds no backbone artifact, or it lacks the finest stride.
    """
    resnet = load_backbone(artifact, drop_path_rate=drop_path)
    return ResNetMaps(resnet, strides, checkpoint_activations=checkpoint_activations, frozen=frozen)
