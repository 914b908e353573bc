"""The published facts of the supervised baseline, value by value against our recipe of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch.nn import functional as F

from steps.core.schedules import Progress
from steps.methods import Batch, MethodContext
from steps.methods.supervised import Supervised, erase, mix
from steps.models.backbones import create_backbone
from steps.params.backbone import Backbone
from steps.params.load import load
from tests.golden.case import Case
from tests.golden.facts import Facts, comment, recipe, recipe_file
from tests.processes import REPOSITORY

TIMM = {
    "tiny": "vit_tiny_patch16_224",
    "small": "vit_small_patch16_224",
    "base": "vit_base_patch16_224",
}
BACKBONES = {"small": "vit_s16", "base": "vit_b16"}
PROSE = ("source", "notes", "steps", "tensors", "method", "case")


def replay(case: Case) -> None:
    """Model, recipe and scores; the later recipe is not ours."""
    facts = Facts(case, case.facts, "deit")
    facts.prose(*PROSE)
    _model(facts)
    _optimisation(facts)
    _regularisation(facts)
    text = comment(recipe_file("supervised"))
    for size, score in facts["reported_top1"].items():
        facts.same(f"{score} %" in text, True, f"reported_top1.{size}")
    # Another run, of 800 epochs: nothing of it stands in our recipe.
    facts.prose("later_recipe")
    facts.finish()


def _model(facts: Facts) -> None:
    """timm's architectures, and our params of those that we have."""
    for size, (width, depth, heads) in facts["model.sizes"].items():
        with torch.device("meta"):
            vits = [timm.create_model(TIMM[size], num_classes=0)]
            if size in BACKBONES:
                path = REPOSITORY / f"params/backbones/{BACKBONES[size]}.yaml"
                vits.append(create_backbone(load(path, Backbone)))
        for vit in vits:
            ours = [vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads]
            facts.same(ours, [width, depth, heads], f"model.sizes.{size}")
            facts.equal(vit.patch_embed.patch_size[0], "model.patch")
            facts.equal(vit.patch_embed.img_size[0], "model.img_size")
            facts.equal(vit.norm.eps, "model.norm_eps")
            learnt = "learned" if vit.pos_embed.requires_grad else "fixed"
            facts.equal(learnt, "model.pos_embed")
    facts.prose("model.sizes_meaning")
    poolings = {"cls": "class token", "mean": "mean patch token"}
    facts.equal(poolings[recipe("supervised").method.pooling], "model.pool")


def _optimisation(facts: Facts) -> None:
    training = recipe("supervised").training
    assert training is not None
    ours = training.optimizer
    facts.equal(training.epochs, "recipe.epochs")
    facts.equal(training.batch_size, "recipe.batch")
    facts.equal(_named({"adamw": "AdamW eps 1e-8"}, ours.name), "recipe.optimizer")
    facts.same(ours.eps, float(facts["recipe.optimizer"].split()[-1]), "recipe.optimizer (eps)")
    rate, _, rule = facts["recipe.lr"].partition("*batch/")
    for batch in (training.batch_size, 2 * training.batch_size):
        facts.same(ours.peak_lr(batch), float(rate) * batch / int(rule), "recipe.lr")
    facts.equal(training.schedule.min_lr, "recipe.min_lr")
    facts.equal(training.schedule.warmup_epochs, "recipe.warmup_epochs")
    facts.equal(training.schedule.warmup_lr, "recipe.warmup_lr")
    facts.equal(ours.weight_decay, "recipe.weight_decay")
    facts.equal(_undecayed(ours.decay, ours.undecayed), "recipe.no_decay")
    facts.equal(training.clip_grad, "recipe.clip_grad")
    # Left out, as the head of the recipe says.
    text = comment(recipe_file("supervised"))
    for path, words in LEFT_OUT.items():
        facts.same(words in text, True, path)
        facts.prose(path)


LEFT_OUT = {
    "recipe.schedule": "the cosine moves at every step, where theirs moves at every epoch",
    "recipe.repeated_augmentation": "repeated augmentation (three copies of an image in a batch)",
    "recipe.ema_decay": "the moving average of the weights",
}
"""What our recipe has otherwise, and what its comment says of it."""


def _undecayed(decay: str, names: list[str]) -> str:
    assert decay == "matrices"
    assert sorted(names) == ["cls_token", "pos_embed"]
    return "one-axis parameters, biases, positions, class token"


def _regularisation(facts: Facts) -> None:
    ours = recipe("supervised")
    assert ours.training is not None
    method, (view,) = ours.method, ours.training.views
    named: dict[str, Callable[[Any], Any]] = {
        "label_smoothing": lambda params: params.label_smoothing,
        "drop_path": lambda params: params.drop_path,
        "mixup_alpha": lambda params: params.mixup,
        "cutmix_alpha": lambda params: params.cutmix,
        "mix_probability": lambda params: params.mix_probability,
        "switch_to_cutmix": lambda params: params.switch_probability,
        "random_erasing": lambda params: params.random_erasing,
    }
    for name, read in named.items():
        facts.equal(read(method), f"recipe.{name}")
    augment = {"rand-m9-mstd0.5-inc1": "magnitude 9, std 0.5, increasing variant"}
    facts.equal(_named(augment, view.rand_augment), "recipe.rand_augment")
    assert view.jitter is None, "not applied together with the automatic policy"
    facts.prose("recipe.color_jitter")
    facts.equal(view.interpolation, "recipe.interpolation")
    ratio = facts["recipe.eval_crop_ratio"]
    crop = f"a centre crop of {ratio}" in comment(recipe_file("supervised"))
    facts.same(crop, True, "recipe.eval_crop_ratio")
    _behaviour(facts)


def _behaviour(facts: Facts) -> None:
    """What the method does, where no param says it."""
    params = recipe("supervised").method
    small = {"embed_dim": 24, "depth": 3, "num_heads": 2}
    backbone = Backbone(
        scale="test",
        architecture=TIMM["tiny"],
        image_size=32,
        patch_size=8,
        model_args=small,
    )
    method = Supervised(params, create_backbone(backbone), MethodContext(num_classes=5))
    rates = [block.drop_path1.rate for block in method.backbone.blocks]
    linear = [params.drop_path * index / 2 for index in range(3)]
    close = all(map(math.isclose, rates, linear))
    rule = "linear from 0 to the rate over depth" if close else f"{rates}"
    facts.equal(rule, "recipe.drop_path_rule")
    dropout = {part.p for part in method.modules() if isinstance(part, torch.nn.Dropout)}
    facts.equal(max(dropout, default=0.0), "recipe.dropout")
    draws = method.sample(64, torch.Generator().manual_seed(0))
    mixed = {len(draws[name].unique(dim=0)) for name in ("mix", "mix_box")}
    facts.equal("whole batch" if mixed == {1} else "each sample", "recipe.mix_mode")
    images, labels = torch.zeros(64, 3, 32, 32), torch.arange(64) % 5
    erased = erase(images, draws["erase"], draws["erase_seed"])
    values = erased[erased != 0]
    noise = len(values) > 0 and len(values.unique()) > 0.99 * len(values)
    facts.equal("pixel noise" if noise else "one value", "recipe.erasing_mode")
    images, targets = mix(
        erased, method.targets(labels), draws["mix"], draws["partner"], draws["mix_box"]
    )
    loss = method(Batch([torch.zeros(64, 3, 32, 32)], labels), draws, Progress(0, 1, 1))["loss"]
    wanted = F.cross_entropy(method.logits(images, draws["keep"]), targets)
    soft = math.isclose(loss.item(), wanted.item(), rel_tol=1e-5)
    name = "soft-target cross entropy on mixed labels" if soft else f"{loss}, not {wanted}"
    facts.equal(name, "recipe.loss")


def _named(names: dict[str, str], ours: str | None) -> str:
    assert ours in names, f"{ours!r} is none of those that were published"
    return names[ours]


REPLAYS = {"supervised baseline (facts)": replay}
