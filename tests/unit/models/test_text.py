"""The text tower: what a caption's feature depends on."""

from __future__ import annotations

import pytest
import torch

from steps.models.text import TextTower
from steps.params.text import TextTransformer

VOCABULARY = 20


def _tower(**params: object) -> TextTower:
    torch.manual_seed(0)
    sizes = {"context_length": 6, "width": 16, "depth": 2, "num_heads": 2}
    return TextTower(TextTransformer(**{**sizes, **params}), VOCABULARY)


@pytest.mark.parametrize("causal", [True, False])
def test_a_feature_is_read_at_the_end_token(causal: bool) -> None:
    tower = _tower(causal=causal)
    rows = torch.tensor([[18, 3, 5, 19, 0, 0], [18, 3, 5, 19, 7, 2], [18, 4, 5, 19, 0, 0]])
    feature, padded, other = tower(rows)
    assert feature.shape == (16,)
    after_the_end = (feature - padded).abs().max().item()
    assert (after_the_end < 1e-6) == causal
    assert (feature - other).abs().max() > 1e-3, "tokens before the end count"


def test_order_counts() -> None:
    one, two = _tower()(torch.tensor([[18, 3, 5, 19, 0, 0], [18, 5, 3, 19, 0, 0]]))
    assert (one - two).abs().max() > 1e-4


def test_activation_is_an_option() -> None:
    ids = torch.tensor([[18, 3, 5, 19, 0, 0]])
    quick, exact = _tower(activation="quick_gelu"), _tower(activation="gelu")
    quick.load_state_dict(exact.state_dict())
    assert (quick(ids) - exact(ids)).abs().max() > 1e-6
