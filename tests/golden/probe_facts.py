"""The published facts of the linear probes beside our protocols."""

from __future__ import annotations

import math
from typing import Any

from steps.evaluation.probes import grid
from steps.params.load import load
from steps.params.protocols import LogReg, Probe
from tests.golden.case import Case
from tests.golden.facts import Facts, comment
from tests.processes import REPOSITORY

FOLDER = REPOSITORY / "params/protocols"


def check_facts(case: Case) -> None:
    """Each part's facts against the protocol file of that name."""
    checks = {"mae": _mae, "dino": _dino, "dinov2": _dinov2}
    for part, content in case.facts["parts"].items():
        facts = Facts(case, content["facts"], f"{part}.facts")
        ours = load(FOLDER / f"linear_{part}.yaml", Probe)
        update = content["optimizer"]
        facts.same(ours.optimizer, update["name"].lower(), "optimizer.name")
        facts.same(ours.momentum, update["momentum"], "optimizer.momentum")
        if "weight_decay" in update:
            facts.same(ours.weight_decay, update["weight_decay"], "optimizer.weight_decay")
        if "trust_coefficient" in update:
            facts.same(ours.trust_coefficient, update["trust_coefficient"], "optimizer.trust")
        checks[part](facts, ours)
        facts.finish()


def _mae(facts: Facts, ours: Probe) -> None:
    (rate,) = ours.lr
    for key, value in {
        "epochs": ours.epochs,
        "blr": rate,
        "batch_total": ours.batch_size,
        "lr": rate * ours.batch_size / 256,
        "weight_decay": ours.weight_decay,
        "warmup_epochs": ours.schedule.warmup_epochs,
        "min_lr": ours.schedule.min_lr,
    }.items():
        facts.equal(value, f"vit_base.{key}")
    text = comment(FOLDER / "linear_mae.yaml")
    epochs = facts["vit_large_and_huge_epochs"]
    facts.same(f"For ViT-L and ViT-H: epochs {epochs}" in text, True, "epochs in the comment")
    facts.same((ours.blocks, ours.poolings), ([1], ["cls"]), "feature")
    facts.same((ours.batch_norm, ours.init), (True, "truncated"), "head")
    facts.prose("feature", "augmentation", "head_init")


def _dino(facts: Facts, ours: Probe) -> None:
    facts.equal(ours.epochs, "epochs")
    facts.equal(ours.lr[0], "lr")
    facts.equal(ours.max_batch_per_device, "batch_per_gpu")
    facts.equal(ours.blocks[0], "vit_base.n_last_blocks")
    facts.equal(ours.poolings[0] == "cls_mean_interleaved", "vit_base.avgpool")
    text, small = comment(FOLDER / "linear_dino.yaml"), facts["vit_small.n_last_blocks"]
    stated = f"For ViT-S: blocks [{small}], poolings [cls]" in text
    facts.same(stated, not facts["vit_small.avgpool"], "ViT-S in the comment")
    facts.same((ours.rate_changes, ours.schedule.min_lr), ("epoch", 0.0), "schedule")
    facts.same(ours.init, "normal", "head_init")
    facts.same(ours.view.interpolation, "bilinear", "train_transform")
    facts.same(ours.crop_fraction, 224 / 256, "val_transform")
    facts.prose("lr_rule", "scheduler", "head_init", "train_transform", "val_transform")
    facts.prose("reported", "ibot", "mocov3")


def _dinov2(facts: Facts, ours: Probe) -> None:
    facts.equal(ours.lr, "learning_rates")
    facts.equal(ours.blocks, "n_last_blocks")
    facts.equal([pooling == "cls_mean" for pooling in ours.poolings], "avgpool")
    heads = grid(ours.blocks, ours.poolings, ours.lr)
    facts.equal(len(heads), "heads")
    facts.same(len({head.name for head in heads}), len(heads), "our names of heads")
    facts.equal(ours.epochs, "epochs")
    facts.equal(ours.epoch_length, "epoch_length")
    facts.equal(ours.max_batch_per_device, "batch_per_gpu")
    facts.same((ours.rate_changes, ours.schedule.min_lr), ("step", 0.0), "schedule")
    collisions = facts["head_name_collisions_at_default_batch"]
    for devices, counts in collisions.items():
        batch = int(devices.removesuffix("_gpu")) * ours.max_batch_per_device
        distinct = len({f"{lr * batch / 256:.5f}" for lr in ours.lr})
        facts.same(distinct, counts["distinct_names"], f"names on {devices}")
        facts.same(len(ours.lr), counts["of"], f"rates on {devices}")
    _logreg(facts, load(FOLDER / "logreg.yaml", LogReg))
    facts.prose("lr_rule", "scheduler", "sampler")


def _logreg(facts: Facts, ours: LogReg) -> None:
    steps: list[Any] = [math.log10(b / a) for a, b in zip(ours.c, ours.c[1:], strict=False)]
    even = all(math.isclose(step, steps[0], rel_tol=1e-6) for step in steps)
    stated = f"{len(ours.c)} values, log-spaced from {ours.c[0]:.0e} to {ours.c[-1]:.0e}"
    stated = stated.replace("e-0", "e-").replace("e+0", "e")
    facts.same((even, stated), (True, facts["log_regression.C"]), "log_regression.C")
    facts.equal(ours.max_iterations, "log_regression.max_iter")
    facts.equal(ours.tolerance, "log_regression.tol")
    facts.same(ours.poolings, ["cls"], "log_regression: poolings")
    facts.prose("log_regression.linesearch_max_iter", "log_regression.dtype")
    facts.prose("log_regression.solver", "log_regression.features")
