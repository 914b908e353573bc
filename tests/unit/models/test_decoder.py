"""Decoders have the sizes that their params say."""

from __future__ import annotations

import pytest
import torch

from steps.models.masked_autoencoder import Decoder
from steps.params.methods.method import Decoder as Params


@pytest.mark.parametrize(("ratio", "hidden"), [(4.0, 64), (3.0, 48), (2.6, 41)])
def test_hidden_width(ratio: float, hidden: int) -> None:
    params = Params(embed_dim=16, depth=2, num_heads=2, mlp_ratio=ratio)
    decoder = Decoder(params, encoder_dim=24, out_dim=5)
    assert [block.mlp.fc1.out_features for block in decoder.blocks] == [hidden, hidden]
    assert decoder(torch.zeros(3, 7, 24)).shape == (3, 7, 5)


def test_the_ratio_is_four_where_nothing_is_said() -> None:
    assert Params(embed_dim=16, depth=1, num_heads=2).mlp_ratio == 4.0
