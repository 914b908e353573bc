"""AdamW with layer-wise decay of the learning rate over the backbone (arXiv:2203.16527, A.2)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from steps.params.detection import DetectionOptimizer

POSITIONS = ("backbone.pos_embed", "backbone.rotary.rope.freqs")
"""Position table, and learnt frequencies of rotary positions."""
Undecayed = Literal["backbone_norms", "vectors"]


def parameter_groups(
    model: nn.Module,
    depth: int,
    lr: float,
    weight_decay: float,
    layer_decay: float,
    undecayed: Undecayed = "backbone_norms",
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a detector by layer and weight decay.

    Layer 0 is the patch embedding with the position table, layer i + 1 is block i with its
    relative tables, and all that is outside the backbone is layer depth + 1. A layer's learning
    rate is lr * layer_decay ** (depth + 1 - layer). Of a ResNet, layer 0 is the stem and layer
    i + 1 is stage i. The position table has no weight decay. Nor have norms and
    layer scales of the blocks, where biases do (the reference implementation, in mmdet's ViTDet
    project, does the same), or, with ``undecayed`` vectors, all tensors of one axis (BEiT's and
    iBOT's).

    Args:
        model: a detector whose ``model.backbone`` is a :class:`ViTDet` or :class:`ResNetMaps`.
        depth: its number of blocks or stages.

    Returns:
        Groups for a torch optimiser, each with ``name``, ``lr``, ``lr_scale``, ``weight_decay``
        and ``params``; their order is that of the layers.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = decays(name) if undecayed == "backbone_norms" else _is_matrix(name, parameter)
            key = (layer_of(name, depth), decayed)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "name": f"layer_{layer}_{'decay' if decayed else 'no_decay'}",
            "lr": lr * layer_decay ** (depth + 1 - layer),
            "lr_scale": layer_decay ** (depth + 1 - layer),
            "weight_decay": weight_decay if decayed else 0.0,
            "params": parameters,
        }
        for (layer, decayed), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def layer_of(name: str, depth: int) -> int:
    """The layer that a detector's parameter belongs to."""
    room, _, rest = name.partition(".")
    if room != "backbone":
        return depth + 1
    kind, _, rest = rest.partition(".")
    by_layer = ("blocks", "relative", "biases", "layers")
    return int(rest.partition(".")[0]) + 1 if kind in by_layer else 0


def decays(name: str) -> bool:
    """True if weight decay applies to a detector's parameter."""
    if name in POSITIONS:
        return False
    gains = ("norm", ".ls1.", ".ls2.", ".gamma_")
    return not (name.startswith("backbone.blocks.") and any(gain in name for gain in gains))


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name not in POSITIONS


def adamw(model: nn.Module, depth: int, optimizer: DetectionOptimizer) -> torch.optim.AdamW:
    """The optimiser of a detector."""
    groups = parameter_groups(
        model,
        depth,
        optimizer.lr,
        optimizer.weight_decay,
        optimizer.layer_decay,
        optimizer.undecayed,
    )
    beta1, beta2 = optimizer.betas
    return torch.optim.AdamW(groups, lr=optimizer.lr, betas=(beta1, beta2))
