"""MAE's published fine-tuning beside our protocol of it, value by value."""

from __future__ import annotations

from typing import Any

from steps.params.load import load
from steps.params.protocols import Finetune
from tests.golden.case import Case
from tests.golden.facts import Facts, comment
from tests.processes import REPOSITORY

PROTOCOL = REPOSITORY / "params/protocols/finetune_mae.yaml"
OTHERS = {"vit_large": "For ViT-L", "vit_huge_patch14": "For ViT-H"}
"""What the protocol's comment says of other backbones."""


def compare_finetuning(case: Case) -> None:
    """Every value of ViT-B and of what all have in common; BEiT's are of no protocol of ours."""
    facts = Facts(case, case.facts["facts"], "facts")
    ours = load(PROTOCOL, Finetune)
    method, training = ours.method, ours.training
    optimizer, (view,) = training.optimizer, training.views
    base: dict[str, Any] = {
        "epochs": training.epochs,
        "blr": optimizer.lr,
        "layer_decay": optimizer.layer_decay,
        "drop_path": method.drop_path,
        "batch_total": training.batch_size,
    }
    common: dict[str, Any] = {
        "weight_decay": optimizer.weight_decay,
        "reprob": method.random_erasing,
        "mixup": method.mixup,
        "cutmix": method.cutmix,
        "mixup_prob": method.mix_probability,
        "mixup_switch_prob": method.switch_probability,
        "smoothing": method.label_smoothing,
        "aa": view.rand_augment,
        "warmup_epochs": training.schedule.warmup_epochs,
        "min_lr": training.schedule.min_lr,
        "clip_grad": training.clip_grad,
        "global_pool": method.pooling == "mean",
        "head_init_std": method.head_init_std,
    }
    for name, value in base.items():
        facts.equal(value, f"mae_recipe.vit_base.{name}")
    for name, value in common.items():
        facts.equal(value, f"mae_recipe.common.{name}")
    rule, where = facts["mae_recipe.common.lr_rule"], "mae_recipe.common.lr_rule"
    facts.same(f"blr * total batch / {optimizer.lr_batch}", rule, where)
    where = "mae_recipe.common.test_resize"
    facts.same(f"{ours.crop_fraction * 256:.0f}/256" in facts[where], True, where)
    text = comment(PROTOCOL)
    for name, words in OTHERS.items():
        facts.same(words in text, True, f"mae_recipe.{name}")
        facts.prose(f"mae_recipe.{name}")
    facts.prose("beit_recipe_defaults", "beit_recipes")
    facts.finish()
