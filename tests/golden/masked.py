"""What the replays of MAE and of what is built on its code share: network, schedule, steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.optim import Optimizer as TorchOptimizer

from steps.core.schedules import Progress, learning_rate
from steps.engine.optimizers import clip_gradients, set_rates
from steps.methods import Method
from steps.official.names import from_official
from steps.params.methods.method import Decoder
from steps.params.recipe import ClipGrad, Optimizer, Schedule
from tests.golden.case import LOSS, Case
from tests.golden.networks import vision_transformer
from tests.golden.training import (
    check_gradients,
    check_groups,
    check_learning_rates,
    check_weights,
)


def encoder(case: Case, **arguments: Any) -> VisionTransformer:
    """The recorded encoder; ``arguments`` are further ones of the timm model."""
    model = case.facts["model"]
    assert model.get("drop_path", 0.0) == 0, "recorded with drop path, but without its draws"
    return vision_transformer(model, in_chans=model["in_chans"], **arguments)


def decoder(case: Case) -> Decoder:
    """The recorded decoder's sizes."""
    model = case.facts["model"]
    return Decoder(
        embed_dim=model["decoder_embed_dim"],
        depth=model["decoder_depth"],
        num_heads=model["decoder_num_heads"],
        mlp_ratio=model["mlp_ratio"],
    )


def load(case: Case, method: Method) -> None:
    """The recorded initial weights, after a comparison of the tables, which are not learnt."""
    init = from_official(case.facts["method"], case.group("init/"))
    for name, table in method.state_dict().items():
        if "pos_embed" in name and name in init:
            case.close(table, init[name], f"init/{name}", LOSS)
    method.load_state_dict(init)
    for module in method.modules():
        if isinstance(module, nn.LayerNorm):
            case.number(module.eps, case.facts["model"]["norm_eps"], "eps of a norm")


def known(found: Mapping[str, Any], *names: str) -> None:
    """Fail by name on what a case records and this replay does not know."""
    unknown = sorted(set(found) - set(names))
    assert not unknown, f"recorded, but not replayed: {unknown}"


@dataclass
class Run:
    """The recorded steps: rates before each, gradients, clipping and update after its loss."""

    case: Case
    method: Method
    optimizer: TorchOptimizer
    params: Optimizer
    schedule: Schedule
    clip: ClipGrad | None

    @staticmethod
    def of(case: Case, method: Method, scope: str) -> Run:
        """Compare optimiser and schedule; ``scope`` is what the reference clips by."""
        facts, arguments = case.facts, case.facts["schedule"]["args"]
        params = Optimizer(
            name="adamw",
            lr=arguments["blr"],
            betas=facts["optimizer"]["betas"],
            eps=facts["optimizer"]["eps"],
            weight_decay=arguments["weight_decay"],
        )
        peak = params.peak_lr(arguments["effective_batch_size"])
        case.number(peak, arguments["lr"], "peak lr", 1e-9)
        schedule = Schedule(
            warmup_epochs=float(arguments["warmup_epochs"]), min_lr=arguments["min_lr"]
        )
        check_learning_rates(case, "schedule", schedule, peak)
        optimizer = check_groups(case, method, params, facts["model"]["depth"])
        limit = facts["optimizer"]["clip_grad"]
        clip = None
        if limit:
            clip = ClipGrad.model_validate({"max_norm": limit, "scope": scope})
        return Run(case, method, optimizer, params, schedule, clip)

    def steps(self) -> Iterator[tuple[int, Progress]]:
        """Each step's number and place in the schedule, its rates compared and set."""
        expected, arguments = self.case.facts["expected"], self.case.facts["schedule"]["args"]
        per_epoch = arguments["iterations_per_epoch"]
        for step in range(self.case.facts["steps"]):
            progress = Progress(
                arguments["first_iteration"] + step, per_epoch, arguments["epochs"] * per_epoch
            )
            lr = learning_rate(progress, self.schedule, arguments["lr"])
            decay = self.params.weight_decay
            self.case.number(lr, expected["lr"][step], f"lr of step {step}", 1e-9)
            self.case.number(decay, expected["weight_decay"][step], f"weight decay of step {step}")
            set_rates(self.optimizer, lr, decay)
            yield step, progress
            self.method.after_step(progress)
        zero = self.case.facts.get("zero_gradient_tensors", [])
        check_weights(self.case, self.method.state_dict(), zero)

    def update(self, step: int, loss: Tensor) -> list[float]:
        """Compare the loss and, of the first step, gradients; clip and step.

        Returns:
            The 2-norm of each parameter's gradient before clipping.
        """
        facts = self.case.facts
        self.case.number(loss.item(), facts["expected"]["loss"][step], f"loss {step}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            check_gradients(self.case, self.method, facts.get("zero_gradient_tensors", []))
        parameters = list(self.method.parameters())
        norms = [p.grad.norm().item() for p in parameters if p.grad is not None]
        if self.clip is not None:
            clip_gradients(parameters, self.clip)
        self.optimizer.step()
        return norms
