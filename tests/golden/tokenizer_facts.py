"""The published recipe of VQ-KD, value by value against ours of ImageNet-1K."""

from __future__ import annotations

import torch

from steps.core.schedules import Progress, learning_rate
from steps.params.load import load
from steps.params.tokenizers import TokenizerRecipe, VQKDParams
from steps.tokenizers.vqkd import VQTokenizer
from tests.golden.case import Case
from tests.golden.facts import Facts, comment, known_methods, recipe
from tests.processes import REPOSITORY

FILE = REPOSITORY / "params/tokenizers/imagenet/vqkd.yaml"


def compare_vqkd(case: Case) -> None:
    """Views, networks, codebook, optimiser, and what follows from them."""
    ours = load(FILE, TokenizerRecipe)
    params, training, teacher = ours.tokenizer, ours.training, ours.teacher
    assert isinstance(params, VQKDParams)
    assert training is not None
    assert teacher is not None
    facts, room = Facts(case, case.facts["options"]["vqkd"], "vqkd"), "recipe.encoder_b_decoder_3"

    (view,) = training.views
    facts.equal(
        ["random resized crop", "horizontal flip", "to tensor in [0,1]"], "augmentation.order"
    )
    facts.equal(view.aspect, "augmentation.crop.aspect_ratio")
    facts.equal(view.area, "augmentation.crop.scale")
    facts.equal(view.size or params.image_size, "augmentation.crop.size")
    facts.equal(view.interpolation, "augmentation.crop.interpolation")
    facts.equal(view.flip, "augmentation.flip_probability")
    facts.equal(0.0 if view.jitter is None else view.jitter, "augmentation.colour_jitter")
    facts.equal(view.second, "augmentation.second_image")
    # How a crop is tried is one function for all methods, which their facts hold.
    facts.prose("augmentation.crop.attempts", "augmentation.crop.fallback")
    assert "[0,1] to [-1,1]" in facts["augmentation.normalise"]
    ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(-1, 3, 1, 1)
    small = params.model_copy(update={"image_size": 16, "encoder": params.decoder})
    mapped = VQTokenizer(small).normalise(ends)
    assert mapped.flatten(1).tolist() == [[-1.0] * 3, [1.0] * 3]
    for name in ("clip", "dino"):
        if name not in known_methods():
            facts.prose(f"augmentation.{name}_teacher_mean", f"augmentation.{name}_teacher_std")
            continue
        published = recipe(name).training
        assert published is not None
        assert published.normalise is not None
        facts.equal(published.normalise.mean, f"augmentation.{name}_teacher_mean")
        facts.equal(published.normalise.std, f"augmentation.{name}_teacher_std")

    optimizer = training.optimizer
    facts.equal(training.epochs, f"{room}.epochs")
    facts.equal(training.schedule.warmup_epochs, f"{room}.warmup_epochs")
    facts.equal(training.batch_size, f"{room}.effective_batch")
    facts.equal(optimizer.lr, f"{room}.base_lr")
    facts.equal(f"lr = base_lr * effective_batch / {optimizer.lr_batch}", f"{room}.lr_rule")
    facts.equal(optimizer.peak_lr(training.batch_size), f"{room}.peak_lr")
    facts.equal(training.schedule.min_lr, f"{room}.min_lr")
    facts.equal(optimizer.betas, f"{room}.betas")
    facts.equal(optimizer.eps, f"{room}.eps")
    facts.equal(optimizer.weight_decay, f"{room}.weight_decay")
    assert optimizer.weight_decay_end is None
    facts.equal(training.clip_grad, f"{room}.clip_grad")
    facts.equal(params.codes, f"{room}.codes")
    facts.equal(params.code_dim, f"{room}.code_dim")
    facts.equal(params.ema_decay, f"{room}.ema_decay")
    facts.equal(params.kmeans_init, f"{room}.kmeans_init")
    facts.equal(params.decoder.depth, f"{room}.decoder_depth")
    facts.equal(params.commitment, f"{room}.beta")
    assert facts[f"{room}.teacher"].startswith("CLIP ViT-B/16 patch features after the visual proj")
    assert (teacher.recipe, teacher.backbone, params.projected) == ("clip", "vit_b16", True)
    assert "recipe: dino, backbone: vit_b16}, projected false" in comment(FILE)
    facts.finish()
    _derived(case, ours)


def _derived(case: Case, ours: TokenizerRecipe) -> None:
    """Iterations an epoch and the peak rate; the rate at the end of warm-up and of training."""
    training, expected = ours.training, case.facts["expected"]
    assert training is not None
    facts = Facts(case, expected, "expected")
    per_epoch = facts["imagenet_1k_train_images"] // training.batch_size
    facts.equal(per_epoch, "iterations_per_epoch.vqkd_batch_512_on_8_devices")
    peak = training.optimizer.peak_lr(training.batch_size)
    facts.equal(peak, "peak_lr.vqkd_batch_512")
    total, warmup = 100 * per_epoch, 10 * per_epoch
    rates = [
        learning_rate(Progress(step, per_epoch, total), training.schedule, peak)
        for step in (0, warmup - 1, warmup, total - 1)
    ]
    assert rates[:3] == [0.0, peak, peak], "the peak comes twice"
    assert abs(rates[3] - 1e-5) < 1e-11
