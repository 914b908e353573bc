"""Drop path by rows: exactly so many of them, scaled, and computed on them alone."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from steps.models import row_drop
from steps.models.tokens import encode


def test_rates_and_counts() -> None:
    assert row_drop.rates(3, 0.4, uniform=True) == [0.4, 0.4, 0.4]
    assert row_drop.rates(3, 0.4, uniform=False) == pytest.approx([0.0, 0.2, 0.4])
    assert row_drop.kept_rows(5, 0.4) == 3
    # 10 * (1 - 0.9) is 0.99…98 in binary.
    assert row_drop.kept_rows(10, 0.9) == 1
    assert row_drop.kept_rows(2, 0.9) == 1


def test_each_branch_keeps_its_own_exact_share() -> None:
    gates = row_drop.sample([0.0, 0.25], 16, torch.Generator().manual_seed(0))
    assert torch.equal(gates[:, :2], torch.ones(16, 2))
    for branch in (2, 3):
        kept = gates[:, branch] != 0
        assert kept.sum().item() == 12
        assert torch.equal(gates[kept, branch], torch.full((12,), 16 / 12))
    assert not torch.equal(gates[:, 2], gates[:, 3])


def _vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=0,
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=2,
        num_heads=2,
        init_values=0.5,
    )


def test_open_gates_are_the_plain_transformer() -> None:
    vit, tokens = _vit(), torch.randn(3, 5, 16)
    gated = row_drop.encode(vit, tokens, torch.ones(3, 4))
    torch.testing.assert_close(gated, encode(vit, tokens))


def test_a_gate_scales_its_branch_and_nothing_sees_dropped_rows() -> None:
    vit, tokens = _vit(), torch.randn(3, 5, 16)
    gates = torch.tensor([[1.5, 0, 0, 0], [0, 0, 0, 0], [1.5, 0, 0, 0]])
    seen: list[Tensor] = []
    vit.blocks[0].attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out = row_drop.encode(vit, tokens, gates)
    block = vit.blocks[0]
    expected = tokens + 1.5 * block.ls1(block.attn(block.norm1(tokens)))
    torch.testing.assert_close(out[[0, 2]], expected[[0, 2]])
    assert torch.equal(out[1], tokens[1])
    assert [len(rows) for rows in seen[:1]] == [2]


def test_a_process_without_a_kept_row_still_gives_every_weight_a_gradient() -> None:
    vit = _vit()
    out = row_drop.encode(vit, torch.randn(2, 5, 16), torch.zeros(2, 4))
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in vit.blocks.parameters())
