"""The published recipes of masked-image methods, value by value against ours of ImageNet-1K."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from steps.core.schedules import Progress, learning_rate
from steps.data.views import normalise, sample_crop
from steps.methods.beit import BEiT
from steps.methods.beit2 import BEiT2
from steps.models.masks import block_generator, num_visible
from steps.params.recipe import Training
from steps.params.tokenizers import DalleDecoder, DalleNetwork, DalleParams
from steps.params.views import Normalise, View
from steps.tokenizers.dalle import DVAE
from tests.golden.case import Case
from tests.golden.facts import Facts, comment, known_methods, recipe, recipe_file
from tests.golden.tokenizer_facts import compare_vqkd
from tests.processes import REPOSITORY

DATASET = REPOSITORY / "params/datasets/imagenet1k.yaml"
SIDE, PATCH = 224, 16
"""Of the published ViT-B/16."""
OPERATIONS = {"crop": "random resized crop", "flip": "horizontal flip"}
DALLE = DalleParams(
    name="dalle",
    image_size=112,
    vocab_size=2,
    encoder=DalleNetwork(hidden=4, blocks_per_group=1),
    decoder=DalleDecoder(input=4, hidden=4, blocks_per_group=1),
)
"""The tokenizer's rules of pixels, which its widths do not change."""
SCOPES = {"tensor": "each parameter tensor by itself", "global": "the global norm"}


def replay(case: Case) -> None:
    """Every fact of every method that there is, then what follows from them all."""
    for name in sorted(known_methods() & case.facts["options"].keys()):
        assert name in METHODS, f"{name}: facts are published, but nothing compares them"
        published = Published(case, name)
        METHODS[name](published)
        published.facts.finish()
    compare_vqkd(case)
    _derived(case)


class Published:
    """A method's facts beside our recipe of it."""

    def __init__(self, case: Case, name: str) -> None:
        self.facts = Facts(case, case.facts["options"][name], name)
        ours = recipe(name)
        assert ours.training is not None
        self.method: Any = ours.method
        self.training: Training = ours.training
        self.comment = comment(recipe_file(name))
        self.facts.prose("traps")
        self.facts.equal((SIDE // PATCH) ** 2, "masking.patches")

    def says(self, text: str) -> None:
        """The recipe's head comment has this: what holds for another backbone or run."""
        assert text in self.comment, f"{self.facts.name}: no {text!r} in the recipe's head comment"

    def one_view(self) -> None:
        """A random resized crop, a flip, and ImageNet's normalisation."""
        facts, (view,) = self.facts, self.training.views
        order = [OPERATIONS[name] for name in view.order if name in OPERATIONS]
        facts.equal([*order, "to tensor in [0,1]", "normalise"], "augmentation.order")
        facts.equal(view.size or SIDE, "augmentation.crop.size")
        facts.equal(view.area, "augmentation.crop.scale")
        facts.equal(view.aspect, "augmentation.crop.aspect_ratio")
        facts.equal(view.interpolation, "augmentation.crop.interpolation")
        facts.equal(view.flip, "augmentation.flip_probability")
        facts.equal(view.jitter, "augmentation.colour_jitter")
        facts.equal(None, "augmentation.second_image")
        plain = View(area=view.area, interpolation=view.interpolation, size=view.size)
        assert view == plain, "more is done to the view than is published"
        self.crop(view)
        self.normalisation()

    def two_images(self, pixels: str) -> None:
        """Colours, a flip, one rectangle resized twice; ``pixels``: what the tokenizer is given."""
        facts, (view,) = self.facts, self.training.views
        operations = {
            "jitter": "colour jitter on the whole image",
            "flip": "horizontal flip",
            "crop": "one random resized crop rectangle, resized twice",
        }
        images = ["patch image: to tensor, normalise", f"token image: to tensor{pixels}"]
        order = [operations[name] for name in view.order]
        facts.equal([*order, *images], "augmentation.order")
        facts.equal(view.size or SIDE, "augmentation.crop.size")
        facts.equal(view.area, "augmentation.crop.scale")
        facts.equal(view.aspect, "augmentation.crop.aspect_ratio")
        facts.equal(view.interpolation, "augmentation.crop.interpolation")
        facts.equal(view.flip, "augmentation.flip_probability")
        assert view.jitter is not None
        for name, value in view.jitter.resolved().items():
            facts.equal(value, f"augmentation.colour_jitter.{name}")
        facts.equal("random", "augmentation.colour_jitter.order")
        assert view.second is not None
        facts.equal(view.second.size, "augmentation.second_image.size")
        facts.equal(view.second.interpolation, "augmentation.second_image.interpolation")
        facts.equal(True, "augmentation.second_image.same_rectangle")
        assert view.rand_augment is None
        assert view.blur is None
        assert view.grayscale == view.solarize == 0
        self.crop(view)
        self.normalisation()

    def blocks(self) -> None:
        """The mask of blocks, and the transformer that BEiT makes of a plain one."""
        facts, room, method = self.facts, "recipe.vit_b", self.method
        masks = block_generator(method.masks, (SIDE // PATCH, SIDE // PATCH))
        facts.equal(masks.patches, "masking.num_masking_patches")
        facts.same(masks.patches / facts["masking.patches"], facts["masking.ratio"], "ratio")
        facts.equal(masks.min_block, "masking.min_num_patches")
        facts.equal(masks.max_block, "masking.max_num_patches")
        facts.equal(masks.min_aspect, "masking.min_aspect")
        facts.equal(method.backbone.layer_scale, f"{room}.layer_scale")
        assert method.backbone.relative_positions == "shared"
        assert not method.backbone.absolute_positions
        facts.equal(self.training.schedule.min_lr, f"{room}.min_lr")
        facts.equal(self.training.batch_size, f"{room}.effective_batch")
        assert self.clipping() == (facts[f"{room}.clip_grad"], SCOPES["global"])
        larger = facts["recipe.vit_l.same_as_vit_b_except.layer_scale"]
        self.says(f"For ViT-L: backbone.layer_scale {larger:.1e}".replace("e-0", "e-"))

    def crop(self, view: View) -> None:
        """How often a crop is tried, and what is taken where none fits."""
        whole = view.model_copy(update={"area": [1.0, 1.0]})
        rng = _Counting()
        # No crop of the whole area fits into so long an image.
        left, top, width, height = sample_crop(30, 400, whole, rng)  # type: ignore[arg-type]
        tall = round(30 / view.aspect[0])
        assert (left, top, width, height) == (0, (400 - tall) // 2, 30, tall)
        self.facts.equal(rng.aspects, "augmentation.crop.attempts")
        self.facts.equal(
            "largest centred crop within the aspect range", "augmentation.crop.fallback"
        )

    def normalisation(self) -> None:
        """The constants by channel."""
        given = _normalise(self.facts.name)
        self.facts.equal(given.mean, "augmentation.mean")
        self.facts.equal(given.std, "augmentation.std")

    def schedule(self) -> None:
        """Epochs, batch and rates: at the start, half the warm-up, its end, half way, the end."""
        facts, training, room = self.facts, self.training, "recipe.vit_b"
        facts.equal(training.epochs, f"{room}.epochs")
        facts.equal(training.schedule.warmup_epochs, f"{room}.warmup_epochs")
        peak, low = training.optimizer.peak_lr(training.batch_size), facts[f"{room}.min_lr"]
        per_epoch, epochs = 10_000, int(training.epochs)
        warmup = int(facts[f"{room}.warmup_epochs"])
        for epoch, published in (
            (0, 0.0),
            (warmup / 2, peak / 2),
            (warmup, peak),
            ((warmup + epochs) / 2, (peak + low) / 2),
            (epochs, low),
        ):
            progress = Progress(round(epoch * per_epoch), per_epoch, epochs * per_epoch)
            ours = learning_rate(progress, training.schedule, peak)
            assert ours == pytest.approx(published, rel=1e-3, abs=1e-12), f"lr of epoch {epoch}"
            facts.case.compared += 1
        facts.prose(f"{room}.schedule")

    def optimizer(self) -> None:
        """The update rule and what it takes."""
        facts, ours, room = self.facts, self.training.optimizer, "recipe.vit_b"
        facts.equal({"adamw": "AdamW"}[ours.name], f"{room}.optimizer")
        facts.equal(ours.betas, f"{room}.betas")
        facts.equal(ours.eps, f"{room}.eps")
        facts.equal(ours.weight_decay, f"{room}.weight_decay")
        assert ours.weight_decay_end in (None, ours.weight_decay)
        assert ours.layer_decay == 1.0
        if ours.lr_batch is None:
            facts.equal("none, lr is absolute", f"{room}.lr_rule")
            facts.equal(ours.lr, f"{room}.peak_lr")
        else:
            rule = f"lr = base_lr * effective_batch / {ours.lr_batch}"
            assert ours.lr_scaling == "linear"
            facts.equal(rule, f"{room}.lr_rule")
            facts.equal(ours.lr, f"{room}.base_lr")

    def clipping(self) -> tuple[float, str] | None:
        """Ours: the limit, and what it limits."""
        clip = self.training.clip_grad
        return None if clip is None else (clip.max_norm, SCOPES[clip.scope])


def _mae(published: Published) -> None:
    facts, method, room = published.facts, published.method, "recipe.vit_b"
    published.one_view()
    published.schedule()
    published.optimizer()
    facts.equal("uniform random per sample", "masking.kind")
    facts.equal(method.mask_ratio, "masking.ratio")
    facts.equal(num_visible(facts["masking.patches"], method.mask_ratio), "masking.kept")
    facts.equal(method.mask_ratio, f"{room}.mask_ratio")
    facts.equal(method.norm_pix_loss, f"{room}.norm_pix_loss")
    # The records leave out the ratio that no recipe changes.
    assert method.decoder.mlp_ratio == 4.0
    facts.equal(method.decoder.model_dump(exclude={"mlp_ratio"}), f"{room}.decoder")
    facts.equal(published.clipping(), f"{room}.clip_grad")
    facts.equal(published.training.batch_size, f"{room}.effective_batch")
    facts.equal(published.training.optimizer.peak_lr(4096), f"{room}.peak_lr")
    _plain_encoder(facts)
    facts.equal("fixed sin-cos", f"{room}.position")
    published.says(f"{facts[f'{room}.epochs_of_best_published_weights']}")
    published.says("For ViT-L: the same.")
    facts.prose("recipe.vit_l")


def _droppos(published: Published) -> None:
    facts, method, room = published.facts, published.method, "recipe.vit_b"
    published.one_view()
    published.schedule()
    published.optimizer()
    visible = num_visible(facts["masking.patches"], method.mask_ratio)
    facts.equal(method.mask_ratio, "masking.patch_ratio")
    facts.equal(method.pos_mask_ratio, "masking.position_ratio")
    facts.equal(visible, "masking.visible")
    facts.equal(num_visible(visible, method.pos_mask_ratio), "masking.visible_with_position")
    facts.equal(method.mask_ratio, f"{room}.mask_ratio")
    facts.equal(method.pos_mask_ratio, f"{room}.pos_mask_ratio")
    facts.equal(method.label_smoothing_sigma, f"{room}.label_smoothing_sigma")
    facts.equal({True: "linear to 0 over the epochs"}[method.sigma_decay], f"{room}.sigma_decay")
    facts.equal(method.attn_guide, f"{room}.attn_guide")
    facts.equal(method.attn_temperature, f"{room}.attn_temperature")
    facts.equal({"learnt": "param"}[method.dropped_position], f"{room}.mask_token_type")
    # The records leave out the ratio that no recipe changes.
    assert method.decoder.mlp_ratio == 4.0
    facts.equal(method.decoder.model_dump(exclude={"mlp_ratio"}), f"{room}.decoder")
    assert method.pixel_task is None, "the published recipe has one task"
    assert not method.conf_ignore
    clip = facts[f"{room}.clip_grad"]
    facts.same(published.clipping(), [clip["limit"], clip["kind"]], f"{room}.clip_grad")
    batch = facts[f"{room}.effective_batch"]["documented_command_32_devices"]
    facts.same(published.training.batch_size, batch, f"{room}.effective_batch")
    facts.equal(published.training.optimizer.peak_lr(4096), f"{room}.peak_lr_at_batch_4096")
    _plain_encoder(facts)
    published.says(f"the paper's {facts[f'{room}.effective_batch_of_the_paper']}")
    larger = "recipe.vit_l.same_as_vit_b_except"
    published.says(f"For ViT-L: warmup_epochs {facts[f'{larger}.warmup_epochs']}, batch_size 1024")
    assert "1024 on 8 devices" in facts[f"{larger}.effective_batch"]


def _plain_encoder(facts: Facts) -> None:
    """What our method has no param for, because its reference does without."""
    facts.equal(0.0, "recipe.vit_b.drop_path")
    facts.equal(None, "recipe.vit_b.layer_scale")
    if "recipe.vit_b.weight_decay_schedule" in facts:
        facts.equal(None, "recipe.vit_b.weight_decay_schedule")


def _normalise(name: str) -> Normalise:
    training = recipe(name).training
    assert training is not None
    assert training.normalise is not None, f"{name}: the set's own mean is not the published one"
    return training.normalise


def _beit(published: Published) -> None:
    facts, method, room = published.facts, published.method, "recipe.vit_b"
    published.two_images(", map_pixels")
    published.schedule()
    published.optimizer()
    published.blocks()
    facts.equal("block-wise", "masking.kind")
    facts.equal(BEiT.exact_masks, "masking.count_is_exact")
    facts.equal(method.drop_path, f"{room}.drop_path")
    facts.equal(method.backbone.init_std, f"{room}.init_std")
    facts.equal("same as weight_decay", f"{room}.weight_decay_end")
    facts.equal(published.training.schedule.warmup_lr, f"{room}.warmup_start_lr")
    facts.equal("one shared table", f"{room}.relative_position_bias")
    facts.equal(method.backbone.absolute_positions, f"{room}.absolute_position")
    clip = facts["recipe.vit_l.same_as_vit_b_except.clip_grad"]
    published.says(f"clip_grad.max_norm {clip}")
    _check_token_grid(published, DALLE.token_pixels)
    # What DALL-E's tokenizer does to pixels stands in its own case.
    facts.prose(f"{room}.vocabulary", "recipe.vit_l.note", "augmentation.crop.rounding")
    facts.prose("augmentation.second_image.transform", "augmentation.second_image.normalise")
    facts.prose("augmentation.default_mean_without_flag", "augmentation.default_std_without_flag")


def _beit2(published: Published) -> None:
    facts, method, room = published.facts, published.method, "recipe.vit_b"
    training, long = published.training, "1600"
    published.two_images("")
    epochs = facts[f"{room}.epochs"]
    facts.same([training.epochs, int(long)], epochs, f"{room}.epochs")
    facts.content = _of_schedule(facts.content, str(int(training.epochs)))
    published.schedule()
    published.optimizer()
    published.blocks()
    facts.equal("block-wise, then corrected to the exact count", "masking.kind")
    facts.equal(BEiT2.exact_masks, "masking.count_is_exact")
    facts.equal(method.drop_path, f"{room}.drop_path")
    head = method.aggregation
    facts.equal(head.early_layers, f"{room}.early_layers")
    facts.equal(head.layers, f"{room}.head_layers")
    facts.equal(head.shared_output, f"{room}.shared_lm_head")
    both = facts.case.facts["options"]["beit2"]["recipe"]["vit_b"]
    betas, drop_path = both["betas"]["value"][long], both["drop_path"]["value"][long]
    published.says(f"Long schedule: epochs {long}, betas {betas}, drop_path {drop_path}.")
    larger = "recipe.vit_l.same_as_vit_b_except"
    published.says(f"aggregation.early_layers {facts[f'{larger}.early_layers']}")
    devices = facts[f"{larger}.batch_per_device"]
    assert devices.startswith("32 on 64 devices")
    published.says("on 64 GPUs with 32 images each")
    _check_token_grid(published, PATCH)
    # What VQ-KD does to pixels and how many codes it has stands in its own facts.
    facts.prose(f"{room}.vocabulary", f"{room}.code_dim", "augmentation.second_image.transform")
    facts.prose(
        "augmentation.crop.default_scale_without_flag",
        "augmentation.second_image.default_interpolation_without_flag",
    )


def _of_schedule(content: dict[str, Any], epochs: str) -> dict[str, Any]:
    """The facts of one of the two published lengths."""
    chosen = copy.deepcopy(content)
    recipe = chosen["recipe"]["vit_b"]
    recipe["epochs"]["value"] = int(epochs)
    for name in ("betas", "drop_path"):
        recipe[name]["value"] = recipe[name]["value"][epochs]
    return chosen


def _check_token_grid(published: Published, token_pixels: int) -> None:
    """One token a patch."""
    (view,) = published.training.views
    assert view.second is not None
    assert view.second.size is not None
    side = view.second.size // token_pixels
    published.facts.equal([side, side], "augmentation.second_image.token_grid")


METHODS: dict[str, Callable[[Published], None]] = {
    "mae": _mae,
    "droppos": _droppos,
    "beit": _beit,
    "beit2": _beit2,
}


def _derived(case: Case) -> None:
    """Iterations an epoch, peak rates, and normalised pixels."""
    facts = Facts(case, case.facts["expected"], "expected")
    images = facts["imagenet_1k_train_images"]
    assert f"{images:,}" in comment(DATASET)
    for table, ours in (
        ("iterations_per_epoch", lambda training, batch: images // batch),
        ("peak_lr", lambda training, batch: training.optimizer.peak_lr(batch)),
    ):
        for key in case.facts["expected"][table]:
            name, _, rest = key.partition("_")
            if name not in known_methods():
                facts.prose(f"{table}.{key}")
                continue
            training = recipe(name).training
            assert training is not None
            words = rest.split("_")
            batch = int(words[words.index("batch") + 1]) if "batch" in words else None
            facts.equal(ours(training, batch or training.batch_size), f"{table}.{key}")
    given = _normalise("mae")
    constants = {"imagenet": (given.mean, given.std), "half": ([0.5] * 3, [0.5] * 3)}
    for name, (mean, std) in constants.items():
        for pixel, values in facts[f"normalised.{name}"]:
            image = torch.full((1, 3, 1, 1), round(pixel * 255), dtype=torch.uint8)
            ours = normalise(image, mean, std).flatten()
            theirs = torch.tensor(values).expand(3).float()
            case.close(ours, theirs, f"normalised.{name}", 1e-6)
    dvae = DVAE(DALLE)
    for pixel, mapped in facts["map_pixels"]:
        case.number(dvae.map_pixels(torch.tensor(pixel)).item(), mapped, "map_pixels", 1e-6)
    facts.prose("loss")
    facts.finish()


class _Counting:
    """A generator that counts the aspect ratios it was asked for."""

    def __init__(self) -> None:
        self.aspects = 0
        self._rng = np.random.default_rng(0)

    def uniform(self, low: float, high: float) -> float:
        self.aspects += low < 0
        return self._rng.uniform(low, high)


REPLAYS = {"mim_augment": replay}
