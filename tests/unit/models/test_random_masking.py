"""Random masking and pixels of patches."""

from __future__ import annotations

import pytest
import torch

from steps.command import UserError
from steps.models.masked_autoencoder import images_of, patch_pixels, pixel_targets
from steps.models.masks import gather_tokens, num_visible, random_masking


@pytest.mark.parametrize(
    ("patches", "ratio", "count"),
    [(196, 0.75, 49), (100, 0.9, 9), (25, 0.75, 6), (36, 0.0, 36), (9, 1.0, 0)],
)
def test_kept_is_the_integer_part_of_the_product(patches: int, ratio: float, count: int) -> None:
    assert num_visible(patches, ratio) == count
    assert random_masking(torch.rand(2, patches), ratio).keep.shape == (2, count)


def test_keeping_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="keeps 0 of 9 patches"):
        num_visible(9, 0.9, least=1)


def test_the_smallest_noise_stays_in_its_order() -> None:
    masking = random_masking(torch.tensor([[0.9, 0.1, 0.5, 0.3]]), 0.5)
    assert masking.keep.tolist() == [[1, 3]]
    assert masking.removed.tolist() == [[True, False, True, False]]
    tokens = torch.arange(8.0).view(1, 4, 2)
    assert gather_tokens(tokens, masking.keep).tolist() == [[[2.0, 3.0], [6.0, 7.0]]]


def test_restore_puts_tokens_back() -> None:
    tokens = torch.rand(3, 16, 5)
    masking = random_masking(torch.rand(3, 16), 0.0)
    torch.testing.assert_close(
        gather_tokens(gather_tokens(tokens, masking.keep), masking.restore), tokens
    )


def test_patch_pixels_are_in_the_order_of_row_column_channel() -> None:
    images = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    pixels = patch_pixels(images, 2)
    assert pixels.shape == (2, 4, 12)
    # The second patch of the first image: columns 2 and 3 of rows 0 and 1.
    assert pixels[0, 1].tolist() == [2, 18, 34, 3, 19, 35, 6, 22, 38, 7, 23, 39]
    torch.testing.assert_close(images_of(pixels, 2), images)


def test_normalised_targets_have_mean_zero_and_unit_variance() -> None:
    targets = pixel_targets(torch.randn(2, 3, 16, 16) * 5 + 2, 8, normalised=True)
    torch.testing.assert_close(targets.mean(dim=2), torch.zeros(2, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(targets.var(dim=2), torch.ones(2, 4), atol=1e-4, rtol=0)


def test_a_flat_patch_has_finite_targets() -> None:
    assert (pixel_targets(torch.ones(1, 3, 8, 8), 8, normalised=True) == 0).all()
