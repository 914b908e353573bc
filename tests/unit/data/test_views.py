"""Distributions of view parameters, and their application."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from steps.data.views import centre_crop, make_view, normalise, sample_crop, to_tensor
from steps.params.views import View


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
