"""The discrete VAE's distribution, relaxation and annealing."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from steps.core.schedules import Progress
from steps.methods import Batch
from steps.params.tokenizers import DalleParams, TokenizerRecipe
from steps.tokenizers.dalle import DVAETraining, gumbel, log_likelihood
from tests.scenery import TOKENIZERS


def _training(**changes: Any) -> DVAETraining:
    params = {**TOKENIZERS["dalle"]["tokenizer"], **changes}
    torch.manual_seed(0)
    return DVAETraining(TypeAdapter(DalleParams).validate_python(params))


def test_the_likelihood_is_a_density() -> None:
    """It integrates to 1 over (0, 1)."""
    values = torch.linspace(0, 1, 200_002, dtype=torch.float64)[1:-1]
    for location, log_scale in ((0.0, -1.0), (1.5, -0.5), (-2.0, -2.0)):
        density = log_likelihood(values, torch.tensor(location), torch.tensor(log_scale)).exp()
        assert math.isclose(density.mean().item(), 1.0, abs_tol=2e-4)


def test_gumbel_noise_has_its_mean_and_deviation_and_each_sample_its_own() -> None:
    logits = torch.zeros(2, 50, 40, 50)
    noise = gumbel(torch.tensor([3, 4]), logits)
    assert math.isclose(noise.mean().item(), 0.5772, abs_tol=0.01)
    assert math.isclose(noise.std().item(), math.pi / math.sqrt(6), abs_tol=0.01)
    alone = gumbel(torch.tensor([4]), logits[:1])
    assert torch.equal(alone[0], noise[1])


def test_rates_follow_half_cosines_and_stay() -> None:
    training = _training()
    curve = [training.rates(Progress(step, 10, 100)) for step in (0, 5, 10, 99)]
    assert [rate["kl_weight"] for rate in curve] == [0, 3.3, 6.6, 6.6]
    assert [rate["temperature"] for rate in curve] == [1, 0.53125, 0.0625, 0.0625]


def test_kl_is_zero_for_a_uniform_posterior_and_log_v_for_a_certain_one() -> None:
    training = _training()
    batch = Batch([torch.rand(2, 3, 32, 32)], torch.empty(2))
    draws = training.sample(2, torch.Generator().manual_seed(0))
    last = training.dvae.encoder.blocks.output.conv
    torch.nn.init.zeros_(last.weight)
    losses = training(batch, draws, Progress(10, 10, 100))
    assert abs(losses["kl"].item()) < 1e-6
    assert math.isclose(losses["loss"].item(), losses["nll"].item(), abs_tol=1e-6)
    last.bias.data[3] = 100
    losses = training(batch, draws, Progress(10, 10, 100))
    assert math.isclose(losses["kl"].item(), math.log(12), rel_tol=1e-5)
    assert math.isclose(
        losses["loss"].item(), losses["nll"].item() + 6.6 / 192 * math.log(12), rel_tol=1e-5
    )


def test_pixels_map_there_and_back() -> None:
    dvae = _training().dvae
    pixels = torch.rand(1, 3, 8, 8)
    mapped = dvae.map_pixels(pixels)
    assert mapped.min() >= 0.1
    assert mapped.max() <= 0.9
    torch.testing.assert_close(dvae.unmap_pixels(mapped), pixels)


def test_tokens_of_a_wide_image_decode_to_its_shape() -> None:
    dvae = _training().dvae
    pixels = torch.rand(2, 3, 16, 40)
    tokens = dvae.tokens(pixels)
    assert tokens.shape == (2, 10)
    assert tokens.dtype == torch.int64
    assert dvae.decode(tokens, rows=2).shape == pixels.shape


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": 36}, "image_size 36 is not a multiple of 8"),
        ({"logit_laplace_eps": 0.5}, "less than 0.5"),
        ({"learning": {"temperature": {"start": 1.0, "end": 0.0, "epochs": 1}}}, "greater than 0"),
        ({"learning": {"temperature": {"start": 0.0, "end": 1.0, "epochs": 1}}}, "greater than 0"),
    ],
)
def test_params_without_a_likelihood_or_tokens(changes: dict[str, Any], said: str) -> None:
    params = TOKENIZERS["dalle"]["tokenizer"]
    if "learning" in changes:
        changes = {"learning": {**params["learning"], **changes["learning"]}}
    with pytest.raises(ValidationError, match=said):
        TypeAdapter(DalleParams).validate_python({**params, **changes})


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [("dalle", 36, "36 is not a multiple of 8"), ("vqkd", 24, "24 is not image_size 32")],
)
def test_views_that_a_tokenizer_cannot_take(name: str, size: int, said: str) -> None:
    content = TOKENIZERS[name]
    for side in (None, 32, size):
        training = {**content["training"], "views": [{"area": [0.4, 1.0], "size": side}]}
        wrong = pytest.raises(ValidationError, match=said) if side == size else nullcontext()
        with wrong:
            TokenizerRecipe.model_validate({**content, "training": training})
