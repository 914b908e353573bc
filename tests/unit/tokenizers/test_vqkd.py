"""VQ-KD's gradients stop where they must, and its codebook starts from the whole batch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch.nn import functional as F

from steps.command import UserError
from steps.core.schedules import Progress
from steps.methods import Batch
from steps.models.backbones import create_backbone
from steps.models.teacher import PIXELS, Renormalise, Teacher
from steps.params.backbone import Backbone
from steps.params.tokenizers import VQKDParams
from steps.tokenizers.build import build_training
from steps.tokenizers.vqkd import VQKD
from tests.scenery import BACKBONE, TOKENIZERS


def _teacher() -> Teacher:
    torch.manual_seed(1)
    return Teacher(create_backbone(Backbone(**BACKBONE)), {}, Renormalise(PIXELS, PIXELS))


def _vqkd(**changes: Any) -> VQKD:
    params = {**TOKENIZERS["vqkd"]["tokenizer"], **changes}
    torch.manual_seed(0)
    return VQKD(TypeAdapter(VQKDParams).validate_python(params), _teacher(), 24)


def _batch(size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(2)
    return Batch([torch.rand(size, 3, 32, 32, generator=generator)], torch.empty(size))


def test_the_codebook_starts_from_all_parts_of_the_first_batch() -> None:
    whole, parts = _vqkd(), _vqkd()
    batch = _batch()
    draws = whole.sample(4, torch.Generator().manual_seed(0))
    whole.start([(batch, draws)])
    pieces = [
        (Batch([batch.views[0][part]], torch.empty(2)), {"order": draws["order"][part]})
        for part in (slice(0, 2), slice(2, 4))
    ]
    parts.start(pieces)
    torch.testing.assert_close(whole.tokenizer.codebook.codes, parts.tokenizer.codebook.codes)
    assert whole.tokenizer.codebook.start_sizes.sum() == 4 * 16
    assert whole.sample(4, torch.Generator()) == {}, "it is drawn for the first batch alone"


def test_decoder_gradients_pass_straight_through_to_the_encoder() -> None:
    method = _vqkd(commitment=0.0, kmeans_init=False)
    method(_batch(), {}, Progress(0, 10, 100))["loss"].backward()
    first = method.tokenizer.task_layer[0].weight.grad
    assert first is not None
    assert first.abs().max() > 0


def test_commitment_is_a_mean_over_channels_too_and_moves_no_code() -> None:
    method = _vqkd(kmeans_init=False)
    book, batch = method.tokenizer.codebook, _batch()
    features = method.tokenizer.features(batch.views[0]).detach()
    nearest = book.codes[book.nearest(features)]
    before = book.codes.clone()
    losses = method(batch, {}, Progress(0, 10, 100))
    expected = (nearest - features).square().sum(dim=-1).mean() / 6
    assert math.isclose(losses["quant_loss"].item(), expected.item(), rel_tol=1e-5)
    assert torch.equal(book.codes, before), "the codes move after the step"


def test_a_perfect_prediction_has_no_distance() -> None:
    method = _vqkd(kmeans_init=False)
    codes = F.normalize(torch.randn(2, 16, 6), dim=-1)
    targets = method.decode(codes).detach()
    assert method.distance(codes, 3 * targets).abs().max() < 1e-6
    torch.testing.assert_close(method.distance(codes, -targets), torch.full((2, 16), 2.0))


def test_projected_features_need_a_projection() -> None:
    method = _vqkd(projected=True)
    with pytest.raises(ValueError, match="no projection"):
        method.targets(_batch().views[0])
    params = {**TOKENIZERS["vqkd"]["tokenizer"], "projected": True}
    with pytest.raises(UserError, match="projected: true, and the teacher has no projection"):
        build_training(TypeAdapter(VQKDParams).validate_python(params), _teacher())


def test_imagenet_normalisation() -> None:
    pixels = torch.rand(1, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    normalise = _vqkd(process_type="imagenet_norm").tokenizer.normalise
    torch.testing.assert_close(normalise(pixels), (pixels - mean) / std)
    torch.testing.assert_close(_vqkd().tokenizer.normalise(pixels), 2 * pixels - 1)
