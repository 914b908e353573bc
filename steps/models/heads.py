"""Heads on a backbone: projectors, predictors, and the prototypes of the DINO family."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.models.batch_norm import BatchNorm1d
from steps.params.methods.method import PatchPrototypeHead as PatchHeadParams
from steps.params.methods.method import PrototypeHead as HeadParams

# --- Projectors and predictors: an MLP with batch norm, without biases


LastNorm = Literal["none", "plain", "scale"]


def mlp(
    in_dim: int, hidden_dim: int, out_dim: int, layers: int, *, last_norm: LastNorm
) -> nn.Sequential:
    """Linear layers without bias, with batch norm and ReLU between them.

    As in SimCLR (arXiv:2002.05709, section 4.2) and MoCo v3 (arXiv:2104.02057, section 4.2).

    Args:
        in_dim, hidden_dim, out_dim: widths.
        layers: linear layers.
        last_norm: end with a batch norm that has neither scale nor shift ("plain", MoCo v3), or a
            scale only ("scale", SimCLR), or with the last linear layer ("none").
    """
    widths = [in_dim, *[hidden_dim] * (layers - 1), out_dim]
    modules: list[nn.Module] = []
    for index in range(layers):
        modules.append(nn.Linear(widths[index], widths[index + 1], bias=False))
        if index + 1 < layers:
            modules += [BatchNorm1d(widths[index + 1]), nn.ReLU(inplace=True)]
        elif last_norm != "none":
            norm = BatchNorm1d(out_dim, affine=last_norm == "scale")
            # The reference's last norm learns a scale but no shift.
            if last_norm == "scale":
                norm.bias.requires_grad_(False)
            modules.append(norm)
    return nn.Sequential(*modules)


# --- The projection head of the DINO family: an MLP, a bottleneck on the sphere, prototypes


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows are g * v / |v| (arXiv:1602.07868, equation 2)."""

    def __init__(self, in_dim: int, out_dim: int, *, train_length: bool) -> None:
        super().__init__()
        # A length of 1 whatever the direction, as the reference fills it.
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=train_length)
        # Drawn as torch draws a linear layer, which the reference wraps.
        self.weight_v = nn.Parameter(nn.Linear(in_dim, out_dim, bias=False).weight.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, in_dim) to (…, out_dim)."""
        # torch's own weight norm calls it too. It passes over the weights once, and once for their
        # gradient, where the formula in parts makes a tensor of their size for every operation.
        return F.linear(inputs, torch._weight_norm(self.weight_v, self.weight_g, 0))


class PrototypeHead(nn.Module):
    """MLP with GELU, l2-normalised bottleneck, weight-normalised last layer (DINO, section 3.1)."""

    def __init__(self, in_dim: int, params: HeadParams) -> None:
        super().__init__()
        widths = [in_dim, *[params.hidden_dim] * (params.layers - 1), params.bottleneck_dim]
        modules: list[nn.Module] = []
        for index in range(params.layers):
            modules.append(nn.Linear(widths[index], widths[index + 1]))
            if index + 1 < params.layers:
                if params.use_bn:
                    modules.append(BatchNorm1d(widths[index + 1]))
                modules.append(nn.GELU())
        # A head of one layer is that layer itself, in the reference's names too.
        self.mlp = nn.Sequential(*modules) if params.layers > 1 else modules[0]
        for module in self.mlp.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.last_layer = WeightNormLinear(
            params.bottleneck_dim, params.out_dim, train_length=not params.norm_last_layer
        )

    def project(self, features: Tensor) -> Tensor:
        """(…, in_dim) onto the unit sphere of the bottleneck (…, bottleneck_dim)."""
        return F.normalize(self.mlp(features), dim=-1)

    def forward(self, features_BD: Tensor) -> Tensor:
        """(B, in_dim) to logits over the prototypes (B, out_dim)."""
        logits: Tensor = self.last_layer(self.project(features_BD))
        return logits


class PatchPrototypeHead(PrototypeHead):
    """One projection for class tokens and patches, and prototypes for both or for each.

    iBOT, arXiv:2111.07832, section 3.2.
    """

    def __init__(self, in_dim: int, params: PatchHeadParams, *, shared: bool) -> None:
        super().__init__(in_dim, params)
        self.patch_layer = self.last_layer
        if not shared:
            self.patch_layer = WeightNormLinear(
                params.bottleneck_dim,
                params.patch_out_dim,
                train_length=not params.norm_last_layer,
            )

    def patches(self, features: Tensor) -> Tensor:
        """Patch features (…, in_dim) to logits over the prototypes of patches."""
        logits: Tensor = self.patch_layer(self.project(features))
        return logits

    def share(self, shared: bool) -> None:
        """Go over to prototypes for both (those of patches before) or for each (a copy)."""
        own = self.patch_layer is not self.last_layer
        if shared and own:
            self.last_layer = self.patch_layer
        elif not shared and not own:
            self.patch_layer = copy.deepcopy(self.last_layer)


def head_of(weights: Mapping[str, Tensor], name: str) -> PrototypeHead:
    """The head that a method left beside its backbone, with the sizes that its weights have.

    Args:
        weights: of all heads, as ``Method.heads`` gave them.
        name: of the head, such as ``dino_head``.

    Raises:
        KeyError: there is no such head.
    """
    own = {
        key.removeprefix(f"{name}."): tensor
        for key, tensor in weights.items()
        if key.startswith(f"{name}.")
    }
    if not own:
        raise KeyError(name)
    by_index = {
        int(found.group(1) or 0): tensor
        for key, tensor in own.items()
        if tensor.ndim == 2 and (found := re.fullmatch(r"mlp(?:\.(\d+))?\.weight", key))
    }
    layers = [by_index[index] for index in sorted(by_index)]
    prototypes = own["last_layer.weight_v"]
    head = PrototypeHead(
        layers[0].shape[1],
        HeadParams(
            layers=len(layers),
            hidden_dim=len(layers[0]),
            bottleneck_dim=prototypes.shape[1],
            out_dim=len(prototypes),
            use_bn=any(key.endswith("running_mean") for key in own),
        ),
    )
    head.load_state_dict(own)
    return head
