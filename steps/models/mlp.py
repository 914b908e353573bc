"""Projectors and predictors: an MLP with batch norm, without biases."""

from __future__ import annotations

from typing import Literal

from torch import nn

from steps.models.batch_norm import BatchNorm1d

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
            scale alone ("scale", SimCLR), or with the last linear layer ("none").
    """
    widths = [in_dim, *[hidden_dim] * (layers - 1), out_dim]
    modules: list[nn.Module] = []
    for index in range(layers):
        modules.append(nn.Linear(widths[index], widths[index + 1], bias=False))
        if index + 1 < layers:
            modules += [BatchNorm1d(widths[index + 1]), nn.ReLU(inplace=True)]
        elif last_norm != "none":
            norm = BatchNorm1d(out_dim, affine=last_norm == "scale")
            if last_norm == "scale":
                norm.bias.requires_grad_(False)
            modules.append(norm)
    return nn.Sequential(*modules)
