"""Parameter groups, optimisers and gradient clipping."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer as TorchOptimizer

from steps.command import UserError
from steps.engine.sharding import local, norms
from steps.methods.method import Method
from steps.params.recipe import ClipGrad, Optimizer

Group = dict[str, object]
_AS = {"reg_token": "cls_token", "freqs": "pos_embed"}
"""Registers are learnt tokens: they are decayed if class tokens are. Learnt frequencies of rotary
positions go with position tables."""
_FOR_ANY = frozenset({*_AS.values(), "relative_position_bias_table"})
"""Names that a recipe or protocol may have for any backbone, as one file serves several."""


def parameter_groups(module: nn.Module, params: Optimizer, depth: int) -> list[Group]:
    """Groups by weight decay and by the layer's learning rate.

    With ``params.decay`` "matrices", biases and tensors with one axis are not decayed; nor are
    the names in ``params.undecayed``. Each group carries
    ``lr_scale`` = layer_decay^(depth + 1 - layer), for the patch embedding times
    ``params.patch_embed_scale``, and ``decayed``. Last layers of heads are in groups of their own,
    so that their rate can be set to 0.

    Args:
        module: parameters that take no gradient are left out.
        params: params of the optimiser.
        depth: blocks of the backbone.
    """
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix = parameter.ndim > 1 and not name.endswith(".bias")
        last_name = name.rpartition(".")[2]
        spared = _AS.get(last_name, last_name) in params.undecayed
        decayed = (matrix or params.decay == "all") and not spared
        scale = params.layer_decay ** (depth + 1 - layer_of(name, depth))
        if re.search(r"(?:^|\.)backbone\.patch_embed\.", name):
            scale *= params.patch_embed_scale
        # A rate belongs to a group, and DINO holds last layers still in the first epochs.
        last = ".last_layer." in name
        groups.setdefault((decayed, scale, last), []).append(parameter)
    return [
        {
            "params": parameters,
            "decayed": decayed,
            "lr_scale": scale,
            "weight_decay": params.weight_decay if decayed else 0.0,
        }
        for (decayed, scale, _), parameters in groups.items()
    ]


def check_undecayed(module: nn.Module, params: Optimizer, where: str) -> None:
    """Refuse names in ``params.undecayed`` that would have no effect.

    Args:
        module: what is trained.
        params: params of the optimiser.
        where: the params file.

    Raises:
        UserError: no parameter has such a name.
    """
    last_names = {name.rpartition(".")[2] for name, _ in module.named_parameters()}
    names = {_AS.get(name, name) for name in last_names} | _FOR_ANY
    if unknown := [name for name in params.undecayed if name not in names]:
        raise UserError(
            f"{where}: training.optimizer.undecayed",
            f"{unknown[0]} is the last part of no parameter's name",
            allowed=", ".join(sorted(names)),
        )


def layer_of(name: str, depth: int) -> int:
    """The layer of a parameter: 0 for embeddings, i + 1 for block i, depth + 1 for the rest.

    In a ResNet: 0 for the stem, i for stage ``layer<i>``.
    """
    if stage := re.search(r"(?:^|\.)backbone\.layer(\d)\.", name):
        return int(stage.group(1))
    if block := re.search(r"(?:^|\.)backbone\.blocks\.(\d+)\.", name):
        return int(block.group(1)) + 1
    embeddings = "cls_token|reg_token|mask_token|pos_embed|rope|patch_embed|norm_pre|conv1|bn1"
    if re.search(rf"(?:^|\.)backbone\.({embeddings})\b", name):
        return 0
    # The final norm too: the official code of MAE and BEiT counts it with the head.
    return depth + 1


def build_optimizer(module: nn.Module, params: Optimizer, depth: int, lr: float) -> TorchOptimizer:
    """The optimiser over ``parameter_groups``; ``set_rates`` gives each group its rate."""
    groups = parameter_groups(module, params, depth)
    if params.name == "adamw":
        betas = (params.betas[0], params.betas[1])
        # Fused: one pass over each weight. In a small network the update is a large part of a step.
        return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=params.eps, fused=True)
    if params.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=params.momentum, fused=True)
    return LARS(groups, lr=lr, momentum=params.momentum, trust=params.trust_coefficient)


def set_rates(
    optimizer: TorchOptimizer,
    lr: float,
    weight_decay: float,
    held: Iterable[nn.Parameter] = (),
) -> None:
    """Set a step's learning rate and weight decay, scaled for each group.

    Args:
        optimizer: over ``parameter_groups``.
        lr, weight_decay: values of the step.
        held: last layers of heads, in groups of their own, whose rate is 0 in this step; their
            moments are still updated.
    """
    still = {id(parameter) for parameter in held}
    for group in optimizer.param_groups:
        moves = id(group["params"][0]) not in still
        group["lr"] = lr * group["lr_scale"] if moves else 0.0
        group["weight_decay"] = weight_decay if group["decayed"] else 0.0


class LARS(TorchOptimizer):
    """Layer-wise adaptive rate scaling (arXiv:1708.03888), as MAE's and MoCo v3's probes use it.

    g <- g + wd * w; g <- trust * |w| / |g| * g; m <- momentum * m + g; w <- w - lr * m. Tensors
    with one axis are neither scaled nor decayed.
    """

    def __init__(self, params: Iterable[Group], lr: float, momentum: float, trust: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update; parameters without a gradient stay as they are."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [parameter for parameter in moving if parameter.ndim > 1]
            decay = group["weight_decay"]
            updates = {each: each.grad.add(each, alpha=decay) for each in matrices}
            lengths, sizes = norms(matrices), norms([*updates.values()])
            for parameter, length, size in zip(matrices, lengths, sizes, strict=True):
                adapted = group["trust"] * length / size
                # A weight of zeros would have a factor of zero, and never move.
                both = (length > 0) & (size > 0)
                local(updates[parameter]).mul_(torch.where(both, adapted, torch.ones_like(adapted)))
            for parameter in moving:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                update = updates.get(parameter, parameter.grad)
                state["momentum"].mul_(group["momentum"]).add_(update)
                parameter.sub_(state["momentum"], alpha=group["lr"])


def clip_parts(method: Method, clip: ClipGrad) -> None:
    """Clip the gradients of a method: of all together, or of each of its submodules by itself."""
    if clip.scope != "submodule":
        clip_gradients(method.parameters(), clip)
        return
    for part in method.submodules():
        clip_gradients(part.parameters(), clip)
    # Parameters of no submodule, such as a mask token, are one more part.
    clip_gradients(method.parameters(recurse=False), clip)


def clip_gradients(parameters: Iterable[nn.Parameter], clip: ClipGrad) -> None:
    """Scale gradients whose 2-norm is above ``max_norm``: coefficient max_norm / (norm + 1e-6).

    The norm is taken per tensor with scope "tensor", else over all ``parameters`` together.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    sizes = torch.stack(norms(gradients))
    if clip.scope != "tensor":
        sizes = sizes.norm().expand(len(gradients))
    # The epsilon is that of clip_grad_norm_, which the references call.
    factors = (clip.max_norm / (sizes + 1e-6)).clamp(max=1.0)
    scaled = list(zip(gradients, factors.unbind(), strict=True))
    if gradients[0].device.type == "cpu":
        # Most factors are 1. On a GPU the host would have to wait to know which.
        scaled = [(gradient, factor) for gradient, factor in scaled if factor != 1]
    if scaled:
        torch._foreach_mul_(
            [local(gradient) for gradient, _ in scaled], [factor for _, factor in scaled]
        )
