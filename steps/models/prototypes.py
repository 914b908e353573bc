"""The projection head of the DINO family: an MLP, a bottleneck on the sphere, prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steps.params.methods.prototypes import PrototypeHead as HeadParams


class WeightNormLinear(nn.Module):
    """A linear layer without bias whose rows are g * v / |v| (arXiv:1602.07868, equation 2)."""

    def __init__(self, in_dim: int, out_dim: int, *, train_length: bool) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=train_length)
        self.weight_v = nn.Parameter(nn.Linear(in_dim, out_dim, bias=False).weight.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, in_dim) to (…, out_dim)."""
        length = self.weight_v.norm(dim=1, keepdim=True)
        return F.linear(inputs, self.weight_v * (self.weight_g / length))


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
                    modules.append(nn.BatchNorm1d(widths[index + 1]))
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

    def forward(self, features_BD: Tensor) -> Tensor:
        """(B, in_dim) to logits over the prototypes (B, out_dim)."""
        bottleneck = F.normalize(self.mlp(features_BD), dim=-1)
        logits: Tensor = self.last_layer(bottleneck)
        return logits
