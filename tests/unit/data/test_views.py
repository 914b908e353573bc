"""Distributions of view parameters, and their application."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pydantic import ValidationError
from torchvision.transforms import functional as F

from steps.data.views import (
    centre_crop,
    make_view,
    make_views,
    normalise,
    sample_crop,
    to_tensor,
)
from steps.params.views import Blur, Jitter, SecondImage, View


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_crops_cover_the_area_asked_for_and_stay_inside() -> None:
    view, rng = View(area=[0.2, 0.8]), _rng()
    crops = np.array([sample_crop(200, 160, view, rng) for _ in range(4000)])
    left, top, width, height = crops.T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + width <= 200).all()
    assert (top + height <= 160).all()
    share = width * height / (200 * 160)
    assert share.min() == pytest.approx(0.2, abs=0.01)
    assert share.max() == pytest.approx(0.8, abs=0.01)
    assert share.mean() == pytest.approx(0.49, abs=0.02)
    logarithm = np.log(width / height)
    assert abs(logarithm.mean()) < 0.03
    assert abs(logarithm).max() <= math.log(4 / 3) + 0.05


def test_an_image_too_narrow_for_the_aspect_gets_its_centre() -> None:
    left, top, width, height = sample_crop(300, 10, View(area=[0.9, 1.0]), _rng())
    assert (width, height, top) == (13, 10, 0)
    assert left == (300 - 13) // 2


def test_probabilities() -> None:
    gradient = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
    image = Image.fromarray(np.stack([gradient, gradient // 2, 255 - gradient], axis=2))
    whole = {"area": [1.0, 1.0], "aspect": [1.0, 1.0]}

    def share(**changes: float) -> float:
        view, rng = View(**{**whole, "flip": 0.0, **changes}), _rng(1)
        plain = to_tensor(image)
        made = (to_tensor(make_view(image, view, 32, rng)) for _ in range(400))
        return float(np.mean([not torch.equal(view, plain) for view in made]))

    assert share() == 0.0
    assert share(flip=0.5) == pytest.approx(0.5, abs=0.07)
    assert share(grayscale=0.2) == pytest.approx(0.2, abs=0.06)
    assert share(solarize=0.2) == pytest.approx(0.2, abs=0.06)


def _noise(side: int = 40) -> Image.Image:
    return Image.fromarray(_rng(3).integers(256, size=(side, side, 3), dtype=np.uint8))


_WHOLE = {"area": [1.0, 1.0], "aspect": [1.0, 1.0], "flip": 0.0}


def test_operations_are_done_in_the_order_given() -> None:
    image = _noise()
    changes = {"grayscale": 1.0, "solarize": 1.0, "solarize_threshold": 100}
    first = View(**_WHOLE, **changes, order=["crop", "solarize", "grayscale"])
    last = View(**_WHOLE, **changes, order=["crop", "grayscale", "solarize"])
    gray = image.convert("L").convert("RGB")
    assert make_view(image, last, 40, _rng()) == ImageOps.solarize(gray, 100)
    assert make_view(image, first, 40, _rng()) == ImageOps.solarize(image, 100).convert(
        "L"
    ).convert("RGB")


def test_a_late_flip_mirrors_what_an_early_one_does() -> None:
    image = _noise()
    view = View(area=[0.3, 0.6], flip=1.0, order=["crop", "flip"])
    unflipped = make_view(image, View(area=[0.3, 0.6], flip=0.0, order=["crop"]), 24, _rng())
    assert make_view(image, view, 24, _rng()) == ImageOps.mirror(unflipped)


def test_an_operation_left_out_of_the_order_draws_nothing() -> None:
    image = _noise()
    short = View(**_WHOLE, solarize=0.5, order=["crop", "solarize"])
    for seed in range(20):
        rng = _rng(seed)
        sample_crop(40, 40, short, rng)
        solarized = rng.random() < 0.5
        assert (make_view(image, short, 40, _rng(seed)) != image) == solarized


def test_an_operation_that_the_order_forgets_is_an_error() -> None:
    with pytest.raises(ValidationError, match="order: blur is missing"):
        View(**_WHOLE, blur=Blur(probability=0.5), order=["crop"])
    with pytest.raises(ValidationError, match="order: crop is missing"):
        View(**_WHOLE, order=["solarize"])
    with pytest.raises(ValidationError, match="order: crop is listed twice"):
        View(**_WHOLE, order=["crop", "crop"])


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_a_blur_of_nine_taps_is_torchvisions(sigma: float) -> None:
    image = _noise()
    blur = Blur(probability=1.0, sigma=[sigma, sigma], kernel=9)
    ours = to_tensor(make_view(image, View(**_WHOLE, blur=blur), 40, _rng())).int()
    theirs = to_tensor(F.gaussian_blur(image, [9, 9], [sigma, sigma])).int()
    assert (ours - theirs).abs().max() <= 1  # rounding of halves
    assert (ours != theirs).float().mean() < 0.01


def test_a_blur_of_a_tenth_is_black_beyond_the_edge() -> None:
    """SimCLR: an image of 224 px has 22 // 2 = 11 taps to each side."""
    white = Image.new("RGB", (224, 224), (255, 255, 255))
    blur = Blur(probability=1.0, sigma=[2.0, 2.0], kernel="tenth")
    blurred = to_tensor(make_view(white, View(**_WHOLE, blur=blur), 224, _rng()))
    taps = [math.exp(-(x**2) / 8) for x in range(-11, 12)]
    for column in (0, 5, 10):
        inside = sum(taps[11 - column :]) / sum(taps)
        assert abs(int(blurred[0, 112, column]) - 255 * inside) <= 1
    assert blurred[0, 112, 11] == 255


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValidationError, match="kernel 8 is even"):
        Blur(probability=0.5, kernel=8)


def test_colours_without_a_change_of_hue_are_those_of_the_other_three() -> None:
    image = _noise()
    unchanged = Jitter(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
    assert make_view(image, View(**_WHOLE, jitter=unchanged), 40, _rng()) == image


def test_centre_crop() -> None:
    image = Image.new("RGB", (200, 100))
    image.paste((255, 0, 0), (90, 40, 110, 60))
    crop = centre_crop(image, 50, 0.5)
    assert crop.size == (50, 50)
    assert crop.getpixel((25, 25)) == (255, 0, 0)
    assert centre_crop(Image.new("RGB", (64, 64)), 64, 1.0).size == (64, 64)


def test_normalise() -> None:
    images = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    out = normalise(images, [0.5, 0.25, 0.0], [0.5, 0.25, 1.0])
    assert out[0, :, 0, 0].tolist() == [1.0, 3.0, 1.0]


def test_a_second_image_is_of_the_same_crop() -> None:
    ramp = np.tile(np.arange(120, dtype=np.uint8) * 2, (90, 1))
    image = Image.fromarray(np.stack([ramp, ramp, 255 - ramp], axis=2))
    view = View(
        area=[0.2, 0.6],
        order=["jitter", "flip", "crop"],
        jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0),
        second=SecondImage(size=16, interpolation="lanczos"),
    )
    rng = _rng(3)
    for _ in range(5):
        first, second = make_views(image, [view], 32, rng)
        assert (first.shape, second.shape) == ((3, 32, 32), (3, 16, 16))
        # A horizontal ramp: halving it takes means of neighbours, but for what the filters do at
        # the edges.
        halved = first.float().view(3, 16, 2, 16, 2).mean(dim=(2, 4))
        assert (halved - second)[:, :, 1:-1].abs().max() < 3
    crops = {tuple(make_views(image, [view], 8, rng)[0].flatten().tolist()) for _ in range(5)}
    assert len(crops) == 5
