"""A published training recipe beside ours of ImageNet-1K: facts with names that methods share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from steps.params.recipe import Recipe
from tests.golden.facts import Facts

Ours = Callable[[Recipe], Any]
_RULE = re.compile(r"([\d.e-]+)\*(?:sqrt\(batch(?:/(\d+))?\)|batch/(\d+))")


def field(path: str) -> Ours:
    """The param at a path such as ``method.head.hidden_dim``."""

    def read(recipe: Recipe) -> Any:
        found: Any = recipe
        for name in path.split("."):
            found = getattr(found, name)
        return found

    return read


SHARED: dict[str, Ours] = {
    "epochs": field("training.epochs"),
    "batch": field("training.batch_size"),
    "min_lr": field("training.schedule.min_lr"),
    "warmup_epochs": field("training.schedule.warmup_epochs"),
    "momentum": lambda recipe: [recipe.method.momentum, recipe.method.momentum_end],
    "temperature": field("method.temperature"),
    "projector.layers": field("method.projector.layers"),
    "projector.hidden": field("method.projector.hidden_dim"),
    "projector.out": field("method.projector.out_dim"),
    "predictor.layers": field("method.predictor.layers"),
    "predictor.hidden": field("method.predictor.hidden_dim"),
    "predictor.out": field("method.projector.out_dim"),
    "frozen_patch_projection": field("method.frozen_patch_embed"),
    "student_temp": field("method.student_temp"),
    "teacher_temp": field("method.teacher_temp"),
    "warmup_teacher_temp": field("method.warmup_teacher_temp"),
    "warmup_teacher_temp_epochs": field("method.warmup_teacher_temp_epochs"),
    "teacher_patch_temp": field("method.teacher_patch_temp"),
    "warmup_teacher_patch_temp": field("method.warmup_teacher_patch_temp"),
    "center_momentum": field("method.center_momentum"),
    "head.layers": field("method.head.layers"),
    "head.hidden": field("method.head.hidden_dim"),
    "head.bottleneck": field("method.head.bottleneck_dim"),
    "head.out": field("method.head.out_dim"),
    "head.norm_last_layer": field("method.head.norm_last_layer"),
    "freeze_last_layer_epochs": field("method.freeze_last_layer_epochs"),
    "drop_path": field("method.drop_path"),
    "drop_path_uniform": field("method.drop_path_uniform"),
    "local_crops": lambda recipe: sum(view.count for view in recipe.training.views) - 2,
    "koleo_weight": field("method.koleo_weight"),
    "layerwise_decay": field("training.optimizer.layer_decay"),
    "patch_embed_lr_mult": field("training.optimizer.patch_embed_scale"),
    "clip_per_tensor": lambda recipe: clipping(recipe, "tensor"),
    "clip_per_submodule": lambda recipe: clipping(recipe, "submodule"),
}
"""Where our recipes have what the facts name, by the fact's path."""


def merged(recipes: Mapping[str, Any], entry: str) -> dict[str, Any]:
    """An entry with what it takes over from another one ("as"), group by group, less its basis."""
    own = {key: value for key, value in recipes[entry].items() if key != "basis"}
    if "as" not in own:
        return own
    base = merged(recipes, own.pop("as"))
    for key, value in own.items():
        kept = base.get(key)
        base[key] = (
            {**kept, **value} if isinstance(kept, dict) and isinstance(value, dict) else value
        )
    # Some entries give what their base has in the head beside it.
    if "norm_last_layer" in base and "norm_last_layer" in base.get("head", {}):
        base["head"] = {**base["head"], "norm_last_layer": base.pop("norm_last_layer")}
    return base


def compare(facts: Facts, recipe: Recipe, ours: Mapping[str, Ours]) -> None:
    """Every fact that has a shared name or one in ``ours``, and those that are rules in words."""
    for path, read in {**SHARED, **ours}.items():
        if path in facts:
            value = read(recipe)
            theirs = facts[path]
            # Lengths of training that were all published: ours is one of them.
            facts.same(_one_of(value, theirs) if path == "epochs" else value, theirs, path)
    _learning_rate(facts, recipe)
    _optimizer(facts, recipe)
    _weight_decay(facts, recipe)
    if "schedule" in facts:
        assert facts["schedule"].startswith("cosine to 0")
        facts.same(recipe.training.schedule.min_lr, 0.0, "schedule")
    if "momentum_schedule" in facts:
        # All our moving averages are on a cosine that moves at every step.
        facts.same("cosine per iteration", facts["momentum_schedule"], "momentum_schedule")


def clipping(recipe: Recipe, scope: str) -> float:
    """The limit of gradient clipping, 0 where there is none."""
    clip = recipe.training.clip_grad
    assert clip is None or clip.scope == scope
    return 0.0 if clip is None else clip.max_norm


def _one_of(value: float, published: Any) -> Any:
    return published if isinstance(published, list) and value in published else value


def _learning_rate(facts: Facts, recipe: Recipe) -> None:
    """A rule of the batch, at two batches: ``5e-4*batch/256``, or one of two that are joined by
    "or"; or a rate for each backbone.
    """
    ours, published = recipe.training.optimizer, facts["lr"]
    if isinstance(published, dict):
        facts.same(ours.peak_lr(recipe.training.batch_size), published["ViT-B"], "lr")
        return
    batch = recipe.training.batch_size
    rules = [_rule(text) for text in published.split(" or ")]
    agreeing = [rule for rule in rules if abs(rule(batch) / ours.peak_lr(batch) - 1) < 1e-9]
    assert agreeing, (
        f"{facts.name}.lr: ours {ours.peak_lr(batch)} at {batch}, published {published}"
    )
    facts.same(ours.peak_lr(2 * batch), agreeing[0](2 * batch), "lr")


def _rule(text: str) -> Callable[[int], float]:
    match = _RULE.match(text.strip())
    assert match is not None, f"no rule of the batch: {text!r}"
    base = float(match[1])
    if match[3]:
        return lambda batch: base * batch / int(match[3])
    return lambda batch: float(base * (batch / int(match[2] or 1)) ** 0.5)


def _optimizer(facts: Facts, recipe: Recipe) -> None:
    """In words: ``AdamW betas 0.9, 0.98, eps 1e-6``."""
    ours, text = recipe.training.optimizer, facts["optimizer"]
    facts.same(ours.name, text.split()[0].lower(), "optimizer")
    if match := re.search(r"betas ([\d.]+), ([\d.]+)", text):
        facts.same(ours.betas, [float(match[1]), float(match[2])], "optimizer (betas)")
    if match := re.search(r"eps ([\d.e-]+)", text):
        facts.same(ours.eps, float(match[1]), "optimizer (eps)")
    if match := re.search(r"momentum ([\d.]+)", text):
        facts.same(ours.momentum, float(match[1]), "optimizer (momentum)")


def _weight_decay(facts: Facts, recipe: Recipe) -> None:
    """One value, or two with a cosine between them."""
    ours, published = recipe.training.optimizer, facts["weight_decay"]
    moving = isinstance(published, list)
    start, end = published if moving else (published, None)
    facts.same([ours.weight_decay, ours.weight_decay_end], [start, end], "weight_decay")
    if "weight_decay_schedule" in facts:
        name = "cosine" if moving else "constant"
        facts.same(name, facts["weight_decay_schedule"], "weight_decay_schedule")
