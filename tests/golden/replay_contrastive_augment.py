"""The published views and recipes of contrastive methods, value by value against ours.

A method of the union that has facts must have ``params/recipes/imagenet/<method>.yaml`` and an
entry in ``METHODS``. A published variant (another backbone) is compared with
``params/recipes/imagenet/<entry>.yaml`` where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any

from steps.params.recipe import Recipe
from tests.golden import published_recipe, published_views
from tests.golden.case import Case
from tests.golden.facts import RECIPES, Facts, comment, known_methods, recipe, recipe_file
from tests.golden.published_recipe import Ours, field
from tests.golden.published_views import Wanted


def replay(case: Case) -> None:
    """Every fact of every method that there is; the others are named."""
    known = known_methods()
    for name in sorted(case.facts["augmentation"]):
        if name not in known:
            print(f"{case.facts['case']}: no method {name} yet, its facts are not compared")
            continue
        assert name in METHODS, f"{name}: facts are published, but METHODS has no entry for it"
        _method(case, name, METHODS[name])
    left = sorted(
        case.facts["recipes"].keys() - {entry for m in METHODS.values() for entry in m.all}
    )
    assert not left, f"published recipes that METHODS does not know: {left}"


@dataclass(frozen=True)
class Published:
    """Which facts are a method's, and where our recipe has those without a shared name."""

    main: str
    """The entry that ``imagenet/<method>.yaml`` is held to."""
    views: Callable[[Facts, Mapping[str, Any]], list[Wanted]]
    """From the facts of the augmentation and of the recipe."""
    kernel: Any = None
    """Of the blur."""
    masks: Callable[[Facts, Any], None] = lambda facts, method: None
    """Compares what the facts of the augmentation say of masks with our method's params."""
    variants: tuple[str, ...] = ()
    ours: Mapping[str, Ours] = default(default_factory=dict)
    says: Mapping[str, str] = default(default_factory=dict)
    """Facts that have no param of their own: what the head comment must say, {} their value."""
    remarks: tuple[str, ...] = ()
    """Facts of the recipe that are remarks, or of what we do not run."""

    @property
    def all(self) -> tuple[str, ...]:
        """All entries of the facts that are this method's."""
        return (self.main, *self.variants)


def _method(case: Case, name: str, published: Published) -> None:
    files = {published.main: recipe_file(name)}
    for variant in published.variants:
        if (RECIPES / f"{variant}.yaml").is_file():
            files[variant] = recipe_file(variant)
    for entry, path in files.items():
        before = case.compared
        ours = recipe(path.stem)
        assert ours.method.name == name
        content = published_recipe.merged(case.facts["recipes"], entry)
        facts = Facts(case, content, entry)
        published_recipe.compare(facts, ours, published.ours)
        for key, template in published.says.items():
            text = template.format(facts[key])
            case.compared += 1
            assert text in comment(path), f"{path}: the head comment does not say {text!r} ({key})"
        facts.prose(*published.remarks)
        facts.finish()
        given = case.facts["augmentation"][name]
        given = {key: value for key, value in given.items() if key != "basis"}
        augmentation = Facts(case, given, f"augmentation.{name}")
        wanted = published.views(augmentation, content)
        published_views.compare(augmentation, ours, wanted, published.kernel)
        published.masks(augmentation, ours.method)
        augmentation.finish()
        print(f"{path.name}: {case.compared - before} comparisons with {entry}")
    others = [variant for variant in published.variants if variant not in files]
    if others:
        print(f"{name}: no recipes of their own, not compared: {', '.join(others)}")


def _simclr(facts: Facts, recipe: Mapping[str, Any]) -> list[Wanted]:
    assert facts["both_views_same"]
    assert facts["solarize"] is None
    assert facts["blur.kernel"] == "image height // 10, made odd"
    assert facts["color_jitter.order"] == "random order of the four"
    # Ours are the second version's strengths on large images; brightness multiplies.
    facts.same(facts["color_jitter.strength_imagenet"], 1.0, "color_jitter.strength_imagenet")
    facts.prose("color_jitter.brightness_kind", "color_jitter.strength_small_images")
    facts.prose("blur.small_images")
    view = Wanted(facts["crop_size"], facts["crop_area"], blur=facts["blur.probability"])
    return [view] * facts["views"]


def _mocov3(facts: Facts, recipe: Mapping[str, Any]) -> list[Wanted]:
    facts.prose("crop_area_resnet")  # the head comment has it
    return [
        Wanted(
            facts["crop_size"],
            facts["crop_area_vit"],
            blur=facts[f"{view}.blur_probability"],
            solarize=facts[f"{view}.solarize_probability"],
        )
        for view in ("view1", "view2")
    ]


def _multicrop(area: str, local_area: str) -> Callable[[Facts, Mapping[str, Any]], list[Wanted]]:
    """The views of the DINO family; their areas under these names."""

    def views(facts: Facts, recipe: Mapping[str, Any]) -> list[Wanted]:
        blurs, solarizes = (facts[f"global.{k}_probability"] for k in ("blur", "solarize"))
        size, crop = facts["global.size"], facts[f"global.{area}"]
        pair = zip(blurs, solarizes, strict=True)
        first = [Wanted(size, crop, blur, solarize) for blur, solarize in pair]
        assert len(first) == facts["global.number"]
        local = Wanted(
            recipe.get("local_size", facts["local.size"]),
            facts[f"local.{local_area}"],
            facts["local.blur_probability"],
            facts["local.solarize_probability"],
        )
        for name in ("number", "number_default", "number_published", "number_published_long_runs"):
            facts.prose(f"local.{name}")  # as "local_crops" of the recipes
        facts.prose("global.area_default", "local.area_default", "local.size_patch14")
        return [*first, *[local] * recipe["local_crops"]]

    return views


def _ibot_masks(facts: Facts, method: Any) -> None:
    low, high = method.masks.ratios
    facts.same(method.masks.variances[0], 0.0, "masks.variances")
    facts.equal(
        f"drawn per crop: one of [{low:g}, {high:g}], "
        f"the second varied by +-{method.masks.variances[1]:g}",
        "masks.block.ratio",
    )
    facts.equal([method.masks.min_aspect, 1 / method.masks.min_aspect], "masks.block.aspect")
    facts.same(method.masks.shape, "block", "masks.shape")
    # How blocks are placed is held to the reference's masks by golden cases.
    facts.prose("masks.block", "masks.random", "masks.masks_drawn_for_local_crops_too")


def _dinov2_masks(facts: Facts, method: Any) -> None:
    low, high = method.masks.ratios
    assert f"int(2*batch*{method.masks.probability:g})" in facts["masks.rows_masked"]
    assert f"points from {low:g} to {high:g}" in facts["masks.ratio"]
    facts.case.compared += 2
    facts.prose("masks.blocks")  # held to the reference's masks by golden cases


def _clip(facts: Facts, recipe: Mapping[str, Any]) -> list[Wanted]:
    facts.prose("crop", "evaluation")
    return [Wanted(224, facts["crop_area_open_reimplementation"])]


def _clip_warmup(recipe: Recipe) -> Any:
    """In steps of the published set of 400 million pairs."""
    training: Any = recipe.training
    return round(training.schedule.warmup_epochs * 400_000_000 / training.batch_size, -1)


def _dinov2_epochs(path: str) -> Ours:
    """A length in the epochs of the reference, which are of 1,250 steps whatever the data."""

    def read(recipe: Recipe) -> float:
        steps_per_epoch = _IMAGENET_IMAGES // recipe.training.batch_size
        return float(field(path)(recipe) * steps_per_epoch / _DINOV2_EPOCH)

    return read


_IMAGENET_IMAGES = 1_281_167
_DINOV2_EPOCH = 1250


METHODS: dict[str, Published] = {
    "simclr": Published(
        main="simclr_resnet50",
        views=_simclr,
        kernel="tenth",
        ours={
            "projection.layers": field("method.projector.layers"),
            "projection.out": field("method.projector.out_dim"),
            "projection.hidden": lambda recipe: (
                "backbone width" if recipe.method.projector.hidden_dim is None else "another"
            ),
            # All our batch norms take the statistics of the global batch.
            "sync_bn": lambda recipe: True,
        },
        remarks=("weight_decay_first_version", "projection.layers_first_version"),
    ),
    "mocov3": Published(
        main="mocov3_vit_small_base",
        views=_mocov3,
        variants=("mocov3_vit_large",),
        says={"batch_one_node_small": "batch_size {}", "heads_vit_small": "{} heads"},
        remarks=("extra",),
    ),
    "dino": Published(
        main="dino_vit_base_published",
        views=_multicrop("area_published_long_runs", "area_published_long_runs"),
        variants=("dino_defaults", "dino_vit_small_boosted", "dino_vit_small_published"),
    ),
    "ibot": Published(
        main="ibot_vit_base",
        views=_multicrop("area_published_multicrop", "area_published"),
        masks=_ibot_masks,
        variants=("ibot_vit_small", "ibot_vit_large"),
        ours={
            "head.shared": field("method.head.shared"),
            "lambda1": field("method.dino_weight"),
            "lambda2": field("method.ibot_weight"),
        },
    ),
    "dinov2": Published(
        main="dinov2_vit_large_imagenet1k",
        views=_multicrop("area", "area"),
        masks=_dinov2_masks,
        variants=("dinov2_vit_large_imagenet22k",),
        ours={
            "centering": lambda recipe: {
                "centering": "softmax centering", "sinkhorn_knopp": "sinkhorn_knopp"
            }[recipe.method.centering],
            **{
                fact: _dinov2_epochs(path)
                for fact, path in (
                    ("epochs", "training.epochs"),
                    ("warmup_epochs", "training.schedule.warmup_epochs"),
                    ("warmup_teacher_temp_epochs", "method.warmup_teacher_temp_epochs"),
                    ("freeze_last_layer_epochs", "method.freeze_last_layer_epochs"),
                )
            },
            "head.shared": lambda recipe: recipe.method.patch_head is None,
            "head.ibot_bottleneck": field("method.patch_head.bottleneck_dim"),
        },
        remarks=(
            "patch", "iterations_per_epoch", "layer_scale_init", "ffn", "local_size", "reported"
        ),
    ),
    "clip": Published(
        main="clip",
        views=_clip,
        ours={
            "warmup_iterations": _clip_warmup,
            "temperature_init": lambda recipe: 1 / math.exp(recipe.method.loss.logit_scale),
            "scale_max": lambda recipe: math.exp(recipe.method.loss.logit_scale_clamp[1]),
            "context_length": field("method.text_tower.context_length"),
        },
        # The recipe reads CLIP's own vocabulary from a file; its comment has the size.
        says={"vocabulary": "size: {}"},
    ),
}  # fmt: skip

REPLAYS = {"facts": replay}
