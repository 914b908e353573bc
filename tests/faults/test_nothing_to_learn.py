"""Options that leave a method nothing to learn are refused before any work: masks that hide
nothing or everything, and batches of one where a method compares images or takes statistics."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from steps.command import UserError
from steps.evaluation.linear import split_held_out
from steps.models.masks import (
    block_generator,
    sample_blocks,
    sample_ratio_masks,
    sample_spread_blocks,
)
from steps.params.backbone import Backbone
from steps.params.fit import check_backbone
from steps.params.load import load, validate
from steps.params.masks import BlockMasks, RatioMasks
from steps.params.methods.dinov2 import DINOv2Params
from steps.params.methods.dinov2 import Masks as SpreadMasks
from steps.params.recipe import Recipe
from steps.params.tokenizers import TokenizerRecipe
from tests.scenery import BACKBONE, RECIPES, RESNET, TOKENIZERS, Scenery

PATCHES = (BACKBONE["image_size"] // BACKBONE["patch_size"]) ** 2  # 16


def changed(content: dict[str, Any], keys: str, value: Any) -> dict[str, Any]:
    """Params with another value at a dotted key."""
    content = copy.deepcopy(content)
    *path, last = keys.split(".")
    group = content
    for key in path:
        group = group.setdefault(key, {})
    group[last] = value
    return content


def checked(content: dict[str, Any], backbone: dict[str, Any] = BACKBONE) -> None:
    """Check a recipe as the plan and ``steps.pretrain`` do."""
    where = Path("recipe.yaml")
    recipe = validate(content, Recipe, str(where))
    check_backbone(where, recipe, Backbone(**backbone), "vit_test")


@pytest.mark.parametrize(
    ("recipe", "key", "value", "said"),
    [
        ("mae", "method.mask_ratio", 1e-17, "mask_ratio: 1e-17, of 16 patches not one"),
        ("mae", "method.mask_ratio", 0.99, "mask_ratio: 0.99 keeps none of 16 patches"),
        ("beit", "method.masks", {"ratio": 0.05}, "masks.ratio: 0.05, of 16 patches not one"),
        ("beit2", "method.masks", {"ratio": 0.01}, "masks.ratio: 0.01, of 16 patches not one"),
        ("ibot", "method.masks.ratios", [0.0, 0.02], "masks.ratios: "),
        ("ibot", "method.masks.start_epoch", 2, "start_epoch 2: nothing is masked in a run of 2"),
        ("dinov2", "method.masks.probability", 0.05, "0.05, of 16 global crops not one at batch"),
        ("dinov2", "method.masks.ratios", [0.0, 0.05], "masks.ratios: 0.05, of 16 patches not"),
        ("droppos", "method.mask_ratio", 0.99, "mask_ratio: 0.99 keeps none of 16 patches"),
        ("droppos", "method.pos_mask_ratio", 1e-18, "pos_mask_ratio: 1e-18, of 8 patches not"),
        ("mp3", "method.mask_ratio", 0.05, "mask_ratio: 0.05, of 16 patches not one"),
        ("dilemma", "method.drop_rate", 0.97, "drop_rate: 0.97 keeps none of 16 patches"),
        ("dilemma", "method.drop_rate", 1e-18, "drop_rate: 1e-18, of 16 patches not one"),
    ],
)
def test_masks_that_hide_nothing_or_everything(
    recipe: str, key: str, value: Any, said: str
) -> None:
    content = RECIPES[recipe]
    if key == "method.masks.ratios" and recipe == "ibot":
        content = changed(content, "method.masks.variances", [0.0, 0.0])
    checked(content)
    with pytest.raises(UserError) as caught:
        checked(changed(content, key, value))
    message = str(caught.value)
    assert message.startswith("recipe.yaml: ")
    assert said in message
    assert "allowed" in message or "nothing is masked" in message


@pytest.mark.parametrize("recipe", ["beit", "beit2"])
def test_blocks_that_are_never_laid(recipe: str) -> None:
    """Blocks are smaller than the grid: of 2 x 2 patches they hide one, and aim at three."""
    few = {**BACKBONE, "image_size": 16}
    content = changed(RECIPES[recipe], "method.masks", {"ratio": 0.75, "min_block": 1})
    checked(content, few)
    with pytest.raises(UserError, match=r"min_block: 16: no block of it fits, .* allowed: 1 to 1"):
        checked(changed(content, "method.masks.min_block", 16), few)


@pytest.mark.parametrize(("crops", "least"), [(16, 0.0625), (12, 0.0834), (2, 0.5)])
def test_what_is_allowed_is_enough(crops: int, least: float) -> None:
    """The number that the message names masks a crop, rounded as it is printed."""
    content = changed(RECIPES["dinov2"], "training.batch_size", crops // 2)
    content = changed(content, "method.koleo_weight", 0.0)
    checked(changed(content, "method.masks.probability", least))
    checked(changed(content, "method.masks.probability", 0.0))
    with pytest.raises(UserError, match=f"0, or {least:g} and more"):
        checked(changed(content, "method.masks.probability", least * 0.9))


def test_masks_are_checked_at_the_size_of_each_phase() -> None:
    """A share may hide patches of a large crop and none of a small one."""
    masks = {"ratios": [0.0, 0.04], "probability": 1.0}
    content = changed(RECIPES["dinov2"], "method.masks", masks)
    large = [{"count": 2, "size": 128, "area": [0.2, 1.0]}]
    checked(changed(content, "training.views", large))
    phase = {"epochs": 1, "views": [{"count": 2, "size": 32, "area": [0.2, 1.0]}]}
    final = changed(changed(content, "training.views", large), "training.final_phase", phase)
    with pytest.raises(UserError, match=r"masks\.ratios: 0\.04, of 16 patches not one"):
        checked(final)


@pytest.mark.parametrize("recipe", ["beit", "beit2"])
def test_blocks_larger_than_what_is_hidden(recipe: str) -> None:
    """A smallest block of 7 is refused where 6 of 16 patches are hidden: it fits by a rounding."""
    content = changed(RECIPES[recipe], "method.masks", {"ratio": 0.4, "min_block": 6})
    checked(content)
    with pytest.raises(UserError, match=r"min_block: 7: no block of it fits, .* allowed: 1 to 6"):
        checked(changed(content, "method.masks.min_block", 7))


@pytest.mark.parametrize("side", [2, 4, 7])
def test_block_masks_are_refused_where_none_is_drawn_or_blocks_are_too_large(side: int) -> None:
    patches = side * side
    for ratio, least, most in itertools.product((0.1, 0.4, 0.75), (1, 4, 16, 60), (None, 2)):
        masks = BlockMasks(ratio=ratio, min_block=least, max_block=most)
        drawn = sample_blocks(block_generator(masks, (side, side)), 100, torch.Generator())
        # Blocks that fit by a hair may not come up in so few draws: those are not refused.
        if masks.incompatibility(patches) is not None:
            assert not drawn.any() or least > min(int(ratio * patches), most or patches), masks
        elif least <= int(ratio * patches) and least <= (side - 1) ** 2 and most is None:
            assert drawn.any(), masks


@pytest.mark.parametrize("shape", ["block", "random"])
def test_ratio_masks_are_refused_only_where_none_is_ever_drawn(shape: Any) -> None:
    for side, ratio in itertools.product((2, 4, 14), (0.0, 0.004, 0.02, 0.1, 0.5)):
        masks = RatioMasks(shape=shape, ratios=[ratio], variances=[0.0])
        drawn = sample_ratio_masks(400, side, masks, torch.Generator())
        if masks.incompatibility(side * side) is not None:
            assert not drawn.any(), masks
        elif ratio * side * side >= max(1, (side // 3) ** 2):
            assert drawn.any(), masks


def test_spread_masks_are_refused_only_where_none_is_ever_drawn() -> None:
    method = RECIPES["dinov2"]["method"]
    for side, highest in itertools.product((2, 4, 14), (0.0, 0.01, 0.1, 0.5)):
        masks = SpreadMasks(probability=1.0, ratios=[0.0, highest])
        params = DINOv2Params(**{**method, "masks": masks})
        drawn = sample_spread_blocks(400, side, 1.0, (0.0, highest), torch.Generator())
        if params.incompatibility(side * side, None) is not None:
            assert not drawn.any(), (side, highest)
        elif highest * side * side >= 4:
            assert drawn.any(), (side, highest)


COMPARING = ("simclr", "mocov3", "dilemma", "clip", "dinov2")


@pytest.mark.parametrize("recipe", [name for name in RECIPES if "training" in RECIPES[name]])
def test_a_batch_of_one_where_images_are_compared(recipe: str) -> None:
    one = changed(RECIPES[recipe], "training.batch_size", 1)
    one["training"]["max_batch_per_device"] = 1
    if recipe not in COMPARING:
        checked(one)
        return
    with pytest.raises(UserError) as caught:
        checked(one)
    message = str(caught.value)
    assert "training.batch_size is 1" in message
    assert "2 or more" in message
    assert "\n" not in message


def test_without_koleo_a_batch_of_one_trains() -> None:
    one = changed(RECIPES["dinov2"], "training.batch_size", 1)
    checked(changed(one, "method.koleo_weight", 0.0))


def test_kmeans_starts_from_as_many_patches_as_codes() -> None:
    one = changed(TOKENIZERS["vqkd"], "tokenizer.codes", 129)  # 8 images of 16 patches
    with pytest.raises(UserError, match="its 128 patches are fewer than the 129 codes"):
        validate(one, TokenizerRecipe, "t.yaml")
    validate(changed(one, "tokenizer.codes", 128), TokenizerRecipe, "t.yaml")
    validate(changed(one, "tokenizer.kmeans_init", False), TokenizerRecipe, "t.yaml")


@pytest.mark.parametrize("batch", [1, 2])
def test_batch_norm_of_a_single_value(
    batch: int, scenery: Scenery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ResNet's last map of a small image has one place: a batch of one has no statistics."""
    from steps import pretrain

    plain = {"name": "supervised"}
    monkeypatch.setitem(RECIPES, "supervised", {**RECIPES["supervised"], "method": plain})

    monkeypatch.chdir(scenery.root)
    data = scenery.images(train=4, val=2)
    scenery.write("backbones/resnet_test.yaml", {**RESNET, "image_size": 8})
    scenery.backbone_name = "resnet_test"
    recipe = scenery.recipe(
        "supervised", batch_size=batch, max_batch_per_device=batch, epochs=1, knn=None,
        schedule={"warmup_epochs": 0},
    )  # fmt: skip
    arguments = scenery.pretrain_arguments(recipe, data, scenery.root / "out")
    monkeypatch.setattr("sys.argv", ["steps.pretrain", *arguments])
    if batch > 1:
        pretrain.main()
        return
    with pytest.raises(UserError, match="a batch norm gets one value a channel"):
        pretrain.main()


def test_a_part_is_held_out_of_two_images_or_more() -> None:
    with pytest.raises(UserError, match="1 training image, of which a part is to be held out"):
        split_held_out(1, 0.1, 0)
    for count, share in itertools.product((2, 3, 10), (0.01, 0.5, 0.99)):
        num_visible, held = split_held_out(count, share, 0)
        assert len(num_visible)
        assert len(held)
        assert sorted([*num_visible.tolist(), *held.tolist()]) == list(range(count))


def test_a_probe_with_batch_norm_takes_two_images(scenery: Scenery) -> None:
    from steps.params.protocols import Probe

    protocol = {
        "kind": "augmented", "blocks": [1], "poolings": ["cls"], "lr": [0.1], "batch_norm": True,
        "epochs": 1, "schedule": {"warmup_epochs": 0}, "batch_size": 1, "max_batch_per_device": 1,
        "view": {"area": [0.2, 1.0]}, "crop_fraction": 1.0,
    }  # fmt: skip
    path = scenery.write("protocols/probe.yaml", protocol)
    with pytest.raises(UserError, match="a batch of one has no statistics"):
        load(path, Probe)
    load(scenery.write("protocols/probe.yaml", {**protocol, "batch_size": 2}), Probe)
