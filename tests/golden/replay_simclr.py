"""Replay of google-research/simclr: the loss and its gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from steps.core.distributed import world_size
from steps.methods import MethodContext
from steps.methods.simclr import SimCLR, compared, nt_xent
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.methods.simclr import SimCLRParams
from tests.golden.case import GRADIENT, Case
from tests.golden.ranks import on_ranks


def replay(case: Case) -> None:
    """Every temperature with and without normalisation; several processes; the projector."""
    _check_projector(case)
    options, expected = case.facts["options"], case.facts["expected"]
    seen: set[str] = set()
    for index, temperature in enumerate(options["temperatures"]):
        for normalise in (True, False):
            name = f"temp{index}_norm{int(normalise)}"
            if f"grad/{name}" not in case.tensors:
                continue
            ours = loss_and_gradient(case["input/hidden"], temperature, normalise)
            for recorded in (name, f"{name}_float64"):
                if recorded in expected["by_setting"]:
                    case.number(ours["loss"], expected["by_setting"][recorded], recorded)
                    seen.add(recorded)
            if normalise:
                case.number(ours["loss"], expected["loss"][index], f"loss[{index}]")
            case.equal(ours["logits_ab"], f"output/{name}/logits_ab")
            case.equal(ours["gradient"], f"grad/{name}", GRADIENT)
    ranks = [name for name in expected["by_setting"] if name.startswith("dist")]
    if ranks:
        inputs = [(case[f"{name}/input/hidden"], options["temperatures"][0]) for name in ranks]
        for name, ours in zip(ranks, on_ranks(loss_and_gradient, inputs), strict=True):
            case.number(ours["loss"], expected["by_setting"][name], name)
            case.equal(ours["gradient"], f"grad/{name}", GRADIENT)
        seen.update(ranks)
    assert seen == expected["by_setting"].keys(), "recorded losses that were not compared"


def _check_projector(case: Case) -> None:
    """Our defaults against what the case says of the published projector."""
    facts, width = case.facts["model"]["projection_head_published"], 64
    backbone = create_backbone(
        Backbone(
            scale="golden",
            architecture="vit_tiny_patch16_224",
            image_size=16,
            patch_size=8,
            model_args={"embed_dim": width, "depth": 1, "num_heads": 1},
        )
    )
    projector = SimCLR(SimCLRParams(name="simclr"), backbone, MethodContext()).projector
    layers = [module for module in projector if isinstance(module, nn.Linear)]
    norms = [module for module in projector if isinstance(module, nn.BatchNorm1d)]
    assert facts["hidden_dim"] == "equal to the backbone width"
    assert facts["linear_init"] == "normal std 0.01"
    assert len(layers) == len(norms) == facts["layers"]
    assert [layer.out_features for layer in layers] == [width, width, facts["out_dim"]]
    assert all(layer.bias is None for layer in layers)
    assert sum(isinstance(module, nn.ReLU) for module in projector) == facts["layers"] - 1
    assert [norm.bias.requires_grad for norm in norms] == [True, True, False]
    for layer, norm in zip(layers, norms, strict=True):
        case.number(layer.weight.std().item(), 0.01, "standard deviation of a layer", 0.1)
        case.number(norm.eps, facts["bn_eps"], "eps of batch norm")
        case.number(1 - norm.momentum, facts["bn_decay"], "decay of batch norm")
        assert norm.weight.requires_grad


def loss_and_gradient(hidden: Tensor, temperature: float, normalise: bool = True) -> dict[str, Any]:
    """This process's loss, and the gradient of the mean over processes."""
    hidden = hidden.requires_grad_(True)
    first, second = compared(hidden, normalise=normalise).chunk(2)
    loss, logits_ab = nt_xent(first, second, temperature)
    (loss / world_size()).backward()
    gradient, hidden.grad = hidden.grad, None
    return {"loss": loss.item(), "logits_ab": logits_ab.detach(), "gradient": gradient}


REPLAYS = {"simclr": replay}
